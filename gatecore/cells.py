"""The recurrent cells for arrays of any framework: LSTM, GRU, the minimal gated cell and MinGRU.

Parameters are a mapping of arrays packed in the order of ``Mechanism.slots``: ``weight_ih``
(rows, input), ``weight_hh`` (rows, hidden) but for MinGRU, ``bias`` (rows,), and for the GRU
``bias_n`` (hidden,). With layer normalization there are a ``norm_ih`` and a ``norm_hh`` (rows,) for
these weights, and for the LSTM ``norm_c`` and ``norm_c_bias`` (hidden,).
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from array_api_compat import device

from gatecore import _checks
from gatecore._namespace import Array, is_symbolic, logistic, namespace
from gatecore.algebra import Gate, sigmoid
from gatecore.init import Rng
from gatecore.mechanisms import Mechanism, mechanism
from gatecore.normalization import layer_norm
from gatecore.normalization import row as _row

Params = Mapping[str, Array]
States = tuple[Array, ...]
_MOST_WEIGHTS = 1 << 40  # terabytes
STATE_CANDIDATE = "state_candidate"  # the GRU's U h + b_n, beside its candidate's W x + b
CANDIDATES = ("linear", "tanh")  # activations of MinGRU's candidate
GAINS = ("norm_ih", "norm_hh", "norm_c")  # of layer normalization
_NO_PARAMS: Params = MappingProxyType({})


def update(state: Array, candidate: Array, forget: Gate, input: Gate | None = None) -> Array:
    """The gated state update f̂·c + î·u (equations 1, 5, 13), accurate for every gate in [0, 1].

    Where f̂ < ½ it is that sum; elsewhere c + (î·u − (1 − f̂)·c), the change summed first: added one
    by one, small terms would each be lost to the state's rounding. With tied gates that is
    c + (1 − f̂)(u − c). One form alone fails: the first at long timescales, the second where a large
    state is forgotten. All are (..., hidden): state c, candidate u, and the effective gates, which
    without ``input`` are tied, î = 1 − f̂.

    >>> forgotten = Gate(np.float32(0), np.float32(1))
    >>> state = np.full(1, 12345.6, np.float32)
    >>> update(state, np.full(1, 0.3, np.float32), forgotten)
    array([0.3], dtype=float32)
    """
    kept = forget.value * state
    if input is None:
        written = forget.complement * candidate
        change = forget.complement * (candidate - state)
    else:
        written = input.value * candidate
        change = written - forget.complement * state
    if is_symbolic(kept):  # exact: either form will do
        return kept + written
    return namespace(kept).where(forget.value < 0.5, kept + written, state + change)


def zoneout(old: Array, new: Array, probability: Any) -> Array:
    """Zoneout p·old + (1 − p)·new of a state (Krueger et al. 2016).

    p is the probability of keeping the old value, for evaluation, or a mask of ones and zeros.
    """
    return new + probability * (old - new)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Cell:
    """Base of the recurrent cells: a value, hashable, and equal by class and fields.

    ``core`` is the name of the class, "lstm", "gru", "minimal" or "mingru"; ``state_names`` are
    those of the state's parts, the hidden state first: ("h", "c") for the LSTM, else ("h",);
    ``recurrent`` is whether gates and candidate depend on the hidden state; ``separate_candidate``
    whether the candidate's product Uh is kept apart from that of the input and has a bias of its
    own, ``bias_n``: in the GRU. ``slots`` are
    ``mechanism.slots`` of the cell, ``rows`` the number of rows of the packed weights. ValueError
    or TypeError if a size is below 1 or a mechanism out of range, or if the mechanism cannot have
    the hidden size.

    With ``layer_norm`` the logits are LN(Wx) + LN(Uh) + b, where LN normalizes all rows of a
    product together (Ba et al. 2016) and has the gains ``norm_ih`` and ``norm_hh``; an LSTM's
    output is o·tanh(LN(c)), with the gain ``norm_c`` and the bias ``norm_c_bias``. A MinGRU's are
    LN(Wx) + b: it has no product Uh. The mechanism's biases are added after the normalization:
    initial timescales are the same with and without it.
    """

    core: ClassVar[str]
    state_names: ClassVar[tuple[str, ...]] = ("h",)
    recurrent: ClassVar[bool] = True
    separate_candidate: ClassVar[bool] = False
    candidate = "tanh"  # the candidate's activation

    input_size: int
    hidden_size: int
    mechanism: Mechanism
    layer_norm: bool = False
    slots: tuple[tuple[str, int], ...] = dataclasses.field(init=False, compare=False)
    rows: int = dataclasses.field(init=False, compare=False)

    def __init__(self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR",
                 layer_norm: bool = False) -> None:  # fmt: skip
        fields = vars(self)  # the class is frozen: there is no assignment
        fields["input_size"] = _checks.integer("input_size", input_size)
        fields["hidden_size"] = _checks.integer("hidden_size", hidden_size)
        fields["mechanism"] = _mechanism(mechanism)
        fields["layer_norm"] = _checks.flag("layer_norm", layer_norm)
        fields["slots"] = self.mechanism.slots(self.core, self.hidden_size)
        fields["rows"] = self.mechanism.rows(self.core, self.hidden_size)
        if (count := self.rows * (self.input_size + self.hidden_size)) > _MOST_WEIGHTS:
            raise ValueError(f"input_size={input_size} and hidden_size={hidden_size} make {count} "
                             f"weights, and at most {_MOST_WEIGHTS} are supported: take fewer "
                             "units")  # fmt: skip

    def __repr__(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}"
        norm = ", layer_norm=True" if self.layer_norm else ""
        return f"{type(self).__name__}({sizes}, mechanism={self.mechanism.name!r}{norm})"

    @property
    def kind(self) -> str:
        """The name of the equations: ``core``, with layer normalization for example "lstm_norm"."""
        return f"{self.core}_norm" if self.layer_norm else self.core

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters by name."""
        norm = {"norm_ih": (self.rows,), "norm_hh": (self.rows,)} if self.layer_norm else {}
        return {"weight_ih": (self.rows, self.input_size),
                "weight_hh": (self.rows, self.hidden_size), "bias": (self.rows,),
                **norm}  # fmt: skip

    def init(self, rng: Rng) -> dict[str, np.ndarray]:
        """Initial parameters, float64: weights U(−1/√d, 1/√d), the mechanism's biases, gains 1.

        Other biases are 0.
        """
        rng = _checks.generator(rng)
        bound = self.hidden_size**-0.5
        params = {name: rng.uniform(-bound, bound, shape) if len(shape) == 2
                  else np.ones(shape) if name in GAINS else np.zeros(shape)
                  for name, shape in self.parameter_shapes().items()}  # fmt: skip
        biases = self.mechanism.biases(self.core, self.hidden_size, rng)
        return {**params, "bias": np.concatenate(list(biases.values()))}

    def parts(self, state: Any, name: str = "state") -> tuple[Any, ...]:
        """The parts of a state (h, c) or h as a tuple, in the order of ``state_names``.

        Those of None are None. An LSTM's state that is no pair raises ValueError, which calls it
        ``name``.
        """
        if state is None or len(self.state_names) == 1:
            return (state,) * len(self.state_names)
        if not isinstance(state, tuple | list) or len(state) != len(self.state_names):
            raise ValueError(f"{name} must be a pair (h, c), got {type(state).__name__}")
        return tuple(state)

    def state(self, parts: Sequence[Any]) -> Any:
        """The state of these parts: the inverse of :meth:`parts`."""
        return parts[0] if len(self.state_names) == 1 else tuple(parts)

    def project(self, params: Params, x: Array) -> Array:
        """The input's part of the logits, (..., input) to (..., rows): Wx + b (equation 8)."""
        return self.shift(params, x @ params["weight_ih"].T)

    def shift(self, params: Params, product: Array) -> Array:
        """The input's part of the logits from the product Wx, both (..., rows)."""
        if self.layer_norm:
            return layer_norm(product, params["norm_ih"], params["bias"])
        return product + _row(params["bias"], product.ndim)

    def recur(self, params: Params, hidden: Array) -> Array | None:
        """The hidden state's part of the logits, (..., hidden) to (..., rows): Uh.

        None if the logits do not depend on the hidden state.
        """
        if not self.recurrent:
            return None
        product = hidden @ params["weight_hh"].T
        return layer_norm(product, params["norm_hh"]) if self.layer_norm else product

    def split(self, packed: Array) -> dict[str, Array]:
        """The slots (..., width) of a packed array (..., rows), by name."""
        slots, start = {}, 0
        for name, width in self.slots:
            slots[name] = packed[..., start : start + width]
            start += width
        return slots

    def gates(self, params: Params, x: Array, state: Any) -> tuple[Gate, Gate]:
        """The effective forget and input gates (batch, hidden) of one step."""
        return self.mechanism.gates(self.logits(params, x, self.parts(state)[0]))

    def step(self, params: Params, x: Array, state: Any, zoneout: Any = None) -> tuple[Array, Any]:
        """One step from x (batch, input): the output (batch, hidden) and the next state.

        ``params`` are as :meth:`init` returns them, ``state`` is (h, c) or h, each (batch, hidden).
        ``zoneout`` is the probability of keeping the old state, or a mask (batch, hidden) of ones
        and zeros; for the LSTM a pair, of the cell state and the hidden state.
        """
        if zoneout is not None and len(self.state_names) == 1:
            zoneout = (zoneout,)
        states = self.advance(params, self.project(params, x), self.parts(state), zoneout)
        return states[0], self.state(states)

    def scan(self, params: Params, xs: Array, state: Any = None) -> tuple[Array, Any]:
        """All steps from xs (time, batch, input): the outputs (time, batch, hidden), last state.

        The initial state is zero by default.
        """
        states = self.parts(self.initial_state(xs) if state is None else state)
        outputs = []
        projected = self.project(params, xs)
        for t in range(xs.shape[0]):
            states = self.advance(params, projected[t, ...], states)
            outputs.append(states[0])
        return namespace(xs).stack(outputs), self.state(states)

    def initial_state(self, xs: Array) -> Any:
        """The zero state, of the dtype and on the device of xs (time, batch, input)."""
        shape = (xs.shape[1], self.hidden_size)
        zeros = functools.partial(namespace(xs).zeros, shape, dtype=xs.dtype, device=device(xs))
        return self.state([zeros() for _ in self.state_names])

    def advance(self, params: Params, projected: Array, states: States,
                zoneout: Any = None) -> States:  # fmt: skip
        """One step from the projected input (batch, rows) and the parts of a state to new parts.

        ``zoneout`` has a probability or mask for each part, that of the hidden state last.
        """
        logits = self.join(params, projected, self.recur(params, states[0]))
        return self.complete(logits, self.mechanism.gates(logits), states, zoneout, params)

    def complete(self, logits: Params, gates: tuple[Gate, Gate], states: States,
                 zoneout: Any = None, params: Params = _NO_PARAMS) -> States:  # fmt: skip
        """The rest of :meth:`advance`, from the logits and the effective gates.

        It is elementwise, except that a layer-normalized LSTM reads the ``params`` of its output.
        """
        new = self._next(logits, gates, states, params)
        if zoneout is None:
            return new
        return tuple(map(_zoneout, states, new, reversed(zoneout)))

    def join(self, params: Params, projected: Array, recurrent: Array | None) -> dict[str, Array]:
        """The logits by slot from the results (..., rows) of :meth:`project` and :meth:`recur`."""
        return self.split(projected if recurrent is None else projected + recurrent)

    def logits(self, params: Params, x: Array, hidden: Array) -> dict[str, Array]:
        """The logits by slot, from x (..., input) and the hidden state (..., hidden) before it."""
        return self.join(params, self.project(params, x), self.recur(params, hidden))

    def _next(self, logits: Params, gates: tuple[Gate, Gate], states: States,
              params: Params) -> States:  # fmt: skip
        raise TypeError("Cell is the common base: use LSTM, GRU, Minimal or MinGRU")

    def _update(self, state: Array, candidate: Array, gates: tuple[Gate, Gate]) -> Array:
        forget, input = gates
        tied = self.mechanism.ties_gates(self.core)
        return update(state, candidate, forget, None if tied else input)


