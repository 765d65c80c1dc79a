"""Recurrent cells for flax nnx, and ``GateUnit``, a layer of gates."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
from flax import nnx

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.common.signature import STANDARD_SIGNATURES, signature
from gatecore.backends.common.validation import gate_slots
from gatecore.backends.jax import flax_weights, scan
from gatecore.backends.jax.arguments import widened
from gatecore.backends.jax.cell_step import DRAWN, carry_step, check_functions, initial
from gatecore.backends.jax.parameters import biases
from gatecore.backends.jax.states import bias_name, check_name
from gatecore.cells import CELLS, Cell, MinGRU, Minimal
from gatecore.mechanisms import Mechanism, mechanism

Array = jax.Array
Initializer = Callable[..., Array]
_mechanism = mechanism  # arguments of this name hide the function
_SETTINGS = ("dtype", "param_dtype", "promote_dtype", "carry_init", "gate_fn", "activation_fn")
_NO_METADATA: Mapping[str, Any] = MappingProxyType({})


class Gated(nnx.Module):
    """A module with gates, whose bias is named after its signature in its states."""

    core: str
    mechanism: Mechanism

    @property
    def _kind(self) -> str:
        return self.core

    @property
    def bias(self) -> nnx.Param[Array]:
        """The packed biases (rows,)."""
        name = bias_name(self._kind, self.mechanism)
        parameter = getattr(self, name)  # that of another state after nnx.merge, which is by order
        check_name(parameter.get_metadata().get("name_in_state", name), self._kind, self.mechanism)
        return parameter

    def _set_bias(self, value: Array, metadata: Mapping[str, Any]) -> None:
        name = bias_name(self._kind, self.mechanism)
        setattr(self, name, nnx.Param(value, **metadata, name_in_state=name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("bias_"):
            check_name(name, self._kind, self.mechanism)
        super().__setattr__(name, value)


class RecurrentCell(Gated, nnx.RNNCellBase):
    """The base of the cells, with flax's constructor keywords, ``mechanism`` and ``layer_norm``.

    The parameters are packed as everywhere in gatecore: ``weight_ih`` (rows, input), ``weight_hh``
    (rows, hidden), ``bias`` (rows,), and for the GRU ``bias_n`` (hidden,). With ``layer_norm`` the
    products are normalized before the bias is added (Ba et al. 2016; :class:`gatecore.cells.Cell`),
    with the gains ``norm_ih``, ``norm_hh`` (rows,), and for the LSTM ``norm_c`` and ``norm_c_bias``
    (hidden,). ValueError for another ``gate_fn`` or ``activation_fn``, and for sizes that the
    mechanism refuses; TypeError for a ``layer_norm`` other than True or False.

    ``gate_fn`` and ``activation_fn`` are only the sigmoid and tanh: another function has no
    complement for a gate to carry. ``kernel_init`` and ``recurrent_kernel_init`` are called for
    each slot with shape (inputs, width), by default U(−1/√d, 1/√d); ``bias_init`` with (rows,), by
    default the mechanism's biases. ``dtype`` is that of the products, ``param_dtype`` of the
    parameters; gates and initial carry are float32 at least. ``bias_metadata`` are those of all
    vectors. Other keywords are as in flax's cells.

    In a state the bias is named after the computation, as ``bias_lstm_sigmoid_refine_1``: a state
    of another mechanism, or that differs in ``layer_norm``, is refused with a ValueError, but
    "standard", "U" and "C" compute the same.
    """

    flax_cells: ClassVar[tuple[type[nnx.Module], ...]] = ()  # that compute mechanism "standard"

    def __init__(
        self, in_features: int, hidden_features: int, *, mechanism: str | Mechanism = "UR",
        gate_fn: Callable[..., Any] = nnx.sigmoid, activation_fn: Callable[..., Any] = nnx.tanh,
        kernel_init: Initializer | None = None, recurrent_kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None, dtype: Any = None, param_dtype: Any = jnp.float32,
        carry_init: Initializer | None = None,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype, keep_rngs: bool = False,
        rngs: nnx.Rngs, kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        recurrent_kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA, layer_norm: bool = False,
    ) -> None:  # fmt: skip
        check_functions(gate_fn, activation_fn)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be an nnx.Rngs, got {type(rngs).__name__}: nnx.Rngs(seed)")
        self.in_features = _checks.integer("in_features", in_features)
        self.hidden_features = _checks.integer("hidden_features", hidden_features)
        self.mechanism = _mechanism(mechanism)
        self.layer_norm = _checks.flag("layer_norm", layer_norm)
        self.dtype, self.param_dtype, self.promote_dtype = dtype, param_dtype, promote_dtype
        self.carry_init = carry_init
        self.rngs = rngs.carry.fork() if keep_rngs else nnx.data(None)
        cell, settings = self._cell, {
            "weight_ih": (kernel_init, kernel_metadata),
            "weight_hh": (recurrent_kernel_init, recurrent_kernel_metadata),
        }  # fmt: skip
        for name in cell.parameter_shapes():
            initializer, metadata = settings.get(name, (bias_init, bias_metadata))
            key = rngs.params() if name in DRAWN else None
            value = initial(cell, name, key, initializer, param_dtype)
            if name == "bias":
                self._set_bias(value, metadata)
            else:
                setattr(self, name, nnx.Param(value, **metadata))

    @classmethod
    def from_flax(
        cls, cell: nnx.Module, mechanism: str | Mechanism = "standard",
        keep_weights: bool | None = None, *, rngs: nnx.Rngs | None = None,
    ) -> Self:  # fmt: skip
        """A cell with the sizes, settings and weights of one of flax.

        ``keep_weights``, by default true for "standard" and else false, and ``rngs`` are those of
        :func:`convert`. TypeError for another module than flax's cell of the same kind.
        """
        if type(cell) not in cls.flax_cells:
            names = " or ".join(kind.__name__ for kind in cls.flax_cells) or "none of flax's cells"
            raise TypeError(f"cell must be flax.nnx's {names} for a {cls.__name__}, got "
                            f"{type(cell).__name__}")  # fmt: skip
        old: Any = cell
        settings = {name: getattr(old, name) for name in _SETTINGS}
        rngs = nnx.Rngs(0) if rngs is None else rngs
        new = cls(old.in_features, old.hidden_features, mechanism=mechanism, rngs=rngs, **settings)
        new.rngs = old.rngs
        standard = new.mechanism == _mechanism("standard")
        if standard if keep_weights is None else keep_weights:
            found: Any = flax_weights.packed(nnx.to_pure_dict(nnx.state(old, nnx.Param)))
            for name, value in flax_weights.adopt(new._cell, new.params, found[1]).items():
                getattr(new, name)[...] = value
        return new

    def to_flax(self, kind: Any = None) -> Any:
        """One of flax's cells, by default its faster one, with the same weights and settings.

        ``kind`` may be ``nnx.LSTMCell``. ValueError for a mechanism that flax's cells do not
        compute, for layer normalization, which they do not have, and for a GRU whose ``bias_n`` is
        not zero, since ``nnx.GRUCell`` has none.
        """
        own = signature(self._kind, self.mechanism)
        if own != STANDARD_SIGNATURES.get(self.core):
            raise ValueError(f"flax's cells do not compute mechanism {self.mechanism.name!r} "
                             f"({own}): only 'standard', 'U' and 'C' of the LSTM and the GRU "
                             "without layer_norm convert")  # fmt: skip
        kind = self.flax_cells[0] if kind is None else kind
        if kind not in self.flax_cells:
            names = " or ".join(cell.__name__ for cell in self.flax_cells)
            raise ValueError(f"kind must be {names}, got {kind!r}")
        zeros = nnx.initializers.zeros
        new = kind(
            self.in_features, self.hidden_features, dtype=self.dtype, param_dtype=self.param_dtype,
            promote_dtype=self.promote_dtype, kernel_init=zeros, recurrent_kernel_init=zeros,
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        new.carry_init, new.rngs = self.carry_init, self.rngs
        write = flax_weights.unpacked if kind is nnx.LSTMCell else flax_weights.joined
        for name, layer in write(self.core, self.params).items():
            for key, value in layer.items():
                getattr(getattr(new, "if_" if name == "if" else name), key)[...] = value
        return new

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name, as ``lstm``, ``gru``, ``minimal`` and ``mingru`` take them."""
        return {name: getattr(self, name)[...] for name in self._cell.parameter_shapes()}

    def __call__(self, carry: Any, inputs: Array) -> tuple[Any, Array]:
        """One step: the new carry and the output (..., hidden), for inputs (..., input).

        The output has the type that inputs and parameters are promoted to. Gates and state are
        computed in float32 at least; the new carry has the type of the old one, so that a scan
        takes it: one of half precision is rounded at every step, as flax's.
        """
        promote = functools.partial(self.promote_dtype, dtype=self.dtype)
        return carry_step(self._cell, self.params, carry, inputs, promote)

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

    @property
    def _kind(self) -> str:
        return self._cell.kind

    num_feature_axes = 1  # of the inputs, the axes that are not batch axes

    @property
    def _cell(self) -> Cell:
        """The cell as a value. Its states are carries in reverse: flax has (c, h)."""
        sizes = self.in_features, self.hidden_features
        return CELLS[self.core](*sizes, self.mechanism, self.layer_norm)


