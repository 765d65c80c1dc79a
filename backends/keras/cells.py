"""Recurrent cells for ``keras.layers.RNN``."""

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import keras
from keras import ops
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell  # keras.layers.RNN looks for it

from gatecore import _checks
from gatecore.backends.keras import settings
from gatecore.backends.keras.weights import (
    Guarded,
    MechanismCode,
    initial_bias,
    packed,
    records,
)
from gatecore.cells import CANDIDATES, CELLS, GAINS, Cell, MinGRU
from gatecore.mechanisms import Mechanism

Array = Any
register = keras.saving.register_keras_serializable(package="gatecore")


class RecurrentCell(Guarded, keras.layers.Layer, DropoutRNNCell):
    """The base of the four cells, with the constructor of Keras' cells and ``mechanism``.

    ``units`` is the hidden size; initializers, regularizers and constraints of the three weights
    are keywords as in Keras' cells. The weights are ``kernel`` (input, columns),
    ``recurrent_kernel`` (units, columns) and ``bias`` (columns,), a GRU's (2, columns), for the
    input and for the state. The columns are those of the mechanism's slots in Keras' order: i f c o
    of an LSTM, z r h of a GRU, then refine gates or masters. So "standard", "U" and "C" have
    exactly the weights of Keras' cell; the others also ``mechanism_code``, which is not trained:
    weights of another mechanism are refused. With ``layer_norm`` the products are normalized before
    the bias is added (Ba et al. 2016; :class:`gatecore.cells.Cell`): there are gains ``norm_ih``,
    ``norm_hh`` (columns,), for the LSTM ``norm_c`` and ``norm_c_bias`` (units,), and the code.

    ``bias_initializer`` is by default the mechanism's, seeded by ``keras.utils.set_random_seed``;
    another one sets the whole bias, but see :class:`LSTMCell`. ``dropout`` and
    ``recurrent_dropout``, in [0, 1), drop entries of the inputs and of the hidden state in the
    products, the same ones for all steps and gates. ``activation`` and ``recurrent_activation`` are
    only "tanh" and "sigmoid": another function has no complement for a gate to carry. Gates are
    float32 at least, whatever the dtype policy.
    ValueError or TypeError for other values of these, for sizes that the mechanism refuses, and for
    Keras backends other than torch and JAX.
    """

    core: str
    settings: ClassVar[tuple[str, ...]] = (*settings.PLAIN, *settings.OBJECTS)
    unit_forget_bias: bool = False  # whether the mechanism's biases stay beside an initializer's

    def __init__(
        self, units: int, mechanism: str | Mechanism | Mapping[str, Any] = "UR", *,
        use_bias: bool = True, layer_norm: bool = False, dropout: float = 0.0,
        recurrent_dropout: float = 0.0, seed: int | None = None, **keywords: Any,
    ) -> None:  # fmt: skip
        settings.check_backend()
        settings.check_fixed(keywords)
        objects = settings.pop_objects(keywords)
        super().__init__(**keywords)
        for name, value in objects.items():
            setattr(self, name, value)
        self.units = _checks.integer("units", units)
        self.mechanism = settings.mechanism_of(mechanism, self.units)
        self.use_bias = _checks.flag("use_bias", use_bias)
        self.layer_norm = _checks.flag("layer_norm", layer_norm)
        self.dropout = _checks.probability("dropout", dropout, below_one=True)
        self.recurrent_dropout = _checks.probability("recurrent_dropout", recurrent_dropout,
                                                     below_one=True)  # fmt: skip
        self.seed = _checks.plain(seed)
        self._bias_seed = random.getrandbits(64)  # seeded by keras.utils.set_random_seed
        self.seed_generator = keras.random.SeedGenerator(seed=self.seed)
        names = CELLS[self.core].state_names
        self.state_size = [self.units] * len(names) if len(names) > 1 else self.units
        self.output_size = self.units

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights for inputs (..., input)."""
        if input_shape[-1] is None:
            raise ValueError(f"the inputs' last axis must have a known size, got {input_shape}")
        self.neutral = cell = self._cell(input_shape[-1])
        self.kernel = self._add("kernel", (cell.input_size, cell.rows), "kernel")
        if cell.recurrent:
            shape = (self.units, cell.rows)
            self.recurrent_kernel = self._add("recurrent_kernel", shape, "recurrent")
        biases = (2, cell.rows) if "bias_n" in cell.parameter_shapes() else (cell.rows,)
        self.bias = self._add("bias", biases, "bias", autocast=False) if self.use_bias else None
        self.norms = {
            name: self.add_weight(shape=size, name=name, autocast=False,
                                  initializer="ones" if name in GAINS else "zeros")
            for name, size in cell.parameter_shapes().items() if name.startswith("norm_")
        }  # fmt: skip
        if records(cell.kind, self.mechanism):
            self.mechanism_code = MechanismCode(cell.kind, self.mechanism, self.variable_dtype)

    def call(self, inputs: Array, states: Any, training: bool = False) -> tuple[Array, Any]:
        """One step: the output (batch, units), and the new states as ``states`` are nested."""
        nested = isinstance(states, list | tuple)
        dtype = self.wide_dtype
        params = self.parameters(dtype)
        x, *states = (ops.cast(a, dtype) for a in (inputs, *(states if nested else (states,))))
        if training and self.dropout:
            x = x * ops.cast(self.get_dropout_mask(inputs), dtype)
        mask = self.get_recurrent_dropout_mask(states[0]) if training else None
        parts = self.step(params, self.neutral.project(params, x), tuple(states), mask)
        new = [ops.cast(part, self.compute_dtype) for part in parts]
        return new[0], new if nested else new[0]

    def step(self, params: Mapping[str, Array], projected: Array, states: tuple[Array, ...],
             mask: Array | None = None) -> tuple[Array, ...]:  # fmt: skip
        """The new states (batch, units) from the projected input (batch, rows) and the states.

        ``mask`` multiplies the hidden state in the product: recurrent dropout.
        """
        hidden = states[0] if mask is None else states[0] * ops.cast(mask, states[0].dtype)
        logits = self.neutral.join(params, projected, self.neutral.recur(params, hidden))
        return self.neutral.complete(logits, self.mechanism.gates(logits), states, None, params)

    def parameters(self, dtype: str | None = None) -> dict[str, Array]:
        """The parameters as ``gatecore.backends`` take them, the weights of type ``dtype``.

        By default they are of the type ``product_dtype``.
        """
        cell, dtype = self.neutral, dtype or self.product_dtype
        weights = {"weight_ih": self.kernel}
        if cell.recurrent:
            weights["weight_hh"] = self.recurrent_kernel
        params = {name: ops.transpose(packed(cell, ops.cast(ops.convert_to_tensor(value), dtype)))
                  for name, value in weights.items()}  # fmt: skip
        for name, variable in self.norms.items():
            value = ops.cast(ops.convert_to_tensor(variable), self.wide_dtype)
            params[name] = packed(cell, value) if tuple(value.shape) == (cell.rows,) else value
        if self.bias is None:
            zeros = {k: s for k, s in cell.parameter_shapes().items() if k not in params}
            return params | {k: ops.zeros(s, self.wide_dtype) for k, s in zeros.items()}
        bias = packed(cell, ops.cast(ops.convert_to_tensor(self.bias), self.wide_dtype))
        if "bias_n" not in cell.parameter_shapes():
            return params | {"bias": bias}
        # the state's biases add to the input's, but for the candidate's, inside the reset gate
        own = cell.split(bias[1])
        params["bias_n"] = own["candidate"]
        own["candidate"] = ops.zeros_like(own["candidate"])
        return params | {"bias": bias[0] + ops.concatenate(list(own.values()))}

    @property
    def product_dtype(self) -> str:
        """The type of the products: torch's functions compute in float32 at least."""
        return self.wide_dtype if keras.backend.backend() == "torch" else self.compute_dtype

    @property
    def wide_dtype(self) -> str:
        """The type of gates and states: float32 at least."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def get_initial_state(self, batch_size: int | None = None) -> list[Array]:
        """The zero state."""
        names = CELLS[self.core].state_names
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype) for _ in names]

    def get_config(self) -> dict[str, Any]:
        """The configuration that :meth:`from_config` takes."""
        return {**super().get_config(), **settings.config_of(self)}

    def load_own_variables(self, store: Any) -> None:
        """Load the weights from a file; ValueError for those of another mechanism."""
        self._check_weights([store[str(n)] for n in range(len(store.keys()))])
        super().load_own_variables(store)

    @property
    def kind(self) -> str:
        """The name of the equations, which the weights record with the mechanism."""
        return self._cell(1).kind

    def _cell(self, input_size: int) -> Cell:
        """The cell as a value."""
        return CELLS[self.core](input_size, self.units, self.mechanism, self.layer_norm)

    def _add(self, name: str, shape: tuple[int, ...], prefix: str, **keywords: Any) -> Any:
        bias = prefix == "bias"
        initializer = self._initial_bias if bias else getattr(self, f"{prefix}_initializer")
        regularizer, constraint = (getattr(self, f"{prefix}_{kind}")
                                   for kind in ("regularizer", "constraint"))  # fmt: skip
        return self.add_weight(
            shape=shape,
            name=name,
            initializer=initializer,
            regularizer=regularizer,
            constraint=constraint,
            **keywords,
        )

    def _initial_bias(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        initializer, alone = self.bias_initializer, not self.unit_forget_bias
        if initializer is not None and alone:
            return initializer(shape, dtype=dtype)
        values = initial_bias(self.neutral, shape, self._bias_seed)
        biases = ops.convert_to_tensor(values, dtype=dtype)
        if initializer is None:
            return biases
        return ops.where(ops.equal(biases, 0), initializer(shape, dtype=dtype), biases)


@register
class LSTMCell(RecurrentCell):
    """``keras.layers.LSTMCell`` with any gate mechanism (equations 2-7, 9-15); states [h, c].

    The biases that the mechanism sets, such as 1 of the forget gate with "standard", stay beside
    those of a ``bias_initializer``; with ``unit_forget_bias=False`` it sets all, by default to 0.
    Other arguments, weights and errors: :class:`RecurrentCell`.

    >>> layer = keras.layers.RNN(LSTMCell(8, mechanism="UR"), return_sequences=True)
    >>> tuple(layer(np.ones((2, 5, 3), "float32")).shape)
    (2, 5, 8)
    """

    core = "lstm"
    settings = (*RecurrentCell.settings, "unit_forget_bias")

    def __init__(
        self, units: int, mechanism: str | Mechanism | Mapping[str, Any] = "UR", *,
        unit_forget_bias: bool = True, **keywords: Any,
    ) -> None:  # fmt: skip
        if not _checks.flag("unit_forget_bias", unit_forget_bias):
            keywords["bias_initializer"] = keywords.get("bias_initializer") or "zeros"
        super().__init__(units, mechanism, **keywords)
        self.unit_forget_bias = bool(unit_forget_bias)


@register
class GRUCell(RecurrentCell):
    """``keras.layers.GRUCell``, reset after the product, with any gate mechanism; state h.

    h' = g·h + (1 − g)·n: the update gate is the mechanism's forget gate. Arguments, weights and
    errors: :class:`RecurrentCell`.

    >>> cells = [GRUCell(8), GRUCell(8, mechanism="OM")]
    >>> tuple(keras.layers.RNN(cells)(np.ones((2, 5, 3), "float32")).shape)
    (2, 8)
    """

    core = "gru"


@register
class MinimalCell(RecurrentCell):
    """The minimal gated cell h' = g·h + (1 − g)·tanh(Wx + Uh + b) (footnote 4; JANET); state h.

    Arguments, weights and errors: :class:`RecurrentCell`.

    >>> output, [h] = MinimalCell(8)(np.ones((2, 3), "float32"), [np.zeros((2, 8), "float32")])
    >>> tuple(h.shape)
    (2, 8)
    """

    core = "minimal"


@register
class MinGRUCell(RecurrentCell):
    """The cell h' = g·h + (1 − g)·u, with g and u of the inputs alone; state h (Feng et al. 2024).

    The ``candidate`` u is "linear", Wx + b, or its "tanh". There is no ``recurrent_kernel``, and so
    none of the keywords ``recurrent_*``, and no ``activation``. Other arguments, weights and
    errors: :class:`RecurrentCell`.

    >>> output, [h] = MinGRUCell(8)(np.ones((2, 3), "float32"), [np.zeros((2, 8), "float32")])
    >>> tuple(h.shape)
    (2, 8)
    """

    core = "mingru"
    settings = (*(name for name in RecurrentCell.settings if not name.startswith("recurrent_")),
                "candidate")  # fmt: skip

    def __init__(
        self, units: int, mechanism: str | Mechanism | Mapping[str, Any] = "UR", *,
        candidate: str = "linear", **keywords: Any,
    ) -> None:  # fmt: skip
        settings.check_not_recurrent(keywords)
        super().__init__(units, mechanism, **keywords)
        self.candidate = _checks.choice("candidate", candidate, CANDIDATES)

    def _cell(self, input_size: int) -> Cell:
        settings = self.mechanism, self.layer_norm
        return MinGRU(input_size, self.units, *settings, candidate=self.candidate)