class LSTM(Cell):
    """Long short-term memory with any gate mechanism (equations 2-7, 9-15), of state (h, c).

    Parameters, attributes and errors are those of :class:`Cell`.

    >>> cell = LSTM(3, 8, mechanism="UR")
    >>> params = cell.init(rng=0)
    >>> outputs, (h, c) = cell.scan(params, np.zeros((5, 2, 3)))
    >>> outputs.shape, c.shape
    ((5, 2, 8), (2, 8))
    """

    core = "lstm"
    state_names = ("h", "c")

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("norm_c", "norm_c_bias") if self.layer_norm else ()
        return {**super().parameter_shapes(), **dict.fromkeys(names, (self.hidden_size,))}

    def _next(self, logits: Params, gates: tuple[Gate, Gate], states: States,
              params: Params) -> States:  # fmt: skip
        tanh = namespace(states[1]).tanh
        cell = inner = self._update(states[1], tanh(logits["candidate"]), gates)
        if self.layer_norm:
            inner = layer_norm(cell, params["norm_c"], params["norm_c_bias"])
        return logistic(namespace(cell), logits["output"])[0] * tanh(inner), cell


class GRU(Cell):
    """Gated recurrent unit, reset after the product as in torch and cuDNN, of state h.

    n = tanh(Wx + b + q∘(Uh + b_n)), h' = g·h + (1 − g)·n: the update gate is the mechanism's
    forget gate. Parameters, attributes and errors are those of :class:`Cell`.

    >>> GRU(3, 8, mechanism="OR").parameter_shapes()["bias_n"]
    (8,)
    """

    core = "gru"
    separate_candidate = True

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {**super().parameter_shapes(), "bias_n": (self.hidden_size,)}

    def join(self, params: Params, projected: Array, recurrent: Array) -> dict[str, Array]:
        x, h = self.split(projected), self.split(recurrent)
        logits = {name: x[name] + h[name] for name in x}
        logits["candidate"] = x["candidate"]
        logits[STATE_CANDIDATE] = h["candidate"] + _row(params["bias_n"], recurrent.ndim)
        return logits

    def _next(self, logits: Params, gates: tuple[Gate, Gate], states: States,
              params: Params) -> States:  # fmt: skip
        reset = sigmoid(logits["reset"]).value
        inner = logits["candidate"] + reset * logits[STATE_CANDIDATE]
        return (self._update(states[0], namespace(states[0]).tanh(inner), gates),)


