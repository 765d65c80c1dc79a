"""The colours of Match: fixed ones, and those that pads are drawn from."""

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


def resolve(colours: str | Sequence[tuple[int, int, int]] | None, pads: int) -> np.ndarray:
    """The colours that ``pads`` pads are drawn from, uint8 (colours, 3); see :class:`Match`.

    Raises
    ------
    ValueError
        An unknown name; triples that are not integers 0..255, occur twice or are in ``FIXED``; or
        fewer colours than pads.
    """
    if colours is None:
        colours = "primary" if pads <= len(NAMED["primary"]) else "palette"
    if isinstance(colours, str):
        colours = NAMED[_checks.choice("colours", colours, NAMED)]
    array = np.array(colours)
    integers = array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind in "iu"
    if not integers or array.min() < 0 or array.max() > 255:
        raise ValueError(f"colours must be triples of integers 0..255, got {colours!r}")
    if len(array) < pads:
        raise ValueError(
            f"colours must be at least {pads}, one for each pad, got {len(array)}; "
            "add some, or use fewer pads"
        )
    if len(np.unique(np.concatenate([array, FIXED]), axis=0)) < len(array) + len(FIXED):
        raise ValueError(
            f"colours must differ from each other and from {FIXED.tolist()}, which are floor, "
            f"wall, apple and player; got {colours!r}"
        )
    return array.astype(np.uint8)
