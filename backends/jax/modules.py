"""Cells for flax nnx, and a gate for anything."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore.algebra import Gate
from gatecore.backends.jax import scan
from gatecore.backends.jax.sequence import biases
from gatecore.cells import CELLS, Cell, Minimal
from gatecore.mechanisms import Mechanism, mechanism

Array = jax.Array
Initializer = Callable[..., Array]
_mechanism = mechanism  # arguments of this name hide the function
_SIGMOIDS = (nnx.sigmoid, jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (nnx.tanh, jnp.tanh, jax.lax.tanh)
_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class RecurrentCell(nnx.RNNCellBase):
    """What the three cells share: flax's constructor keywords, and ``mechanism``.

    The parameters are packed as everywhere in gatecore: ``weight_ih`` (rows, input), ``weight_hh``
    (rows, hidden), ``bias`` (rows,), and for the GRU ``bias_n`` (hidden,).

    Parameters
    ----------
    in_features, hidden_features : int
    mechanism : str or Mechanism
    gate_fn, activation_fn : functions
        Only the sigmoid and tanh: a gate carries its complement, which another function has not.
    kernel_init, recurrent_kernel_init : initializers, optional
        Called for each slot with shape (inputs, width); default U(−1/√d, 1/√d).
    bias_init : initializer, optional
        Called with shape (rows,); default: the mechanism's biases.
    dtype, param_dtype : of the products, and of the parameters
        Gates and carry are float32 at least.
    carry_init : initializer, optional
    promote_dtype, keep_rngs, rngs, kernel_metadata, recurrent_kernel_metadata, bias_metadata
        As flax's cells have them.

    Raises
    ------
    ValueError
        Another ``gate_fn`` or ``activation_fn``; sizes that the mechanism cannot have.
    """

    core: str

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        mechanism: str | Mechanism = "UR",
        gate_fn: Callable[..., Any] = nnx.sigmoid,
        activation_fn: Callable[..., Any] = nnx.tanh,
        kernel_init: Initializer | None = None,
        recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        carry_init: Initializer | None = None,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype,
        keep_rngs: bool = False,
        rngs: nnx.Rngs,
        kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        recurrent_kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA,
    ) -> None:
        _check_functions(gate_fn, activation_fn)
        self.in_features, self.hidden_features = in_features, hidden_features
        self.mechanism = _mechanism(mechanism)
        self.dtype, self.param_dtype, self.promote_dtype = dtype, param_dtype, promote_dtype
        self.carry_init = carry_init
        self.rngs = rngs.carry.fork() if keep_rngs else nnx.data(None)
        cell = self._cell()
        for name, width, initializer, metadata in (
            ("weight_ih", in_features, kernel_init, kernel_metadata),
            ("weight_hh", hidden_features, recurrent_kernel_init, recurrent_kernel_metadata),
        ):
            value = _weights(cell, rngs.params(), width, initializer, param_dtype)
            setattr(self, name, nnx.Param(value, **metadata))
        bias = (
            biases(cell, rngs.params(), param_dtype)
            if bias_init is None
            else bias_init(rngs.params(), (cell.rows,), param_dtype)
        )
        self.bias = nnx.Param(bias, **bias_metadata)
        if self.core == "gru":
            self.bias_n = nnx.Param(jnp.zeros(hidden_features, param_dtype), **bias_metadata)

    @property
    def params(self) -> dict[str, Array]:
        """The parameters as the functions over whole sequences take them."""
        names = ("weight_ih", "weight_hh", "bias", *(["bias_n"] if self.core == "gru" else []))
        return {name: getattr(self, name)[...] for name in names}

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """One step: the new carry and the output (..., hidden), for inputs (..., input).

        The output has the type that inputs and parameters are promoted to; the carry is float32
        at least.
        """
        params = self.params
        x, *values = self.promote_dtype((inputs, *params.values()), dtype=self.dtype)
        wide = scan.widened(x.dtype)
        layer = scan.Layer(self.core, self.mechanism, self.in_features, self.hidden_features)
        matrix, bias = scan.pack(layer, dict(zip(params, values, strict=True)), wide)
        state = tuple(part.reshape(-1, part.shape[-1]).astype(wide) for part in self._state(carry))
        new, _ = scan.step(layer, matrix, bias, state, x.reshape(-1, x.shape[-1]))
        new = tuple(part.reshape(*x.shape[:-1], -1) for part in new)
        return self._carry(new), new[0].astype(x.dtype)

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> Any:
        """Zeros, or what ``carry_init`` draws: each part (..., hidden), float32 at least."""
        shape = (*input_shape[:-1], self.hidden_features)
        dtype = scan.widened(self.param_dtype)
        carry_init = carry_init or self.carry_init
        count = 2 if self.core == "lstm" else 1
        if carry_init is None:
            return self._carry(tuple(jnp.zeros(shape, dtype) for _ in range(count)))
        stream = self.rngs if rngs is None else rngs
        stream = stream.carry if isinstance(stream, nnx.Rngs) else stream
        if stream is None:
            raise ValueError("rngs must be given to draw the carry with carry_init")
        drawn = [carry_init(stream(), shape, dtype) for _ in range(count)]
        return self._carry(tuple(reversed(drawn)))

    @property
    def num_feature_axes(self) -> int:
        """The number of the inputs' axes that are not batch axes: 1."""
        return 1

    def _cell(self) -> Cell:
        return CELLS[self.core](self.in_features, self.hidden_features, self.mechanism)

    def _state(self, carry: Any) -> scan.State:
        """The parts of a carry, hidden first."""
        return tuple(reversed(carry)) if self.core == "lstm" else (carry,)

    def _carry(self, state: scan.State) -> Any:
        """The inverse of :meth:`_state`: (c, h) for the LSTM, else h."""
        return tuple(reversed(state)) if self.core == "lstm" else state[0]


