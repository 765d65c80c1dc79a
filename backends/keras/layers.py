"""Recurrent layers with any gate mechanism: ``LSTM``, ``GRU``, ``Minimal`` and ``MinGRU``."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import keras
from keras import ops

from gatecore import _checks, backends
from gatecore.backends.keras import settings
from gatecore.backends.keras.cells import (
    GRUCell,
    LSTMCell,
    MinGRUCell,
    MinimalCell,
    RecurrentCell,
    register,
)
from gatecore.backends.keras.from_keras import from_keras
from gatecore.backends.keras.masking import compact, restore
from gatecore.backends.keras.weights import Guarded
from gatecore.mechanisms import Mechanism

Array = Any


class RecurrentLayer(Guarded, keras.layers.RNN):
    """The base of the four layers, with the constructor of ``keras.layers.LSTM``.

    The keywords are those of :class:`RecurrentCell`, ``activity_regularizer``, and those of
    ``keras.layers.RNN`` but for ``unroll``. Called with sequences (batch, time, features), also
    ``mask`` (batch, time), ``initial_state`` and ``training``, it returns what Keras' layers do.
    The whole sequence is one operation of ``gatecore.backends.torch`` or ``gatecore.backends.jax``;
    with ``recurrent_dropout``, in training, it is stepped through. A masked step leaves the state
    as it is; its output is that of the step before, or 0 with ``zero_output_for_mask``. ValueError
    or TypeError for arguments that are not supported, as of :class:`RecurrentCell`.
    """

    _cell_class: ClassVar[type[RecurrentCell]]

    def __init__(
        self, units: int, mechanism: str | Mechanism | Mapping[str, Any] = "UR", *,
        return_sequences: bool = False, return_state: bool = False, go_backwards: bool = False,
        stateful: bool = False, zero_output_for_mask: bool = False, **keywords: Any,
    ) -> None:  # fmt: skip
        settings.check_fixed(keywords)
        of_cell = self._cell_class.settings
        own = {name: keywords.pop(name) for name in of_cell if name in keywords}
        own |= {name: keywords[name] for name in ("dtype", "trainable") if name in keywords}
        cell = self._cell_class(units, mechanism, name=f"{self._cell_class.core}_cell", **own)
        flags = {"return_sequences": return_sequences, "return_state": return_state,
                 "go_backwards": go_backwards, "stateful": stateful,
                 "zero_output_for_mask": zero_output_for_mask}  # fmt: skip
        flags = {name: _checks.flag(name, value) for name, value in flags.items()}
        super().__init__(cell, **flags, **keywords)
        self.input_spec = keras.layers.InputSpec(ndim=3)

    @property
    def core(self) -> str:
        """The name of the core: "lstm", "gru", "minimal" or "mingru"."""
        return self.cell.core

    @property
    def kind(self) -> str:
        """The name of the equations, which the weights record with the mechanism."""
        return self.cell.kind

    @property
    def units(self) -> int:
        """The hidden size."""
        return self.cell.units

    @property
    def mechanism(self) -> Mechanism:
        """The gate mechanism."""
        return self.cell.mechanism

    def call(self, sequences: Array, initial_state: Any = None, mask: Any = None,
             training: bool = False) -> Any:  # fmt: skip
        """The results of Keras' layers; ValueError for sequences without steps.

        RuntimeError while Keras exports the model to ONNX.
        """
        settings.check_export()
        if sequences.shape[1] == 0:
            raise ValueError("the sequences must have at least one step, got shape "
                             f"{tuple(sequences.shape)}")  # fmt: skip
        return super().call(sequences, initial_state, mask, training)

    def inner_loop(self, sequences: Array, initial_state: Any, mask: Any = None,
                   training: bool = False) -> tuple[Array, Array, list[Array]]:  # fmt: skip
        """The last output (batch, units), all outputs (batch, time, units), the last states."""
        cell = self.cell
        mask = next(iter(keras.tree.flatten(mask)), None)
        states = tuple(
            ops.cast(part, cell.wide_dtype) for part in keras.tree.flatten(initial_state)
        )
        if self.stateful:  # torch forbids to assign what a gradient needs
            states = tuple(map(ops.copy, states))
        if training and cell.dropout:
            sequences *= ops.expand_dims(cell.get_dropout_mask(sequences[:, 0]), 1)
        x = self._in_order(ops.cast(sequences, cell.product_dtype))
        if mask is not None:
            steps, shape = tuple(sequences.shape[:2]), tuple(mask.shape)
            if shape != steps:
                raise ValueError(f"mask must have shape (batch, time) {steps}, got {shape}")
            mask = self._in_order(ops.cast(mask, "bool"))
            x = compact(x, mask)
        dropped = cell.get_recurrent_dropout_mask(states[0]) if training else None
        if dropped is None:
            history, final = self._whole(x, states, mask is not None)
        else:
            history, final = self._stepped(x, states, dropped)
        if mask is not None:
            pairs = zip(states, history, strict=True)
            history = [restore(initial, part, mask) for initial, part in pairs]
            final = [part[-1] for part in history]
        outputs = history[0]
        if mask is not None and self.zero_output_for_mask:
            outputs = ops.where(mask[..., None], outputs, ops.zeros_like(outputs))
        return final[0], self._swap(outputs), list(final)

    def _whole(self, x: Array, states: tuple[Array, ...],
               every_part: bool) -> tuple[Sequence[Array], Sequence[Array]]:  # fmt: skip
        """The states after all steps, of the hidden state or of every part, and the last ones."""
        cell = self.cell.neutral
        pair = every_part and len(states) > 1
        run = getattr(backends.load(keras.backend.backend()), cell.core)
        keywords: dict[str, Any] = {"return_cells": True} if pair else {}
        if not cell.recurrent:
            keywords["candidate"] = cell.candidate
        outputs, last = run(self.cell.parameters(), x, cell.state(states), cell.mechanism,
                            **keywords)  # fmt: skip
        return outputs if pair else (outputs,), cell.parts(last)

    def _stepped(self, x: Array, states: tuple[Array, ...],
                 dropped: Array) -> tuple[Sequence[Array], Sequence[Array]]:  # fmt: skip
        """The same step by step: ``dropped`` multiplies the hidden state in the product."""
        params = self.cell.parameters(self.cell.wide_dtype)
        projected = self.cell.neutral.project(params, ops.cast(x, self.cell.wide_dtype))

        def step(states: tuple[Array, ...], now: Array) -> tuple[Any, Any]:
            new = self.cell.step(params, now, states, dropped)
            return new, new

        last, history = ops.scan(step, states, projected)
        return history, last

    def _in_order(self, array: Array) -> Array:
        """``array`` (batch, time, ...) as (time, batch, ...), in the order of the steps."""
        array = self._swap(array)
        return ops.flip(array, axis=0) if self.go_backwards else array

    @staticmethod
    def _swap(array: Array) -> Array:
        return ops.swapaxes(array, 0, 1)

    def get_config(self) -> dict[str, Any]:
        """The configuration that :meth:`from_config` takes."""
        config = super().get_config()
        del config["cell"]
        regularizer = keras.regularizers.serialize(self.activity_regularizer)
        return {**config, **settings.config_of(self.cell), "activity_regularizer": regularizer}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer of a configuration."""
        return cls(**config)


