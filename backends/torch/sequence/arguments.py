"""The flat arguments of the sequence operation, gathered."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from gatecore.backends.torch.sequence.signature import cell_of, computation
from gatecore.cells import Cell

PARAMETERS = ("weight_ih", "weight_hh", "bias", "bias_n")  # the last is the GRU's


class Arguments(NamedTuple):
    """What one call of the operation computes from.

    params : those of ``PARAMETERS``, and perhaps ``bias_hh``, which is added to ``bias``
    states : before the first step; none for zeros
    zoneout : amounts of (cell, hidden) for an LSTM, else of the hidden state; None where all are 0
    cells : whether the cell states of all steps are returned beside the hidden ones
    """

    cell: Cell
    x: Tensor
    params: Mapping[str, Tensor]
    states: tuple[Tensor, ...]
    resets: Tensor | None
    zoneout: tuple[Any, ...] | None
    cells: bool

    @classmethod
    def of(
        cls,
        computation: str,
        x: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        bias_n: Tensor | None,
        hidden: Tensor,
        memory: Tensor | None,
        resets: Tensor | None,
        drawn_cell: Tensor | None,
        drawn_hidden: Tensor | None,
        kept_cell: float,
        kept_hidden: float,
        cells: bool,
    ) -> "Arguments":
        """From the operation's signature: draws of zoneout count before its constant amounts."""
        given = zip(PARAMETERS, (weight_ih, weight_hh, bias, bias_n), strict=True)
        params = {name: value for name, value in given if value is not None}
        amounts = (
            kept_cell if drawn_cell is None else drawn_cell,
            kept_hidden if drawn_hidden is None else drawn_hidden,
        )
        used = amounts if memory is not None else amounts[1:]
        return cls(
            cell=cell_of(computation, int(x.shape[2]), int(weight_hh.shape[1])),
            x=x,
            params=params,
            states=(hidden,) if memory is None else (hidden, memory),
            resets=resets,
            zoneout=None if idle(used) else used,
            cells=cells,
        )

    def complete(self) -> "Arguments":
        """The same with one bias, and states that are there."""
        own = added(self.params)
        params = {name: own[name] for name in PARAMETERS if name in own}
        states = self.states or zero_states(self.cell, self.x)
        return self._replace(params=params, states=states)

    def flat(self) -> tuple[Any, ...]:
        """What :meth:`of` takes, of complete arguments."""
        hidden, memory = self.states if len(self.states) == 2 else (*self.states, None)
        amounts = (0.0, 0.0, *(self.zoneout or ()))[-2:]
        drawn = [a if isinstance(a, Tensor) else None for a in amounts]
        kept = [0.0 if isinstance(a, Tensor) else float(a) for a in amounts]
        weights = map(self.params.get, PARAMETERS)
        name = computation(self.cell.core, self.cell.mechanism)
        return name, self.x, *weights, hidden, memory, self.resets, *drawn, *kept, self.cells

    @property
    def outputs(self) -> int:
        """How many states of all steps are returned."""
        return 2 if self.cells else 1

    @property
    def state_count(self) -> int:
        """How many states a step hands to the next."""
        return 2 if self.cell.core == "lstm" else 1

    def split(self) -> tuple[list[Tensor], Callable[[Iterable[Tensor]], "Arguments"]]:
        """All tensors, first x, the parameters and the states; and the same call of others."""
        cell, names, cells = self.cell, tuple(self.params), self.cells
        states, resets = self.states, () if self.resets is None else (self.resets,)
        amounts = [None if isinstance(a, Tensor) else a for a in self.zoneout or ()]
        drawn = (a for a in self.zoneout or () if isinstance(a, Tensor))
        started, reset = len(states), len(resets)

        def of(tensors: Iterable[Tensor]) -> Arguments:
            rest = iter(tensors)
            x, params = next(rest), {name: next(rest) for name in names}
            states = tuple(next(rest) for _ in range(started))
            resets = next(rest) if reset else None
            zoneout = tuple(next(rest) if a is None else a for a in amounts) or None
            return Arguments(cell, x, params, states, resets, zoneout, cells)

        return [self.x, *self.params.values(), *states, *resets, *drawn], of


def added(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The cell's own parameters, which have one bias."""
    own = dict(params)
    if "bias_hh" in own:
        own["bias"] = own["bias"] + own.pop("bias_hh")
    return own


def idle(zoneout: tuple[Any, ...]) -> bool:
    """Whether these amounts keep nothing."""
    return all(not isinstance(a, Tensor) and a == 0 for a in zoneout)


def zero_states(cell: Cell, x: Tensor, projected: int = 0) -> tuple[Tensor, ...]:
    """The states before the first step, no two the same tensor: a scan wants no aliases."""
    widths = (projected or cell.hidden_size, cell.hidden_size)[: 2 if cell.core == "lstm" else 1]
    return tuple(x.new_zeros(x.shape[1], width) for width in widths)
