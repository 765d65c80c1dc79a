"""Episodes of Match as animated GIFs."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.scripted_policies import Act


def film(
    world: Match, player: Callable[..., Act], rng: np.random.Generator | int, scale: int = 16
) -> list[np.ndarray]:
    """Frames of one episode, from the first state to the last, each uint8 (height, width, 3).

    Parameters
    ----------
    world : Match
        It is reset; the frames are those of its first episode.
    player : callable
        A policy, as for :func:`gatecore.tasks.environments.scripted_policies.play`.
    rng : numpy.random.Generator or int
        The source of the environment's and the policy's random numbers.
    scale : int
        Pixels per cell.

    Examples
    --------
    >>> from gatecore.tasks.environments.scripted_policies import perfect
    >>> frames = film(Match(1, phases=(2, 3, 15)), perfect, rng=0)
    >>> len(frames), frames[0].shape
    (21, (112, 176, 3))
    """
    rng = np.random.default_rng(rng)
    world.reset(rng)
    act = player(world)
    frames, over = [world.render(scale=scale)], False
    while not over:
        ended = world.advance(act(rng))[1]
        frames.append(world.render(scale=scale))
        over = bool(ended[0])
        world.renew(np.flatnonzero(ended))
    return frames


def save_gif(
    path: str | os.PathLike[str], pictures: Sequence[np.ndarray], seconds: float = 0.12
) -> None:
    """Write an animated GIF in the exact colours of its frames. Needs pillow.

    Parameters
    ----------
    path : path
    pictures : sequence of uint8 arrays (height, width, 3)
        Frames of one shape, with at most 256 colours altogether.
    seconds : float
        Duration of a frame.

    Raises
    ------
    ValueError
        No frames, frames of different shapes, or too many colours.
    """
    from PIL import Image

    if not len(pictures):
        raise ValueError("pictures must be at least one, got none")
    if len(shapes := {np.shape(picture) for picture in pictures}) > 1:
        raise ValueError(f"pictures must have one shape, got {sorted(shapes)}")
    stack = np.stack(pictures)
    colours, indices = np.unique(stack.reshape(-1, 3), axis=0, return_inverse=True)
    if len(colours) > 256:
        raise ValueError(f"pictures must have at most 256 colours, got {len(colours)}")
    frames = []
    for indexed in indices.reshape(stack.shape[:3]).astype(np.uint8):
        frames.append(Image.fromarray(indexed))
        frames[-1].putpalette(colours.astype(np.uint8).tobytes())
    duration = round(1000 * seconds)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
