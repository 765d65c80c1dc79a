"""The flat arguments of the sequence operation, gathered."""

from typing import Any, NamedTuple

from torch import Tensor

from gatecore.backends.torch.computation import cell_of
from gatecore.cells import Cell


class Arguments(NamedTuple):
    """What one call of the operation computes from.

    cells : whether the cell states of all steps are returned beside the hidden ones
    """

    cell: Cell
    x: Tensor
    params: dict[str, Tensor]
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
        params = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias": bias}
        params |= {} if bias_n is None else {"bias_n": bias_n}
        amounts = (
            kept_cell if drawn_cell is None else drawn_cell,
            kept_hidden if drawn_hidden is None else drawn_hidden,
        )
        used = amounts if memory is not None else amounts[1:]
        idle = all(not isinstance(a, Tensor) and a == 0 for a in used)
        return cls(
            cell=cell_of(computation, int(x.shape[2]), int(weight_hh.shape[1])),
            x=x,
            params=params,
            states=(hidden,) if memory is None else (hidden, memory),
            resets=resets,
            zoneout=None if idle else used,
            cells=cells,
        )
