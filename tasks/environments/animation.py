"""Games to look at: animated GIFs."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.scripted_policies import Act


def film(
    world: Match, player: Callable[..., Act], rng: np.random.Generator | int, scale: int = 16
) -> list[np.ndarray]:
    """Pictures of one game from its first sight to its last, each uint8 (height, width, 3).

    Parameters
    ----------
    world : Match
        It is reset; the pictures are those of its first game.
    player : callable
        As :func:`gatecore.tasks.environments.scripted_policies.play` takes it.
    rng : numpy.random.Generator or int
        What the world draws from, and the player.
    scale : int
        Pixels of a cell.
    """
    rng = np.random.default_rng(rng)
    world.reset(rng)
    act = player(world)
    pictures, over = [world.render(scale=scale)], False
    while not over:
        ended = world.advance(act(rng))[1]
        pictures.append(world.render(scale=scale))
        over = bool(ended[0])
        world.renew(np.flatnonzero(ended))
    return pictures


def save_gif(
    path: str | os.PathLike[str], pictures: Sequence[np.ndarray], seconds: float = 0.12
) -> None:
    """Write an animated GIF that shows each picture for ``seconds``, in their exact colours.

    Needs pillow.

    Parameters
    ----------
    pictures : sequence of uint8 arrays (height, width, 3)
        With at most 256 colours altogether.

    Raises
    ------
    ValueError
        No pictures, pictures of different shapes, or too many colours.
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
    for picture in indices.reshape(stack.shape[:3]).astype(np.uint8):
        frames.append(Image.fromarray(picture))
        frames[-1].putpalette(colours.astype(np.uint8).tobytes())
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=round(1000 * seconds), loop=0
    )
