"""The arguments of one run of a layer over a sequence, and the cell of a signature."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatecore.backends.common.signature import core_settings
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism


class Call(NamedTuple):
    """One layer over a sequence."""

    cell: Cell
    x: Tensor  # (time, batch, input)
    # weight_ih, weight_hh (but of a MinGRU), bias and a GRU's bias_n, those of layer normalization;
    # perhaps bias_hh, which is added to bias, and weight_hr, a projection of the hidden state
    params: Mapping[str, Tensor]
    states: tuple[Tensor, ...] = ()  # initial (h,) or (h, c), each (batch, width); empty for zeros
    resets: Tensor | None = None  # bool (time, batch)
    # probabilities or masks (time, batch, hidden) of (cell, hidden) or (hidden,); None if all are 0
    zoneout: tuple[Any, ...] | None = None
    return_cells: bool = False  # whether the cell states of all steps are returned, too

    @property
    def num_outputs(self) -> int:
        """Number of states that are returned for all steps."""
        return 2 if self.return_cells else 1

    @property
    def num_results(self) -> int:
        """Number of outputs and last states."""
        return self.num_outputs + len(self.cell.state_names)

    @property
    def requires_grad(self) -> bool:
        """Whether a backward pass may follow."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in self.tensors())

    def complete(self) -> "Call":
        """The same call with one bias and with initial states."""
        projection = self.params.get("weight_hr")
        width = 0 if projection is None else projection.shape[0]
        states = self.states or zero_states(self.cell, self.x, width)
        return self._replace(params=add_biases(self.params), states=states)

    def sources(self, wrt_x: bool) -> list[Tensor]:
        """The tensors that have a gradient: x if ``wrt_x``, the parameters, the states."""
        return [*([self.x] if wrt_x else []), *self.params.values(), *self.states]

    def tensors(self) -> list[Tensor]:
        """All tensors: the sources, resets, zoneout masks."""
        resets = () if self.resets is None else (self.resets,)
        masks = (z for z in self.zoneout or () if isinstance(z, Tensor))
        return [*self.sources(True), *resets, *masks]

    def named(self) -> dict[str, Sequence[Any]]:
        """The tensors of each argument, and perhaps probabilities or None."""
        params = {name: (value,) for name, value in self.params.items()}
        rest = {"state": self.states, "resets": (self.resets,), "zoneout": self.zoneout or ()}
        return {"x": (self.x,), **params, **rest}

    def with_tensors(self, tensors: Iterable[Tensor]) -> "Call":
        """The same call of other tensors, in the order of :meth:`tensors`."""
        rest = iter(tensors)
        x, params = next(rest), {name: next(rest) for name in self.params}
        states = tuple(next(rest) for _ in self.states)
        resets = None if self.resets is None else next(rest)
        zoneout = tuple(next(rest) if isinstance(z, Tensor) else z for z in self.zoneout or ())
        return Call(self.cell, x, params, states, resets, zoneout or None, self.return_cells)


def add_biases(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The cell's parameters, which have one bias."""
    summed = dict(params)
    if "bias_hh" in summed:
        summed["bias"] = summed["bias"] + summed.pop("bias_hh")
    return summed


def active(zoneout: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """``zoneout``, or None if all are 0."""
    if zoneout is None or all(not isinstance(z, Tensor) and z == 0 for z in zoneout):
        return None
    return zoneout


def zero_states(cell: Cell, x: Tensor, proj_size: int = 0) -> tuple[Tensor, ...]:
    """Initial states of zeros, no two the same tensor: torch's scan forbids aliases."""
    widths = (proj_size or cell.hidden_size, cell.hidden_size)[: len(cell.state_names)]
    return tuple(x.new_zeros(x.shape[1], width) for width in widths)


@functools.lru_cache(maxsize=256)
def cell_of(signature: str, input_size: int, hidden_size: int) -> Cell:
    """A cell of this signature."""
    name, activation, kind, downsize = signature.split()
    core, settings = core_settings(name)
    tied = kind != "untied"
    mechanism = Mechanism(
        name=signature, activation=activation, auxiliary=kind if tied else "refine", tied=tied,
        downsize=int(downsize),
    )  # fmt: skip
    return CELLS[core](input_size, hidden_size, mechanism, **settings)
