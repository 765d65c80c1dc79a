"""The colours of Match: those of its things, and those that are to be remembered."""

from collections.abc import Sequence

import numpy as np

from gatecore import _checks

FIXED = np.array(
    [(204, 204, 204), (25, 25, 25), (140, 178, 0), (229, 149, 110)], np.uint8
)  # floor, wall, apple, player

NAMED = {
    "primary": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    "palette": [
        (0, 0, 0), (0, 0, 170), (0, 170, 0), (0, 170, 170), (170, 0, 0), (170, 0, 170),
        (170, 85, 0), (170, 170, 170), (85, 85, 85), (85, 85, 255), (85, 255, 85),
        (85, 255, 255), (255, 85, 85), (255, 85, 255), (255, 255, 85), (255, 255, 255),
    ],
}  # fmt: skip


def of(colours: str | Sequence[tuple[int, int, int]] | None, pads: int) -> np.ndarray:
    """The colours that those of ``pads`` pads are drawn from, uint8 (colours, 3).

    Parameters
    ----------
    colours : {"primary", "palette"} or sequence of (red, green, blue), optional
        By default ``"primary"`` if they suffice, else ``"palette"``.

    Raises
    ------
    ValueError
        Fewer colours than pads, one that occurs twice or belongs to something else, or one that is
        not three integers 0..255.
    """
    if colours is None:
        colours = "primary" if pads <= len(NAMED["primary"]) else "palette"
    if isinstance(colours, str):
        colours = NAMED[_checks.choice("colours", colours, NAMED)]
    told = np.array(colours)
    if told.ndim != 2 or told.shape[1] != 3 or told.dtype.kind not in "iu":
        raise ValueError(f"colours must be triples of integers 0..255, got {colours!r}")
    if told.min() < 0 or told.max() > 255:
        raise ValueError(f"colours must be triples of integers 0..255, got {colours!r}")
    if len(told) < pads:
        raise ValueError(f"colours must be at least {pads}, one for each pad, got {len(told)}")
    if len(np.unique(np.concatenate([told, FIXED]), axis=0)) < len(told) + len(FIXED):
        raise ValueError(
            f"colours must differ from each other and from {FIXED.tolist()}, which are floor, "
            f"wall, apple and player; got {colours!r}"
        )
    return told.astype(np.uint8)
