"""Recurrent cells for flax linen, for ``flax.linen.RNN`` and ``flax.linen.scan``."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen

from gatecore.backends.common.signature import STANDARD_SIGNATURES, mechanism_names
from gatecore.backends.jax import flax_weights
from gatecore.backends.jax.arguments import widened
from gatecore.backends.jax.cell_step import carry_step, check_functions, initial
from gatecore.backends.jax.states import bias_name, check_name, recorded
from gatecore.cells import CELLS, Cell, MinGRU
from gatecore.mechanisms import Mechanism, mechanism

__all__ = ["GRUCell", "LSTMCell", "MinGRUCell", "MinimalCell", "from_flax", "to_flax"]

Array = jax.Array
Initializer = Callable[..., Array]
_mechanism = mechanism  # a field of this name hides the function


class RecurrentCell(linen.RNNCellBase):
    """The base of the cells, with the fields of flax's cells, ``mechanism`` and ``layer_norm``.

    The parameters are ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), for the GRU
    ``bias_n`` (hidden,), and the bias (rows,), which is named after the computation, as
    ``bias_lstm_sigmoid_refine_1``: parameters of another mechanism, or that differ in
    ``layer_norm``, are refused, but "standard", "U" and "C" compute the same. :meth:`packed`
    returns them as :func:`gatecore.backends.jax.lstm` takes them. With ``layer_norm`` the products
    are normalized before the bias is added (Ba et al. 2016; :class:`gatecore.cells.Cell`), with the
    gains ``norm_ih``, ``norm_hh`` (rows,), and for the LSTM ``norm_c`` and ``norm_c_bias``
    (hidden,). ValueError for another ``gate_fn`` or ``activation_fn`` than the sigmoid and tanh,
    for sizes that the mechanism refuses, and for inputs or carries that do not fit.

    ``kernel_init`` and ``recurrent_kernel_init`` are called for each gate projection with shape
    (inputs, width), by default U(−1/√d, 1/√d); ``bias_init`` with (rows,), by default the
    mechanism's biases. ``dtype`` is that of the products, ``param_dtype`` of the parameters; gates
    and initial carry are float32 at least. A new carry has the type of the old one.
    """

    features: int
    mechanism: str | Mechanism = "UR"
    gate_fn: Callable[..., Any] = linen.sigmoid
    activation_fn: Callable[..., Any] = linen.tanh
    kernel_init: Initializer | None = None
    recurrent_kernel_init: Initializer | None = None
    bias_init: Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32
    carry_init: Initializer = linen.initializers.zeros_init()
    layer_norm: bool = False

    core: ClassVar[str]
    num_feature_axes: ClassVar[int] = 1  # of the inputs, the axes that are not batch axes

    @linen.compact
    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """One step: the new carry and the output (..., features), for inputs (..., input)."""
        check_functions(self.gate_fn, self.activation_fn)
        cell = self._cell(jnp.shape(inputs)[-1])
        for name in self.variables.get("params", {}):
            check_name(name, cell.kind, cell.mechanism)
        inits = {"weight_ih": self.kernel_init, "weight_hh": self.recurrent_kernel_init,
                 "bias": self.bias_init}  # fmt: skip
        params = {}
        for name in cell.parameter_shapes():
            saved = bias_name(cell.kind, cell.mechanism) if name == "bias" else name
            draw = functools.partial(initial, cell, name)
            params[name] = self.param(saved, draw, inits.get(name), self.param_dtype)
        return carry_step(cell, params, carry, inputs, self._promote)

    @linen.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> Any:
        """The initial carry, drawn by ``carry_init``: each part (..., features), float32 at least.

        (c, h) for the LSTM, else h.
        """
        names = CELLS[self.core].state_names
        keys = jax.random.split(rng, len(names)) if len(names) > 1 else [rng]
        shape, dtype = (*input_shape[:-1], self.features), widened(self.param_dtype)
        parts = [self.carry_init(key, shape, dtype) for key in keys]
        return tuple(parts) if len(parts) > 1 else parts[0]

    @linen.nowrap
    def packed(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """The cell's entries of ``variables["params"]`` as the functions of sequences take them.

        >>> cell, x = GRUCell(8, "UR"), jnp.ones((5, 2, 3), jnp.float32)
        >>> carry = cell.initialize_carry(jax.random.key(0), x[0].shape)
        >>> params = cell.init(jax.random.key(1), carry, x[0])["params"]
        >>> from gatecore.backends.jax import gru
        >>> gru(cell.packed(params), x, mechanism="UR")[0].shape
        (5, 2, 8)
        """
        cell = self._cell(1)
        for name in params:
            check_name(name, cell.kind, cell.mechanism)
        own = bias_name(cell.kind, cell.mechanism)
        return {"bias" if name == own else name: value for name, value in params.items()}

    def _cell(self, input_size: int) -> Cell:
        """The cell as a value. Its states are carries in reverse: flax has (c, h)."""
        return CELLS[self.core](input_size, self.features, self.mechanism, self.layer_norm)

    def _promote(self, arrays: tuple[Any, ...]) -> list[Any]:
        return linen.dtypes.promote_dtype(*arrays, dtype=self.dtype)


class LSTMCell(RecurrentCell):
    """An LSTM cell with any gate mechanism (equations 2-7, 9-15); carry (c, h), as flax's.

    Fields, parameters and errors: :class:`RecurrentCell`.

    >>> rnn = linen.RNN(LSTMCell(8, "UR"))
    >>> x = jnp.ones((2, 5, 3), jnp.float32)  # (batch, time, features)
    >>> variables = rnn.init(jax.random.key(0), x)
    >>> rnn.apply(variables, x).shape
    (2, 5, 8)
    """

    core = "lstm"


class GRUCell(RecurrentCell):
    """A GRU cell, reset after the product, with any gate mechanism; carry h. See :func:`gru`.

    Fields, parameters and errors: :class:`RecurrentCell`.
    """

    core = "gru"


class MinimalCell(RecurrentCell):
    """The minimal gated cell (footnote 4; JANET) with any gate mechanism; carry h.

    Fields, parameters and errors: :class:`RecurrentCell`.
    """

    core = "minimal"


class MinGRUCell(RecurrentCell):
    """One step of :func:`gatecore.backends.jax.mingru` with any gate mechanism; carry h.

    ``candidate`` is "linear" or "tanh". Other fields, parameters and errors are those of
    :class:`RecurrentCell`, without ``weight_hh`` and ``norm_hh``; ValueError for a
    ``recurrent_kernel_init``.

    >>> rnn = linen.RNN(MinGRUCell(8, "UR"))
    >>> x = jnp.ones((2, 5, 3), jnp.float32)  # (batch, time, features)
    >>> rnn.apply(rnn.init(jax.random.key(0), x), x).shape
    (2, 5, 8)
    """

    core = "mingru"

    candidate: str = "linear"

    @linen.nowrap
    def _cell(self, input_size: int) -> Cell:
        if self.recurrent_kernel_init is not None:
            raise ValueError("recurrent_kernel_init must be None for a MinGRUCell, which has no "
                             f"recurrent weights, got {self.recurrent_kernel_init!r}")  # fmt: skip
        settings = self.mechanism, self.layer_norm
        return MinGRU(input_size, self.features, *settings, candidate=self.candidate)


def from_flax(params: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of parameters with those of flax's cells as our cells have them, for "standard".

    Those of linen's ``LSTMCell``, ``OptimizedLSTMCell`` and ``GRUCell`` are replaced, wherever in
    the tree; "U" and "C" take them, too. ValueError if there are none.

    >>> theirs, x = linen.RNN(linen.OptimizedLSTMCell(8)), jnp.ones((2, 5, 3), jnp.float32)
    >>> variables = theirs.init(jax.random.key(0), x)
    >>> ours = linen.RNN(LSTMCell(8, "standard"))
    >>> output = ours.apply({"params": from_flax(variables["params"])}, x)
    >>> bool(jnp.allclose(output, theirs.apply(variables, x), atol=1e-6))
    True
    """

    def packed(tree: Mapping[str, Any]) -> dict[str, Any] | None:
        if (found := flax_weights.packed(tree)) is None:
            return None
        core, values = found
        name = bias_name(core, _mechanism("standard"))
        return {name if key == "bias" else key: value for key, value in values.items()}

    return _replaced(params, packed, "of flax's LSTMCell, OptimizedLSTMCell or GRUCell")