class LSTMCell(RecurrentCell):
    """An LSTM cell with any gate mechanism (equations 2-7, 9-15); carry (c, h), as flax's.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = LSTMCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> nnx.RNN(cell)(jnp.ones((2, 5, 3), jnp.float32)).shape  # (batch, time, features)
    (2, 5, 8)
    """

    core = "lstm"
    flax_cells = (nnx.OptimizedLSTMCell, nnx.LSTMCell)


class GRUCell(RecurrentCell):
    """A GRU cell, reset after the product, with any gate mechanism; carry h. See :func:`gru`.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = GRUCell(3, 8, rngs=nnx.Rngs(0))
    >>> carry, output = cell(cell.initialize_carry((2, 3)), jnp.ones((2, 3), jnp.float32))
    >>> output.shape
    (2, 8)
    """

    core = "gru"
    flax_cells = (nnx.GRUCell,)


class MinimalCell(RecurrentCell):
    """The minimal gated cell (footnote 4; JANET) with any gate mechanism; carry h.

    Parameters and errors: :class:`RecurrentCell`.

    >>> cell = MinimalCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> cell.params["weight_ih"].shape  # forget, candidate and refine
    (24, 3)
    """

    core = "minimal"


class MinGRUCell(RecurrentCell):
    """One step of :func:`mingru` with any gate mechanism; carry h.

    ``candidate`` is "linear" or "tanh". Other parameters and errors are those of
    :class:`RecurrentCell`, without those of recurrent weights and activations.

    >>> cell = MinGRUCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    >>> nnx.RNN(cell)(jnp.ones((2, 5, 3), jnp.float32)).shape  # (batch, time, features)
    (2, 5, 8)
    """

    core = "mingru"

    def __init__(
        self, in_features: int, hidden_features: int, *, mechanism: str | Mechanism = "UR",
        candidate: str = "linear", kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None, dtype: Any = None, param_dtype: Any = jnp.float32,
        carry_init: Initializer | None = None,
        promote_dtype: Callable[..., Any] = nnx.nn.dtypes.promote_dtype, keep_rngs: bool = False,
        rngs: nnx.Rngs, kernel_metadata: Mapping[str, Any] = _NO_METADATA,
        bias_metadata: Mapping[str, Any] = _NO_METADATA, layer_norm: bool = False,
    ) -> None:  # fmt: skip
        self.candidate = candidate
        super().__init__(
            in_features, hidden_features, mechanism=mechanism, kernel_init=kernel_init,
            bias_init=bias_init, dtype=dtype, param_dtype=param_dtype, carry_init=carry_init,
            promote_dtype=promote_dtype, keep_rngs=keep_rngs, rngs=rngs,
            kernel_metadata=kernel_metadata, bias_metadata=bias_metadata, layer_norm=layer_norm,
        )  # fmt: skip

    @property
    def _cell(self) -> Cell:
        sizes = self.in_features, self.hidden_features
        return MinGRU(*sizes, self.mechanism, self.layer_norm, candidate=self.candidate)


class GateUnit(Gated):
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

    core = "gate"

    def __init__(
        self, size: int, mechanism: str | Mechanism = "UR", *, param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.size, self.mechanism = _checks.integer("size", size), _mechanism(mechanism)
        cell = Minimal(1, self.size, self.mechanism)  # its input gate is not a slot
        initial = cell.split(biases(cell, rngs.params(), param_dtype))
        self.slots = tuple(gate_slots(self.mechanism, self.size).items())
        self.features = sum(width for _, width in self.slots)
        bias = jnp.concatenate([initial[name] for name, _ in self.slots])
        self._set_bias(bias, _NO_METADATA)

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
