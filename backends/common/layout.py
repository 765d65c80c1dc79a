"""The columns of a cell's slots in the arrays of a time step.

Slots are regrouped so that one call activates all sigmoids: candidate first, then the sigmoid
gates whose complement is computed too, the plain sigmoids, the ordered gates. The GRU's candidate
has two parts, of the input and of the state, at the two ends: so the columns that multiply the
input weights, and those that multiply the recurrent weights, are one window each.
"""

import dataclasses
import functools

import numpy as np

from gatecore.cells import STATE_CANDIDATE, Cell
from gatecore.mechanisms import Mechanism

_PLAIN = ("output", "reset")


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Columns of a step's arrays (batch, width), and the rows of the packed weights for them."""

    cell: Cell
    core: str
    mechanism: Mechanism
    hidden_size: int
    tied: bool
    width: int  # the packed rows, and for the GRU once more the hidden size
    columns: dict[str, slice]  # of each slot
    complements: dict[str, slice]  # columns of each gate in the array of complements
    complement_width: int
    sigmoids: slice  # columns of the sigmoid gates, of which the first ``paired`` have complements
    paired: int
    ordered: tuple[str, ...]  # the slots that cumax activates, in the last columns
    ordered_width: int
    input_rows: np.ndarray  # the row of the packed weights for each column of input_window
    state_rows: np.ndarray
    input_window: slice
    state_window: slice
    product_window: slice  # columns of the recurrent products in the backward pass's array
    scratch_width: int  # the width of that array


@functools.lru_cache(maxsize=64)
def layout_of(cell: Cell) -> Layout:
    """The layout of a cell."""
    slots, hidden = dict(cell.slots), cell.hidden_size
    ordered = [s for s in cell.mechanism.ordered_slots if s in slots]
    plain = [s for s in slots if s in _PLAIN]
    paired = [s for s in slots if s not in (*ordered, *plain, "candidate")]
    order = ["candidate", *paired, *plain, *ordered]
    columns, packed = spans(order, slots), slot_rows(cell)
    paired_width, plain_width, ordered_width = (
        sum(slots[s] for s in part) for part in (paired, plain, ordered)
    )
    offset = hidden if "bias_n" in cell.parameter_shapes() else 0
    if offset:
        columns[STATE_CANDIDATE] = slice(cell.rows, cell.rows + offset)
    # normalized products have cotangents of their own, after those of the logits
    first = cell.rows + offset if cell.layer_norm and cell.recurrent else offset
    input_rows = np.concatenate([np.arange(cell.rows)[packed[s]] for s in order])
    return Layout(
        cell=cell, core=cell.core, mechanism=cell.mechanism, hidden_size=hidden,
        tied=cell.mechanism.ties_gates(cell.core), width=cell.rows + offset, columns=columns,
        complements=spans([*paired, *ordered], slots),
        complement_width=paired_width + ordered_width,
        sigmoids=slice(hidden, hidden + paired_width + plain_width), paired=paired_width,
        ordered=tuple(ordered), ordered_width=ordered_width,
        input_rows=input_rows, state_rows=np.roll(input_rows, -offset),
        input_window=slice(0, cell.rows), state_window=slice(offset, offset + cell.rows),
        product_window=slice(first, first + cell.rows),
        scratch_width=max(cell.rows + offset, first + cell.rows),
    )  # fmt: skip


def slot_rows(cell: Cell) -> dict[str, slice]:
    """The rows of each slot in the packed weights and biases."""
    return spans([name for name, _ in cell.slots], dict(cell.slots))


def spans(order: list[str], widths: dict[str, int]) -> dict[str, slice]:
    """The columns of slots of these widths that follow each other in this order."""
    ends = np.cumsum([widths[s] for s in order]).tolist()
    return {s: slice(end - widths[s], end) for s, end in zip(order, ends, strict=True)}
