"""Recurrent cells for Equinox, called as those of ``equinox.nn``."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from gatecore.backends.common.signature import decode, encode, mechanism_names, signature
from gatecore.backends.jax import parameters, sequence
from gatecore.mechanisms import Mechanism, mechanism

__all__ = ["GRUCell", "LSTMCell", "MinimalCell"]

Array = jax.Array
_mechanism = mechanism  # a field of this name hides the function


class RecurrentCell(eqx.Module):
    """The base of the three cells, with the constructor and call of Equinox's and ``mechanism``.

    The parameters are ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,),
    and for the GRU ``bias_n`` (hidden,): with mechanism "standard" those of ``equinox.nn``.
    ``code`` are numbers that record the computation in files: parameters of another mechanism, as
    ``tree_deserialise_leaves`` may bring them, are refused with a ValueError when the cell is used.
    They are no arrays, and so not trained.
    """

    weight_ih: Array
    weight_hh: Array
    bias: Array
    bias_n: Array | None
    code: tuple[float, ...]
    mechanism: Mechanism = eqx.field(static=True)

    core: ClassVar[str]
    function: ClassVar[Callable[..., Any]]  # over a whole sequence

    def __init__(self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR", *,
                 dtype: Any = jnp.float32, key: Array) -> None:  # fmt: skip
        self.mechanism = _mechanism(mechanism)
        params = parameters.init(
            key, input_size, hidden_size, self.mechanism, core=self.core, dtype=dtype
        )
        self.weight_ih, self.weight_hh, self.bias = (
            params[name] for name in ("weight_ih", "weight_hh", "bias")
        )
        self.bias_n = params.get("bias_n")
        self.code = tuple(encode(signature(self.core, self.mechanism)))

    @property
    def params(self) -> dict[str, Array]:
        """The parameters by name, as ``lstm``, ``gru`` and ``minimal`` take them."""
        own = signature(self.core, self.mechanism)
        if not any(isinstance(n, jax.core.Tracer) for n in self.code):
            saved = decode(map(float, self.code))
            if saved != own:
                stored = mechanism_names(saved)
                raise ValueError(f"the parameters are of mechanism {stored} ({saved}), this cell "
                                 f"has {self.mechanism.name!r} ({own}): make the cell with "
                                 f"mechanism={stored}")  # fmt: skip
        names = ("weight_ih", "weight_hh", "bias", "bias_n")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def __call__(self, input: Array, hidden: Any, *, key: Array | None = None) -> Any:
        """The state (h, c) or h after one step, from an input (input,) and a state.

        The parts of a state are (hidden,). ``key`` is ignored, as by Equinox's cells.
        """
        state = jax.tree.map(lambda part: part[None], hidden)
        _, state = type(self).function(
            self.params, input[None, None], state, self.mechanism, impl="reference"
        )
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
