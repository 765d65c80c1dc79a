"""Recurrent cells for flax nnx, and ``GateUnit``, a layer of gates."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.common.validation import gate_slots
from gatecore.backends.jax import scan
from gatecore.backends.jax.arguments import as_array, widened
from gatecore.backends.jax.parameters import biases, weight
from gatecore.cells import CELLS, Cell, Minimal
from gatecore.mechanisms import Mechanism, mechanism

Array = jax.Array
Initializer = Callable[..., Array]
_mechanism = mechanism  # arguments of this name hide the function
_SIGMOIDS = (nnx.sigmoid, jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (nnx.tanh, jnp.tanh, jax.lax.tanh)
_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class RecurrentCell(nnx.RNNCellBase):
    """The base of the three cells, with flax's constructor keywords and ``mechanism``.

    The parameters are packed as everywhere in gatecore: ``weight_ih`` (rows, input), ``weight_hh``
    (rows, hidden), ``bias`` (rows,), and for the GRU ``bias_n`` (hidden,). ValueError for another
    ``gate_fn`` or ``activation_fn``, and for sizes that the mechanism refuses.

    ``gate_fn`` and ``activation_fn`` are only the sigmoid and tanh: another function has no
    complement for a gate to carry. ``kernel_init`` and ``recurrent_kernel_init`` are called for
    each slot with shape (inputs, width), by default U(−1/√d, 1/√d); ``bias_init`` with (rows,), by
    default the mechanism's biases. ``dtype`` is that of the products, ``param_dtype`` of the
    parameters; gates and carry are float32 at least. Other keywords are as in flax's cells.
    """

    core: str

    def __init__(
        self, in_features: int, hidden_features: int, *, mechanism: str | Mechanism = "UR",
        gate_fn: Callable[..., Any] = nnx.sigmoid, activation_fn: Callable[..., Any] = nnx.tanh,
        kernel_init: Initializer | None = None, recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None, dtype: Any = None, param_dtype: Any = jnp.float32,
        carry_init: Initializer | None = None,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype, keep_rngs: bool = False,
        rngs: nnx.Rngs, kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        recurrent_kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
    ) -> None:  # fmt: skip
        functions = (("gate_fn", gate_fn, _SIGMOIDS), ("activation_fn", activation_fn, _TANHS))
        for name, function, supported in functions:
            if function not in supported:
                raise ValueError(f"{name} must stay {supported[0].__name__}, got {function!r}: the "
                                 "gates are the mechanism's, and carry their complement; choose "
                                 "another mechanism instead")  # fmt: skip
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be an nnx.Rngs, got {type(rngs).__name__}: nnx.Rngs(seed)")
        self.in_features = in_features = _checks.integer("in_features", in_features)
        self.hidden_features = _checks.integer("hidden_features", hidden_features)
        hidden_features = self.hidden_features
        self.mechanism = _mechanism(mechanism)
        self.dtype, self.param_dtype, self.promote_dtype = dtype, param_dtype, promote_dtype
        self.carry_init = carry_init
        self.rngs = rngs.carry.fork() if keep_rngs else nnx.data(None)
        cell = self._cell
        for name, width, initializer, metadata in (
            ("weight_ih", in_features, kernel_init, kernel_metadata),
            ("weight_hh", hidden_features, recurrent_kernel_init, recurrent_kernel_metadata),
        ):
            value = _weight(cell, rngs.params(), width, initializer, param_dtype)
            setattr(self, name, nnx.Param(value, **metadata))
        if bias_init is None:
            bias = biases(cell, rngs.params(), param_dtype)
        else:
            bias = bias_init(rngs.params(), (cell.rows,), param_dtype)
        self.bias = nnx.Param(bias, **bias_metadata)
        if "bias_n" in cell.parameter_shapes():
            self.bias_n = nnx.Param(jnp.zeros(hidden_features, param_dtype), **bias_metadata)

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name, as ``lstm``, ``gru`` and ``minimal`` take them."""
        return {name: getattr(self, name)[...] for name in self._cell.parameter_shapes()}

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """One step: the new carry and the output (..., hidden), for inputs (..., input).

        The output has the type that inputs and parameters are promoted to; the carry is float32
        at least.
        """
        cell, params = self._cell, self.params
        inputs = as_array("inputs", inputs)
        if inputs.shape[-1:] != (cell.input_size,) or jnp.iscomplexobj(inputs):
            raise ValueError(f"inputs must be real of shape (..., {cell.input_size}), got "
                             f"{inputs.dtype} of shape {inputs.shape}")  # fmt: skip
        shape = (*inputs.shape[:-1], cell.hidden_size)
        parts = [as_array("carry", part) for part in cell.parts(carry, "carry")]
        if any(part.shape != shape or jnp.iscomplexobj(part) for part in parts):
            kinds = ", ".join(f"{part.dtype} of shape {part.shape}" for part in parts)
            raise ValueError(f"carry must be real of shape {shape}, got {kinds}")
        x, *values = self.promote_dtype((inputs, *params.values()), dtype=self.dtype)
        matrix, bias = scan.pack(cell, dict(zip(params, values, strict=True)))
        state = tuple(part.reshape(-1, shape[-1]).astype(bias.dtype) for part in parts[::-1])
        new, _ = scan.step(cell, matrix, bias, state, x.reshape(-1, x.shape[-1]))
        new = tuple(part.reshape(shape) for part in new)
        return cell.state(new[::-1]), new[0].astype(x.dtype)

    def initialize_carry(
        self, input_shape: tuple[int, ...], rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Any:  # fmt: skip
        """The initial carry: zeros, or drawn by ``carry_init``; each part (..., hidden).

        It is float32 at least. ValueError if ``carry_init`` is used without ``rngs`` here and
        without ``keep_rngs=True``.
        """
        shape = (*input_shape[:-1], self.hidden_features)
        dtype, names = widened(self.param_dtype), self._cell.state_names
        carry_init = carry_init or self.carry_init
        if carry_init is None:
            return self._cell.state([jnp.zeros(shape, dtype) for _ in names])
        stream = self.rngs if rngs is None else rngs
        stream = stream.carry if isinstance(stream, nnx.Rngs) else stream
        if stream is None:
            raise ValueError("rngs must be given to draw the carry with carry_init: pass "
                             "rngs=nnx.Rngs(seed), or make the cell with "
                             "keep_rngs=True")  # fmt: skip
        return self._cell.state([carry_init(stream(), shape, dtype) for _ in names])

    num_feature_axes = 1  # of the inputs, the axes that are not batch axes

    @property
    def _cell(self) -> Cell:
        """The cell as a value. Its states are carries in reverse: flax has (c, h)."""
        return CELLS[self.core](self.in_features, self.hidden_features, self.mechanism)


class LSTMCell(RecurrentCell):
    """An LSTM cell with any gate mechanism (equations 2-7, 9-15); carry (c, h), as flax's.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = LSTMCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> nnx.RNN(cell)(jnp.ones((2, 5, 3), jnp.float32)).shape  # (batch, time, features)
    (2, 5, 8)
    """

    core = "lstm"


class GRUCell(RecurrentCell):
    """A GRU cell, reset after the product, with any gate mechanism; carry h. See :func:`gru`.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = GRUCell(3, 8, rngs=nnx.Rngs(0))
    >>> carry, output = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3), jnp.float32))
    >>> output.shape
    (2, 8)
    """

    core = "gru"


class MinimalCell(RecurrentCell):
    """The minimal gated cell (footnote 4; JANET) with any gate mechanism; carry h.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = MinimalCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> cell.params["weight_ih"].shape  # forget, candidate and refine
    (24, 3)
    """

    core = "minimal"


class GateUnit(nnx.Module):
    """A layer of ``size`` gates with any mechanism (equations 10-12, 21-23), with their biases.

    For highway layers, gated linear units, attention, mixtures of experts. Called with logits
    (..., features) it returns a :class:`gatecore.Gate`: ``value`` and ``complement`` in [0, 1],
    (..., size), float32 at least. ``features`` is the number of logits: "UR" needs two for each
    gate (forget, refine), "standard" one. ValueError for a size that the mechanism refuses, and for
    logits with another number of entries; ``param_dtype`` is the type of the biases.

    >>> unit = GateUnit(8, "UR", rngs=nnx.Rngs(0))
    >>> logits = jnp.zeros((3, unit.features), jnp.float32)
    >>> carry, transform = unit(logits)  # a highway layer's two gates
    >>> carry.shape
    (3, 8)
    """

    def __init__(
        self, size: int, mechanism: str | Mechanism = "UR", *, param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.size, self.mechanism = _checks.integer("size", size), _mechanism(mechanism)
        cell = Minimal(1, self.size, self.mechanism)  # its input gate is not a slot
        initial = cell.split(biases(cell, rngs.params(), param_dtype))
        self.slots = tuple(gate_slots(self.mechanism, self.size).items())
        self.features = sum(width for _, width in self.slots)
        self.bias = nnx.Param(jnp.concatenate([initial[name] for name, _ in self.slots]))

    def __call__(self, logits: Array) -> Gate:
        """The effective gates (..., size) of logits (..., features)."""
        if logits.shape[-1] != self.features:
            slots = ", ".join(f"{name} {width}" for name, width in self.slots)
            raise ValueError(f"logits must have {self.features} entries along the last axis "
                             f"({slots}), got {logits.shape[-1]}: project to `features` of "
                             "them")  # fmt: skip
        wide = widened(logits.dtype)
        bias = self.bias[...].astype(wide).reshape((1,) * (logits.ndim - 1) + (-1,))
        return self.mechanism.gates(scan.split(self.slots, logits.astype(wide) + bias))[0]


def _weight(cell: Cell, key: Array, width: int, initializer: Any, dtype: Any) -> Array:
    """A matrix (rows, width), of which an ``initializer`` draws each slot separately."""
    if initializer is None:
        return weight(cell, key, width, dtype)
    keys = zip(jax.random.split(key, len(cell.slots)), cell.slots, strict=True)
    return jnp.concatenate([initializer(k, (width, n), dtype).T for k, (_, n) in keys])
