"""Where each slot of a cell stands in memory while a sequence runs.

Slots are regrouped so that one call activates all sigmoids: candidate first, then the sigmoid
gates whose complement is kept, the plain sigmoids, the ordered gates. The GRU's candidate has two
parts, of the input and of the state, which stand at the two ends: so the columns that multiply the
input weights, and those that multiply the recurrent weights, are one window each.
"""

import dataclasses
import functools

import numpy as np

from gatecore.cells import STATE_CANDIDATE, Cell
from gatecore.mechanisms import Mechanism

_PLAIN = ("output", "reset")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Columns of the (batch, columns) arrays of a step, and the row orders that lead there."""

    core: str
    mechanism: Mechanism
    hidden_size: int
    width: int  # of the whole array; the packed rows, and once more the hidden size for the GRU
    columns: dict[str, slice]
    complements: dict[str, slice]  # columns of the array of complements
    sigmoids: slice
    paired: int  # the first so many sigmoid columns keep their complement
    ordered: tuple[str, ...]  # the slots activated by cumax
    input_rows: np.ndarray  # row of the packed weights for each column of input_window
    state_rows: np.ndarray
    input_window: slice
    state_window: slice

    @property
    def complement_width(self) -> int:
        return max((part.stop for part in self.complements.values()), default=0)

    @property
    def ordered_width(self) -> int:
        return sum(self.columns[s].stop - self.columns[s].start for s in self.ordered)

    @property
    def tied(self) -> bool:
        return self.mechanism.tied(self.core)


def plan(cell: Cell) -> Plan:
    """The layout for a cell."""
    return _plan(cell.core, cell.mechanism, cell.hidden_size)


@functools.lru_cache(maxsize=64)
def _plan(core: str, mechanism: Mechanism, hidden_size: int) -> Plan:
    slots = dict(mechanism.slots(core, hidden_size))
    ordered = [s for s in mechanism.ordered_slots if s in slots]
    paired = [s for s in slots if s not in ordered and s not in (*_PLAIN, "candidate")]
    plain = [s for s in slots if s in _PLAIN]
    order = ["candidate", *paired, *plain, *ordered]
    columns, rows = _spans(order, slots), sum(slots.values())
    offset = hidden_size if core == "gru" else 0
    if offset:
        columns[STATE_CANDIDATE] = slice(rows, rows + offset)
    packed = _spans(list(slots), slots)
    input_rows = np.concatenate([np.arange(rows)[packed[s]] for s in order])
    return Plan(
        core=core,
        mechanism=mechanism,
        hidden_size=hidden_size,
        width=rows + offset,
        columns=columns,
        complements=_spans([*paired, *ordered], slots),
        sigmoids=slice(hidden_size, columns[[*paired, *plain][-1]].stop)
        if paired or plain
        else slice(hidden_size, hidden_size),
        paired=sum(slots[s] for s in paired),
        ordered=tuple(ordered),
        input_rows=input_rows,
        state_rows=np.roll(input_rows, -offset),
        input_window=slice(0, rows),
        state_window=slice(offset, offset + rows),
    )


def _spans(order: list[str], widths: dict[str, int]) -> dict[str, slice]:
    ends = np.cumsum([widths[s] for s in order]).tolist()
    return {s: slice(end - widths[s], end) for s, end in zip(order, ends, strict=True)}
