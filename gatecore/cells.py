"""The three recurrent cells, one step each, for arrays of any framework.

Parameters are a mapping of arrays packed in the order of ``Mechanism.slots``: ``weight_ih``
(rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,), and for the GRU ``bias_n`` (hidden,).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from array_api_compat import device

from gatecore import _checks
from gatecore._namespace import Array, namespace
from gatecore.algebra import Gate, sigmoid
from gatecore.init import Rng
from gatecore.mechanisms import Mechanism, mechanism

Params = Mapping[str, Array]
STATE_CANDIDATE = "state_candidate"  # the GRU's U h + b_n, beside its candidate's W x + b


def update(state: Array, candidate: Array, forget: Gate, input: Gate | None = None) -> Array:
    """The gated state update (equations 1, 5, 13) in a form that is stable at long timescales.

    Tied gates (``input=None``): s + (1 − g)(u − s). Separate gates: s + (i·u − (1 − f)·s), the
    change first: added one by one, small terms would each be lost to the state's rounding.
    """
    if input is None:
        return state + forget.complement * (candidate - state)
    return state + (input.value * candidate - forget.complement * state)


def zoneout(old: Array, new: Array, kept: Any) -> Array:
    """d·old + (1 − d)·new, with d = ``kept`` the amount of the old value (Krueger et al. 2016)."""
    return new + kept * (old - new)


class Cell:
    """What the three cells share: their slots, initial parameters, projection and scan.

    Parameters
    ----------
    input_size, hidden_size : int
    mechanism : str or Mechanism
    """

    core: str

    def __init__(
        self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR"
    ) -> None:
        self.input_size = _checks.integer("input_size", input_size)
        self.hidden_size = _checks.integer("hidden_size", hidden_size)
        self.mechanism = _mechanism(mechanism)
        self.slots = self.mechanism.slots(self.core, hidden_size)
        self.rows = self.mechanism.rows(self.core, hidden_size)

    def __repr__(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}"
        return f"{type(self).__name__}({sizes}, mechanism={self.mechanism.name!r})"

    def init(self, rng: Rng) -> dict[str, np.ndarray]:
        """Initial parameters, float64: weights U(−1/√d, 1/√d), the mechanism's biases, else 0."""
        rng = _checks.generator(rng)
        bound = self.hidden_size**-0.5
        return {
            "weight_ih": rng.uniform(-bound, bound, (self.rows, self.input_size)),
            "weight_hh": rng.uniform(-bound, bound, (self.rows, self.hidden_size)),
            "bias": np.concatenate(
                list(self.mechanism.biases(self.core, self.hidden_size, rng).values())
            ),
        }

    def project(self, params: Params, x: Array) -> Array:
        """The input's part of the logits, (..., input) to (..., rows): Wx + b (equation 8)."""
        product = x @ params["weight_ih"].T
        return product + _row(params["bias"], product.ndim)

    def split(self, packed: Array) -> dict[str, Array]:
        """The slots (..., width) of a packed array (..., rows)."""
        parts, start = {}, 0
        for name, width in self.slots:
            parts[name] = packed[..., start : start + width]
            start += width
        return parts

    def gates(self, params: Params, x: Array, state: Any) -> tuple[Gate, Gate]:
        """The effective forget and input gates (batch, hidden) of one step."""
        hidden = self.hidden(state)
        logits = self.project(params, x) + hidden @ params["weight_hh"].T
        return self.mechanism.gates(self.split(logits))

    def step(self, params: Params, x: Array, state: Any, zoneout: Any = None) -> tuple[Array, Any]:
        """One step: x (batch, input) and a state to the output (batch, hidden) and next state.

        ``zoneout`` is the amount of the old state that is kept: for the LSTM a pair (cell,
        hidden), else that of the hidden state; a number, or an array (batch, hidden) of draws.
        """
        return self.advance(params, self.project(params, x), state, zoneout)

    def scan(self, params: Params, xs: Array, state: Any = None) -> tuple[Array, Any]:
        """All steps: xs (time, batch, input) to outputs (time, batch, hidden), last state."""
        state = self.initial_state(xs) if state is None else state
        outputs = []
        projected = self.project(params, xs)
        for t in range(xs.shape[0]):
            output, state = self.advance(params, projected[t, ...], state)
            outputs.append(output)
        return namespace(xs).stack(outputs), state

    def initial_state(self, xs: Array) -> Any:
        """Zeros (batch, hidden), of the type of xs (time, batch, input) and where it lives."""
        shape = (xs.shape[1], self.hidden_size)
        return namespace(xs).zeros(shape, dtype=xs.dtype, device=device(xs))

    def hidden(self, state: Any) -> Array:
        """The hidden part of a state."""
        return state

    def advance(
        self, params: Params, projected: Array, state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        """One step from the projected input (batch, rows)."""
        raise TypeError("Cell is the common base: use LSTM, GRU or Minimal")

    def complete(
        self, logits: Params, gates: tuple[Gate, Gate], state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        """The rest of a step, elementwise: from the slots' logits and the effective gates."""
        raise TypeError("Cell is the common base: use LSTM, GRU or Minimal")

    def _update(self, state: Array, candidate: Array, forget: Gate, input: Gate) -> Array:
        return update(state, candidate, forget, None if self.mechanism.tied(self.core) else input)


class LSTM(Cell):
    """Long short-term memory with any gate mechanism (equations 2-7, 9-15). State (h, c).

    Examples
    --------
    >>> cell = LSTM(3, 8, mechanism="UR")
    >>> params = cell.init(rng=0)
    >>> outputs, (h, c) = cell.scan(params, np.zeros((5, 2, 3)))
    >>> outputs.shape, c.shape
    ((5, 2, 8), (2, 8))
    """

    core = "lstm"

    def initial_state(self, xs: Array) -> Any:
        """Zeros for (h, c)."""
        return super().initial_state(xs), super().initial_state(xs)

    def hidden(self, state: Any) -> Array:
        return state[0]

    def advance(
        self, params: Params, projected: Array, state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        logits = self.split(projected + state[0] @ params["weight_hh"].T)
        return self.complete(logits, self.mechanism.gates(logits), state, zoneout)

    def complete(
        self, logits: Params, gates: tuple[Gate, Gate], state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        hidden, cell = state
        tanh = namespace(cell).tanh
        new_cell = self._update(cell, tanh(logits["candidate"]), *gates)
        new_hidden = sigmoid(logits["output"]).value * tanh(new_cell)
        if zoneout is not None:
            new_cell = _zoneout(cell, new_cell, zoneout[0])
            new_hidden = _zoneout(hidden, new_hidden, zoneout[1])
        return new_hidden, (new_hidden, new_cell)


class GRU(Cell):
    """Gated recurrent unit, reset after the product as in torch and cuDNN. State h.

    n = tanh(Wx + b + q∘(Uh + b_n)), h' = h + (1 − g)(n − h): the update gate is the mechanism's
    forget gate.
    """

    core = "gru"

    def init(self, rng: Rng) -> dict[str, np.ndarray]:
        return {**super().init(rng), "bias_n": np.zeros(self.hidden_size)}

    def advance(
        self, params: Params, projected: Array, state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        x, h = self.split(projected), self.split(state @ params["weight_hh"].T)
        logits = {name: x[name] + h[name] for name in x}
        logits["candidate"] = x["candidate"]
        logits[STATE_CANDIDATE] = h["candidate"] + _row(params["bias_n"], state.ndim)
        return self.complete(logits, self.mechanism.gates(logits), state, zoneout)

    def complete(
        self, logits: Params, gates: tuple[Gate, Gate], state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        reset = sigmoid(logits["reset"]).value
        inner = logits["candidate"] + reset * logits[STATE_CANDIDATE]
        new = self._update(state, namespace(state).tanh(inner), *gates)
        new = new if zoneout is None else _zoneout(state, new, zoneout)
        return new, new


class Minimal(Cell):
    """The simplest gated cell (footnote 4; JANET): h' = h + (1 − g)(tanh(Wx + Uh + b) − h)."""

    core = "minimal"

    def advance(
        self, params: Params, projected: Array, state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        logits = self.split(projected + state @ params["weight_hh"].T)
        return self.complete(logits, self.mechanism.gates(logits), state, zoneout)

    def complete(
        self, logits: Params, gates: tuple[Gate, Gate], state: Any, zoneout: Any = None
    ) -> tuple[Array, Any]:
        new = self._update(state, namespace(state).tanh(logits["candidate"]), *gates)
        new = new if zoneout is None else _zoneout(state, new, zoneout)
        return new, new


def _row(vector: Array, ndim: int) -> Array:
    """(width,) as (1, ..., width) of ``ndim`` axes: JAX can be told to refuse implicit ranks."""
    return vector[(None,) * (ndim - 1) + (slice(None),)]


CELLS: dict[str, type[Cell]] = {cell.core: cell for cell in (LSTM, GRU, Minimal)}

_mechanism, _zoneout = mechanism, zoneout  # arguments of these names hide the functions