class LSTMCell(RecurrentCell):
    """An LSTM cell with any mechanism; carry (c, h), as flax's. See :class:`RecurrentCell`.

    Examples
    --------
    >>> cell = LSTMCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> nnx.RNN(cell)(jnp.ones((2, 5, 3), jnp.float32)).shape  # (batch, time, features)
    (2, 5, 8)
    """

    core = "lstm"


class GRUCell(RecurrentCell):
    """A GRU cell, reset after the product, with any mechanism; carry h."""

    core = "gru"


class MinimalCell(RecurrentCell):
    """The minimal gated cell with any mechanism; carry h."""

    core = "minimal"


class GateUnit(nnx.Module):
    """``size`` gates with any mechanism, of which it owns the biases.

    For highway layers, gated linear units, attention, mixtures of experts. Called with logits
    (..., features) it returns a :class:`gatecore.Gate`: ``value`` (..., size) and ``complement``,
    float32 at least.

    Parameters
    ----------
    size : int
    mechanism : str or Mechanism
        "UR" needs two logits a gate (forget, refine), "standard" one; ``features`` is their number.
    param_dtype : of the biases
    rngs : nnx.Rngs

    Examples
    --------
    >>> unit = GateUnit(8, "UR", rngs=nnx.Rngs(0))
    >>> logits = jnp.zeros((3, unit.features), jnp.float32)
    >>> carry, transform = unit(logits)  # a highway layer's two gates
    >>> carry.shape
    (3, 8)
    """

    def __init__(
        self,
        size: int,
        mechanism: str | Mechanism = "UR",
        *,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.size, self.mechanism = size, _mechanism(mechanism)
        # of the cores' slots, the minimal cell's are those without an input gate of their own
        cell = Minimal(1, size, self.mechanism)
        drawn = cell.split(biases(cell, rngs.params(), param_dtype))
        self.slots = tuple(slot for slot in cell.slots if slot[0] != "candidate")
        self.features = sum(width for _, width in self.slots)
        self.bias = nnx.Param(jnp.concatenate([drawn[name] for name, _ in self.slots]))

    def __call__(self, logits: Array) -> Gate:
        """The effective gates (..., size) of logits (..., features)."""
        if logits.shape[-1] != self.features:
            wanted = ", ".join(f"{name} {width}" for name, width in self.slots)
            raise ValueError(
                f"logits must have {self.features} entries along the last axis ({wanted}), got "
                f"{logits.shape[-1]}"
            )
        wide = scan.widened(logits.dtype)
        bias = self.bias[...].astype(wide).reshape((1,) * (logits.ndim - 1) + (-1,))
        logits, parts, start = logits.astype(wide) + bias, {}, 0
        for name, width in self.slots:
            parts[name] = logits[..., start : start + width]
            start += width
        return self.mechanism.gates(parts)[0]


def _check_functions(gate_fn: Any, activation_fn: Any) -> None:
    for name, given, known in (
        ("gate_fn", gate_fn, _SIGMOIDS),
        ("activation_fn", activation_fn, _TANHS),
    ):
        if given not in known:
            raise ValueError(
                f"{name} must stay {known[0].__name__}, got {given!r}: the gates are the "
                "mechanism's, and carry their complement; choose another mechanism instead"
            )


def _weights(
    cell: Cell, key: Array, width: int, initializer: Initializer | None, dtype: Any
) -> Array:
    """A weight matrix (rows, width), each slot drawn for itself."""
    if initializer is None:
        bound = cell.hidden_size**-0.5
        return jax.random.uniform(key, (cell.rows, width), dtype, -bound, bound)
    keys = jax.random.split(key, len(cell.slots))
    return jnp.concatenate(
        [initializer(k, (width, n), dtype).T for k, (_, n) in zip(keys, cell.slots, strict=True)]
    )