def to_flax(params: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`from_flax`, for linen's cells.

    ValueError if there are no cells of ours, or one of a mechanism that flax's do not compute.
    """

    def unpacked(tree: Mapping[str, Any]) -> dict[str, Any] | None:
        name = next((name for name in tree if recorded(name)), None)
        if name is None:
            return None
        signature = recorded(name)
        core = signature.split()[0]
        if signature != STANDARD_SIGNATURES.get(core):
            raise ValueError(f"the parameters are of mechanism {mechanism_names(signature)} "
                             f"({signature}), which flax's cells do not compute: only 'standard', "
                             "'U' and 'C' of the LSTM and the GRU without layer_norm "
                             "convert")  # fmt: skip
        return flax_weights.unpacked(core, {**tree, "bias": tree[name]})

    return _replaced(params, unpacked, "of gatecore's cells")


def _replaced(params: Mapping[str, Any], replacement: Callable[..., Any], kinds: str) -> Any:
    """The tree with every subtree replaced for which there is a ``replacement``."""
    count = 0

    def visit(tree: Any) -> Any:
        nonlocal count
        if not isinstance(tree, Mapping):
            return tree
        if (new := replacement(tree)) is not None:
            count += 1
            return new
        return {name: visit(value) for name, value in tree.items()}

    result = visit(params)
    if not count:
        names = ", ".join(map(repr, params)) if isinstance(params, Mapping) else type(params)
        raise ValueError(f"params must hold the parameters {kinds}, got {names}")
    return result