class Minimal(Cell):
    """The minimal gated cell h' = g·h + (1 − g)·tanh(Wx + Uh + b), of state h (footnote 4; JANET).

    Parameters, attributes and errors are those of :class:`Cell`.

    >>> Minimal(3, 8, mechanism="standard").rows
    16
    """

    core = "minimal"

    def _next(self, logits: Params, gates: tuple[Gate, Gate], states: States,
              params: Params) -> States:  # fmt: skip
        return (self._update(states[0], namespace(states[0]).tanh(logits["candidate"]), gates),)


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class MinGRU(Cell):
    """The linear recurrence h' = g·h + (1 − g)·u with gates and candidate u of x alone, of state h.

    Feng et al. 2024; with ``candidate="tanh"`` the GILR of Martin & Cundy 2018. u = Wx + b if the
    ``candidate`` is "linear", its tanh if "tanh". There is no ``weight_hh``: a whole sequence can
    be computed at once. Other parameters, attributes and errors are those of :class:`Cell`.

    >>> cell = MinGRU(3, 8, mechanism="UR")
    >>> outputs, h = cell.scan(cell.init(rng=0), np.zeros((5, 2, 3)))
    >>> outputs.shape, cell.parameter_shapes()
    ((5, 2, 8), {'weight_ih': (24, 3), 'bias': (24,)})
    """

    core = "mingru"
    recurrent = False

    candidate: str = "linear"

    def __init__(self, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR",
                 layer_norm: bool = False, *, candidate: str = "linear") -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, mechanism, layer_norm)
        vars(self)["candidate"] = _checks.choice("candidate", candidate, CANDIDATES)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, candidate={self.candidate!r})"

    @property
    def kind(self) -> str:
        core = self.core if self.candidate == "linear" else f"{self.core}_{self.candidate}"
        return core + "_norm" * self.layer_norm

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = super().parameter_shapes().items()
        return {name: shape for name, shape in shapes if not name.endswith("_hh")}

    def _next(self, logits: Params, gates: tuple[Gate, Gate], states: States,
              params: Params) -> States:  # fmt: skip
        candidate = logits["candidate"]
        if self.candidate == "tanh":
            candidate = namespace(candidate).tanh(candidate)
        return (self._update(states[0], candidate, gates),)


CELLS: dict[str, type[Cell]] = {cell.core: cell for cell in (LSTM, GRU, Minimal, MinGRU)}

_mechanism, _zoneout = mechanism, zoneout  # arguments of these names hide the functions
