"""The table that tells a kernel about its sequence: ``Sequence`` of sequence.cuh, as a record."""

from typing import Any

import numpy as np

from gatecore.backends.common.layout import Layout

SIZES = (
    "time", "batch", "hidden", "width", "ordered_width", "downsize", "rows", "state_window",
)  # fmt: skip
COLUMNS = (
    "candidate", "forget", "input", "refine", "output", "reset", "master_forget", "master_input",
    "state_candidate",
)  # fmt: skip
SAVED = ("logits", "ordered", "hiddens", "cells")
GIVEN = ("keep", "zoneout_mask_cell", "zoneout_mask_hidden")
AMOUNTS = ("zoneout_cell", "zoneout_hidden")
RESULTS = ("outputs", "output_cells")
BETWEEN = ("state", "recurrent")
BACKWARD = (
    "d_outputs", "d_output_cells", "d_logits", "d_hidden", "d_cell", "d_recurrent", "through",
    "d_main",
)  # fmt: skip
FIELDS = (*SIZES, *COLUMNS, *SAVED, *GIVEN, *AMOUNTS, "bias", *RESULTS, *BETWEEN, *BACKWARD)

RECORD = np.dtype([(n, np.float64 if n in AMOUNTS else np.int64) for n in FIELDS])


def blank(layout: Layout, steps: tuple[int, int]) -> np.ndarray:
    """A record (1,) with sizes and columns filled in, all pointers null."""
    record = np.zeros(1, RECORD)
    time, batch = steps
    sizes = {
        "time": time,
        "batch": batch,
        "hidden": layout.hidden_size,
        "width": layout.width,
        "ordered_width": layout.ordered_width,
        "downsize": layout.mechanism.downsize if layout.mechanism.auxiliary == "master" else 1,
        "rows": len(layout.state_rows),
        "state_window": layout.state_window.start,
    }
    for name, value in sizes.items():
        record[name] = value
    for slot in COLUMNS:
        record[slot] = layout.columns[slot].start if slot in layout.columns else -1
    return record


def fill(record: np.ndarray, pointer: Any, **arrays: Any) -> None:
    """Write the addresses of arrays that the kernels are to find; None is the null pointer.

    Raises
    ------
    ValueError
        An array whose memory is not in one piece.
    """
    for name, array in arrays.items():
        if array is not None and not array.flags.c_contiguous:
            raise ValueError(f"{name} must be contiguous")
        record[name] = 0 if array is None else pointer(array)