@register
class LSTM(RecurrentLayer):
    """``keras.layers.LSTM`` with any gate mechanism (equations 2-7, 9-15), of states h, c.

    Arguments, weights and errors: :class:`RecurrentLayer`, :class:`RecurrentCell`.

    >>> output, h, c = LSTM(8, mechanism="UR", return_state=True)(np.ones((2, 5, 3), "float32"))
    >>> tuple(output.shape), tuple(c.shape)
    ((2, 8), (2, 8))
    """

    _cell_class = LSTMCell

    @classmethod
    def from_keras(cls, layer: keras.layers.LSTM, mechanism: str | Mechanism = "UR") -> Self:
        """An LSTM with the settings of Keras' ``layer``, and its weights where they mean the same.

        The weights of the slots that both mechanisms have are copied; ``initialised`` of the result
        names the other slots, which are initialized as in a new layer. ValueError for other
        activations than the defaults.

        >>> LSTM.from_keras(keras.layers.LSTM(8), "UR").initialised
        ('refine',)
        """
        return from_keras(cls, keras.layers.LSTM, layer, mechanism)


@register
class GRU(RecurrentLayer):
    """``keras.layers.GRU``, reset after the product, with any gate mechanism, of state h.

    h' = g·h + (1 − g)·n: the update gate is the mechanism's forget gate. Arguments, weights and
    errors: :class:`RecurrentLayer`, :class:`RecurrentCell`.

    >>> tuple(GRU(8, return_sequences=True)(np.ones((2, 5, 3), "float32")).shape)
    (2, 5, 8)
    """

    _cell_class = GRUCell

    @classmethod
    def from_keras(cls, layer: keras.layers.GRU, mechanism: str | Mechanism = "UR") -> Self:
        """A GRU with the settings and weights of Keras' ``layer``, as :meth:`LSTM.from_keras`.

        ValueError also for ``reset_after=False``.

        >>> GRU.from_keras(keras.layers.GRU(8), "standard").initialised
        ()
        """
        return from_keras(cls, keras.layers.GRU, layer, mechanism)


@register
class Minimal(RecurrentLayer):
    """The minimal gated layer h' = g·h + (1 − g)·tanh(Wx + Uh + b) (footnote 4; JANET), of state h.

    Arguments, weights and errors: :class:`RecurrentLayer`, :class:`RecurrentCell`.

    >>> tuple(Minimal(8, mechanism="UR")(np.ones((2, 5, 3), "float32")).shape)
    (2, 8)
    """

    _cell_class = MinimalCell


@register
class MinGRU(RecurrentLayer):
    """The layer h' = g·h + (1 − g)·u, with g and u of the inputs alone, of state h.

    All steps are computed at once. Arguments, weights and errors: :class:`RecurrentLayer`,
    :class:`MinGRUCell`.

    >>> layer = MinGRU(8, mechanism="UR", candidate="tanh", return_sequences=True)
    >>> tuple(layer(np.ones((2, 5, 3), "float32")).shape)
    (2, 5, 8)
    """

    _cell_class = MinGRUCell

    def __init__(
        self, units: int, mechanism: str | Mechanism | Mapping[str, Any] = "UR", **keywords: Any
    ) -> None:
        settings.check_not_recurrent(keywords)
        super().__init__(units, mechanism, **keywords)
