"""Recurrent cells for Equinox, called as those of ``equinox.nn``."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from gatecore.backends.common.signature import check_recorded, decode, encode, signature
from gatecore.backends.jax import parameters, sequence
from gatecore.cells import CELLS, Cell, MinGRU
from gatecore.mechanisms import Mechanism

__all__ = ["GRUCell", "LSTMCell", "MinGRUCell", "MinimalCell"]

Array = jax.Array


class RecurrentCell(eqx.Module):
    """The base of the cells, with Equinox's constructor and call, ``mechanism``, ``layer_norm``.

    The parameters are ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,),
    and for the GRU ``bias_n`` (hidden,): with mechanism "standard" those of ``equinox.nn``. With
    ``layer_norm`` the products are normalized before the bias is added (Ba et al. 2016), with the
    gains ``norm_ih``, ``norm_hh`` (rows,), and for the LSTM ``norm_c`` and ``norm_c_bias``
    (hidden,). Those that a cell does not have are None. ``equations`` is the cell as a
    :class:`gatecore.cells.Cell`. ``code`` are numbers that record the computation in files:
    parameters of another mechanism or ``layer_norm``, as ``tree_deserialise_leaves`` may bring
    them, are refused with a ValueError when the cell is used. They are no arrays, and so not
    trained.
    """

    weight_ih: Array
    weight_hh: Array | None
    bias: Array
    bias_n: Array | None
    code: tuple[float, ...]  # in a file before the gains, which another cell may lack
    norm_ih: Array | None
    norm_hh: Array | None
    norm_c: Array | None
    norm_c_bias: Array | None
    equations: Cell = eqx.field(static=True)

    core: ClassVar[str]
    function: ClassVar[Callable[..., Any]]  # over a whole sequence

    def __init__(
        self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR", *,
        layer_norm: bool = False, dtype: Any = jnp.float32, key: Array,
    ) -> None:  # fmt: skip
        kind = CELLS[self.core]
        self._initialise(kind(input_size, hidden_size, mechanism, layer_norm), dtype, key)

    def _initialise(self, cell: Cell, dtype: Any, key: Array) -> None:
        params = parameters.init(
            key, cell.input_size, cell.hidden_size, cell.mechanism, core=cell.core,
            layer_norm=cell.layer_norm, dtype=dtype,
        )  # fmt: skip
        self.weight_ih, self.bias = params["weight_ih"], params["bias"]
        self.weight_hh, self.bias_n = params.get("weight_hh"), params.get("bias_n")
        self.norm_ih, self.norm_hh = params.get("norm_ih"), params.get("norm_hh")
        self.norm_c, self.norm_c_bias = params.get("norm_c"), params.get("norm_c_bias")
        self.equations, self.code = cell, tuple(encode(signature(cell.kind, cell.mechanism)))

    @property
    def mechanism(self) -> Mechanism:
        """The gate mechanism."""
        return self.equations.mechanism

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name, as ``lstm``, ``gru``, ``minimal`` and ``mingru`` take them."""
        cell = self.equations
        if not any(isinstance(n, jax.core.Tracer) for n in self.code):
            own, saved = signature(cell.kind, cell.mechanism), decode(map(float, self.code))
            check_recorded(saved, own, cell.mechanism, subject="the parameters are")
        return {name: getattr(self, name) for name in cell.parameter_shapes()}

    def __call__(self, input: Array, hidden: Any, *, key: Array | None = None) -> Any:
        """The state (h, c) or h after one step, from an input (input,) and a state.

        The parts of a state are (hidden,). ``key`` is ignored, as by Equinox's cells.
        """
        state = jax.tree.map(lambda part: part[None], hidden)
        _, state = self.scan(input[None, None], state, impl="reference")
        return jax.tree.map(lambda part: part[0], state)

    def scan(self, x: Array, state: Any = None, **settings: Any) -> tuple[Any, Any]:
        """The outputs (time, batch, hidden) over x (time, batch, input), and the last state.

        Faster than a scan of the cell. ``settings`` are those of :func:`gatecore.backends.jax.lstm`
        beside the mechanism, such as ``resets``.
        """
        return type(self).function(self.params, x, state, self.mechanism, **settings)


class LSTMCell(RecurrentCell):
    """An LSTM cell with any gate mechanism (equations 2-7, 9-15); state (h, c), as Equinox's.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = LSTMCell(3, 8, mechanism="UR", key=jax.random.key(0))
    >>> h, c = cell(jnp.ones(3, jnp.float32), (jnp.zeros(8, jnp.float32),) * 2)
    >>> h.shape
    (8,)
    >>> cell.scan(jnp.ones((5, 2, 3), jnp.float32))[0].shape
    (5, 2, 8)
    """

    core = "lstm"
    function = sequence.lstm


class GRUCell(RecurrentCell):
    """A GRU cell, reset after the product, with any gate mechanism; state h. See :func:`gru`.

    Parameters and errors: :class:`RecurrentCell`.
    """

    core = "gru"
    function = sequence.gru


class MinimalCell(RecurrentCell):
    """The minimal gated cell (footnote 4; JANET) with any gate mechanism; state h.

    Parameters and errors: :class:`RecurrentCell`.
    """

    core = "minimal"
    function = sequence.minimal


class MinGRUCell(RecurrentCell):
    """One step of :func:`gatecore.backends.jax.mingru` with any gate mechanism; state h.

    ``candidate`` is "linear" or "tanh". Other parameters and errors are those of
    :class:`RecurrentCell`; ``weight_hh`` and ``norm_hh`` are None.

    >>> cell = MinGRUCell(3, 8, mechanism="UR", key=jax.random.key(0))
    >>> cell(jnp.ones(3, jnp.float32), jnp.zeros(8, jnp.float32)).shape
    (8,)
    """

    core = "mingru"
    function = sequence.mingru

    def __init__(self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR", *,
                 candidate: str = "linear", layer_norm: bool = False, dtype: Any = jnp.float32,
                 key: Array) -> None:  # fmt: skip
        cell = MinGRU(input_size, hidden_size, mechanism, layer_norm, candidate=candidate)
        self._initialise(cell, dtype, key)

    def scan(self, x: Array, state: Any = None, **settings: Any) -> tuple[Any, Any]:
        return super().scan(x, state, candidate=self.equations.candidate, **settings)
