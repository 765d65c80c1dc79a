"""Episodes of Match as animated GIFs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.scripted_policies import Rng


def film(environment: Match, policy: Any, rng: Rng, scale: int = 16) -> list[np.ndarray]:
    """Frames of one episode, from the first state to the last, each uint8 (height, width, 3).

    ``environment`` is reset, and its first episode is shown. ``policy`` and ``rng``, the source of
    all random numbers, are as for
    :func:`gatecore.tasks.environments.scripted_policies.play`. A cell is ``scale`` pixels wide.

    >>> from gatecore.tasks.environments.scripted_policies import perfect
    >>> frames = film(Match(1, phases=(2, 3, 15)), perfect, rng=0)
    >>> len(frames), frames[0].shape
    (21, (112, 176, 3))
    """
    rng = np.random.default_rng(rng)
    environment.reset(rng)
    act = policy(environment)
    frames, over = [environment.render(scale=scale)], False
    while not over:
        ended = environment.advance(act(rng))[1]
        frames.append(environment.render(scale=scale))
        over = bool(ended[0])
        environment.renew(np.flatnonzero(ended))
    return frames


def save_gif(path: Path | str, pictures: Sequence[np.ndarray], seconds: float = 0.12) -> None:
    """Write an animated GIF in the exact colours of its frames, ``seconds`` each. Needs pillow.

    ``pictures`` are uint8 (height, width, 3). ValueError if there are none, their shapes differ, or
    they have more than 256 colours altogether.
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
