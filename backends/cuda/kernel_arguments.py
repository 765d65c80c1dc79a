"""The kernels' arguments, ``Sequence`` of sequence.cuh, as a NumPy record."""

from typing import Any

import numpy as np

from gatecore.backends.common.layout import Layout

SIZES = (
    "time", "batch", "hidden", "width", "ordered_width", "downsize", "rows", "state_window",
)  # fmt: skip
SLOTS = (
    "candidate", "forget", "input", "refine", "refine_input", "output", "reset", "master_forget",
    "master_input", "state_candidate",
)  # fmt: skip
PROBABILITIES = ("zoneout_cell", "zoneout_hidden")
FIELDS = (
    *SIZES, *SLOTS, "logits", "ordered", "saved_hidden", "saved_cell", "resets",
    "zoneout_mask_cell", "zoneout_mask_hidden", *PROBABILITIES, "bias_n", "output_hidden",
    "output_cell", "state", "recurrent", "d_output_hidden", "d_output_cell", "d_logits", "d_hidden",
    "d_cell", "d_recurrent", "d_state", "d_main",
)  # fmt: skip
RECORD = np.dtype([(n, np.float64 if n in PROBABILITIES else np.int64) for n in FIELDS])


def record_of(layout: Layout, steps: tuple[int, int], pointer: Any, **fields: Any) -> np.ndarray:
    """The arguments (1,) for a sequence of (time, batch) steps: arrays by their ``pointer``.

    ``fields`` are arrays and probabilities by name; others are null and 0. ValueError if an array
    is not contiguous.
    """
    sizes = (
        *steps, layout.hidden_size, layout.width, layout.ordered_width,
        layout.mechanism.downsize if layout.mechanism.auxiliary == "master" else 1,
        len(layout.state_rows), layout.state_window.start,
    )  # fmt: skip
    record = np.zeros(1, RECORD)
    for name, size in zip(SIZES, sizes, strict=True):
        record[name] = size
    for slot in SLOTS:
        record[slot] = layout.columns[slot].start if slot in layout.columns else -1
    for name, value in fields.items():
        if name in PROBABILITIES:
            record[name] = value
        elif value is not None:
            if not value.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous, got strides {value.strides}")
            record[name] = pointer(value)
    return record
