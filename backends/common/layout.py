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
    """Columns of the (batch, width) arrays of a step, and the rows of the packed weights for them.

    Attributes
    ----------
    width : int
        The packed rows, and for the GRU once more the hidden size.
    columns, complements : dict of slices
        Columns of each slot, and of each gate in the array of complements.
    sigmoids : slice
        Columns of the sigmoid gates, of which the first ``paired`` have complements.
    ordered : tuple of str
        The slots that cumax activates.
    input_rows, state_rows : int array
        For each column of ``input_window``, ``state_window`` the row of the packed weights.
    """

    cell: Cell
    width: int
    columns: dict[str, slice]
    complements: dict[str, slice]
    sigmoids: slice
    paired: int
    ordered: tuple[str, ...]
    input_rows: np.ndarray
    state_rows: np.ndarray
    input_window: slice
    state_window: slice

    @property
    def core(self) -> str:
        return self.cell.core

    @property
    def mechanism(self) -> Mechanism:
        return self.cell.mechanism

    @property
    def hidden_size(self) -> int:
        return self.cell.hidden_size

    @property
    def complement_width(self) -> int:
        return max((part.stop for part in self.complements.values()), default=0)

    @property
    def ordered_width(self) -> int:
        return sum(self.columns[s].stop - self.columns[s].start for s in self.ordered)

    @property
    def tied(self) -> bool:
        return self.mechanism.tied(self.core)


@functools.lru_cache(maxsize=64)
def layout_of(cell: Cell) -> Layout:
    """The layout of a cell."""
    slots, hidden = dict(cell.slots), cell.hidden_size
    ordered = [s for s in cell.mechanism.ordered_slots if s in slots]
    plain = [s for s in slots if s in _PLAIN]
    paired = [s for s in slots if s not in (*ordered, *plain, "candidate")]
    order = ["candidate", *paired, *plain, *ordered]
    columns, packed = _spans(order, slots), _spans(list(slots), slots)
    offset = hidden if cell.split_candidate else 0
    if offset:
        columns[STATE_CANDIDATE] = slice(cell.rows, cell.rows + offset)
    input_rows = np.concatenate([np.arange(cell.rows)[packed[s]] for s in order])
    return Layout(
        cell=cell,
        width=cell.rows + offset,
        columns=columns,
        complements=_spans([*paired, *ordered], slots),
        sigmoids=slice(hidden, hidden + sum(slots[s] for s in (*paired, *plain))),
        paired=sum(slots[s] for s in paired),
        ordered=tuple(ordered),
        input_rows=input_rows,
        state_rows=np.roll(input_rows, -offset),
        input_window=slice(0, cell.rows),
        state_window=slice(offset, offset + cell.rows),
    )


def _spans(order: list[str], widths: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum([widths[s] for s in order]).tolist()
    return {s: slice(end - widths[s], end) for s, end in zip(order, ends, strict=True)}
