"""The time loop of each cell, forward and backward, in place.

:class:`Steps` owns the arrays that a forward pass saves for its pullback. ``states[t]`` is the
state before step t; backward, ``cotangents`` (batch, hidden) are those of the state after a step,
and become those of the state before it.
"""

import abc
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gatecore.algebra import Gate
from gatecore.backends.common.layout import Layout
from gatecore.backends.numpy.gating import Acquire, Gating
from gatecore.backends.numpy.layer_norm import LayerNorm
from gatecore.cells import STATE_CANDIDATE

Array = Any


class Steps(abc.ABC):
    """Base of the cells' time loops.

    ``logits`` (time, batch, layout.width) are the projected input, overwritten by activations;
    ``acquire`` is that of ``bptt.Layer``; ``zoneout`` has probabilities or masks (time, batch,
    hidden) in the order cell, hidden.
    """

    bias: Array  # the GRU's b_n (hidden,)
    norms: Mapping[str, LayerNorm] = MappingProxyType({})  # with layer normalization
    direct = True  # whether the hidden state reaches the next one without the recurrent weights

    def __init__(self, xp: Any, layout: Layout, logits: Array, acquire: Acquire,
                 zoneout: Any = None) -> None:  # fmt: skip
        self.xp, self.layout, self.logits = xp, layout, logits
        self.zoneout = () if zoneout is None else tuple(reversed(zoneout))
        hidden = layout.hidden_size
        self.gating = Gating(xp, layout, logits, acquire)
        self.hidden = acquire(hidden, extra=1)
        self.candidate = logits[..., layout.columns["candidate"]]
        self.d_hidden, self.d_forget, self.d_input, self.scratch, self.change, *self.zoned = (
            acquire(hidden, steps=False) for _ in range(5 + len(self.zoneout))
        )

    @property
    def states(self) -> tuple[Array, ...]:
        """The states (time + 1, batch, hidden): before each step, and after the last."""
        return (self.hidden,)

    @property
    def cotangents(self) -> tuple[Array, ...]:
        """The cotangents of the parts of a state, (batch, hidden) each."""
        return (self.d_hidden,)

    @property
    def running(self) -> tuple[Array, ...]:
        """Further arrays (batch, hidden) of the state before a step, which resets zero too."""
        return ()

    def gates(self) -> dict[str, Gate]:
        """The activations of the gate slots at every step, by slot name."""
        value, complement = self.gating.value, self.gating.complement
        return {slot: Gate(value[slot], complement[slot]) for slot in self.layout.complements}

    def scan(self, engine: Any, weights: Array | None, resets: Array | None,
             num_outputs: int) -> tuple[Array, ...]:  # fmt: skip
        """All steps from ``states[..][0]``: copies of the first ``num_outputs`` states after each.

        Before a step the state is zeroed where ``resets``, bool (time, batch), is true. Without
        recurrent ``weights`` the logits do not depend on the state.
        """
        multiply = None if weights is None else engine.product(weights.T, self.logits.shape[1])
        states, rows = self.states, _rows(resets)
        outputs = tuple(self.xp.empty(s[1:].shape, dtype=s.dtype) for s in states[:num_outputs])
        for t in range(len(self.logits)):
            _reset(rows, t, [*(s[t] for s in states), *self.running])
            recurrent = multiply and multiply(self.hidden[t])
            if self.norms:
                projected = self.logits[t, :, self.layout.input_window]
                self.norms["norm_ih"].forward(t, projected, out=projected)
            if "norm_hh" in self.norms:
                self.norms["norm_hh"].forward(t, recurrent, out=recurrent)
            self._forward(t, recurrent)
            for probability, part in zip(self.zoneout, states, strict=False):
                self._zoneout(_at(probability, t), part[t], part[t + 1])
            for output, part in zip(outputs, states, strict=False):
                output[t] = part[t + 1]
        return outputs

    def scan_backward(
        self, engine: Any, weights: Array | None, resets: Array | None, d_logits: Array,
        d_outputs: Sequence[Array | None],
    ) -> None:  # fmt: skip
        """From the last state's ``cotangents`` to the first one's, in place, and ``d_logits``.

        ``d_outputs`` are the cotangents of what :meth:`scan` returned. With layer normalization
        ``d_logits`` gets those of the two products, in ``input_window`` and ``product_window``.
        """
        xp, cotangents, rows = self.xp, self.cotangents, _rows(resets)
        multiply = None if weights is None else engine.product(weights, self.logits.shape[1])
        pairs = [(c, d) for c, d in zip(cotangents, d_outputs, strict=False) if d is not None]
        products = d_logits[..., self.layout.product_window]
        for norm in self.norms.values():
            norm.reset_gradients()
        for t in reversed(range(len(d_logits))):
            for cotangent, outer in pairs:
                xp.add(cotangent, outer[t], out=cotangent)
            for part, d_new, d_old in zip(self.zoneout, cotangents, self.zoned, strict=False):
                xp.multiply(d_new, _at(part, t), out=d_old)
                xp.subtract(d_new, d_old, out=d_new)
            self._backward(t, d_logits[t])
            if "norm_hh" in self.norms:  # before the input's, which overwrites the logits'
                d_state = d_logits[t, :, self.layout.state_window]
                self.norms["norm_hh"].backward(t, d_state, out=products[t])
            if self.norms:
                d_input = d_logits[t, :, self.layout.input_window]
                self.norms["norm_ih"].backward(t, d_input, out=d_input)
            if not self.direct:
                self.d_hidden[...] = 0
            for cotangent, zoned in zip(cotangents, self.zoned, strict=False):
                xp.add(cotangent, zoned, out=cotangent)
            if multiply is not None:
                xp.add(self.d_hidden, multiply(products[t]), out=self.d_hidden)
            _reset(rows, t, cotangents)

    @abc.abstractmethod
    def _forward(self, t: int, recurrent: Array | None) -> None:
        """From ``states[t]`` and its product with the weights (batch, rows) to the next states."""

    @abc.abstractmethod
    def _backward(self, t: int, d_logits: Array) -> None:
        """From the next states' cotangents to the logits' and, weights apart, the old states'."""

    def _update(self, t: int, forget: Array, old: Array, new: Array) -> None:
        """``gatecore.cells.update``: f̂·c + î·u, and c + (î·u − (1 − f̂)·c) where f̂ > ½.

        Without a branch: with b = c where f̂ > ½, else 0, it is b + (f̂·(c − b) − (1 − f̂)·b + î·u).
        """
        xp, change, scratch = self.xp, self.change, self.scratch
        xp.rint(forget, out=new)
        xp.multiply(new, old, out=new)
        xp.subtract(old, new, out=change)
        xp.multiply(change, forget, out=change)
        xp.multiply(new, self.gating.forget_complement[t], out=scratch)
        xp.subtract(change, scratch, out=change)
        xp.multiply(self.candidate[t], self.gating.input[t], out=scratch)
        xp.add(change, scratch, out=change)
        xp.add(new, change, out=new)

    def _update_backward(self, t: int, old: Array, d_state: Array, d_candidate: Array) -> None:
        """d_state becomes that of the old state; the gates' go to d_forget, d_input."""
        xp, u, lost = self.xp, self.candidate[t], d_candidate
        if self.layout.tied:
            xp.subtract(old, u, out=self.d_forget)
            xp.multiply(self.d_forget, d_state, out=self.d_forget)
        else:
            xp.multiply(d_state, old, out=self.d_forget)
            xp.multiply(d_state, u, out=self.d_input)
        xp.multiply(d_state, self.gating.input[t], out=d_candidate)
        if not self.layout.tied:
            lost = xp.multiply(d_state, self.gating.forget_complement[t], out=self.scratch)
        xp.subtract(d_state, lost, out=d_state)
        if self.layout.cell.candidate == "tanh":
            self._tanh_backward(d_candidate, u)

    def _tanh_backward(self, cotangent: Array, value: Array) -> None:
        """Times 1 − value² as (1 − value)(1 + value), in place."""
        xp = self.xp
        xp.subtract(1, value, out=self.scratch)
        xp.multiply(cotangent, self.scratch, out=cotangent)
        xp.add(1, value, out=self.scratch)
        xp.multiply(cotangent, self.scratch, out=cotangent)

    def _sigmoid_backward(self, cotangent: Array, value: Array) -> None:
        xp = self.xp
        xp.multiply(cotangent, value, out=cotangent)
        xp.subtract(1, value, out=self.scratch)
        xp.multiply(cotangent, self.scratch, out=cotangent)

    def _zoneout(self, probability: Any, old: Array, new: Array) -> None:
        """New + p(old − new), in place."""
        xp = self.xp
        xp.subtract(old, new, out=self.scratch)
        xp.multiply(self.scratch, probability, out=self.scratch)
        xp.add(new, self.scratch, out=new)


class LSTMSteps(Steps):
    """Equations (2)-(7), with the effective gates in (5) as the mechanism forms them."""

    direct = False

    def __init__(self, xp: Any, layout: Layout, logits: Array, acquire: Acquire,
                 zoneout: Any = None) -> None:  # fmt: skip
        super().__init__(xp, layout, logits, acquire, zoneout)
        self.cell = acquire(layout.hidden_size, extra=1)
        self.tanh_cell = acquire(layout.hidden_size)
        self.d_cell = acquire(layout.hidden_size, steps=False)
        self.output = logits[..., layout.columns["output"]]

    @property
    def states(self) -> tuple[Array, ...]:
        return self.hidden, self.cell

    @property
    def cotangents(self) -> tuple[Array, ...]:
        return self.d_hidden, self.d_cell

    def _forward(self, t: int, recurrent: Array | None) -> None:
        xp, cell = self.xp, self.cell[t + 1]
        xp.add(self.logits[t], recurrent, out=self.logits[t])
        xp.tanh(self.candidate[t], out=self.candidate[t])
        self._update(t, self.gating.activate(t), self.cell[t], cell)
        inner = cell
        if "norm_c" in self.norms:
            inner = self.tanh_cell[t]
            self.norms["norm_c"].forward(t, cell, out=inner)
        xp.tanh(inner, out=self.tanh_cell[t])
        xp.multiply(self.output[t], self.tanh_cell[t], out=self.hidden[t + 1])

    def _backward(self, t: int, d_logits: Array) -> None:
        xp, columns = self.xp, self.layout.columns
        d_output = d_logits[:, columns["output"]]
        xp.multiply(self.d_hidden, self.tanh_cell[t], out=d_output)
        self._sigmoid_backward(d_output, self.output[t])
        xp.multiply(self.d_hidden, self.output[t], out=self.d_hidden)
        self._tanh_backward(self.d_hidden, self.tanh_cell[t])
        if "norm_c" in self.norms:
            self.norms["norm_c"].backward(t, self.d_hidden, out=self.d_hidden)
        xp.add(self.d_cell, self.d_hidden, out=self.d_cell)
        self._update_backward(t, self.cell[t], self.d_cell, d_logits[:, columns["candidate"]])
        self.gating.backward(t, self.d_forget, self.d_input, d_logits)


class MinimalSteps(Steps):
    """h' = g·h + (1 − g)·u with u = tanh of its logits."""

    def _forward(self, t: int, recurrent: Array | None) -> None:
        forget = self._activate(t, recurrent)
        self.xp.tanh(self.candidate[t], out=self.candidate[t])
        self._update(t, forget, self.hidden[t], self.hidden[t + 1])

    def _backward(self, t: int, d_logits: Array) -> None:
        d_candidate = d_logits[:, self.layout.columns["candidate"]]
        self._update_backward(t, self.hidden[t], self.d_hidden, d_candidate)
        self._candidate_backward(t, d_candidate, d_logits)
        self.gating.backward(t, self.d_forget, self.d_input, d_logits)

    def _activate(self, t: int, recurrent: Any) -> Array:
        """Gates and the candidate's logits; returns the effective forget gate's value."""
        self.xp.add(self.logits[t], recurrent, out=self.logits[t])
        return self.gating.activate(t)

    def _candidate_backward(self, t: int, d_candidate: Array, d_logits: Array) -> None:
        """Cotangents of the logits that the candidate's logits are made of."""


class GRUSteps(MinimalSteps):
    """The minimal cell whose candidate is tanh(Wx + b + q∘(Uh + b_n)), q the reset gate."""

    def __init__(self, xp: Any, layout: Layout, logits: Array, acquire: Acquire,
                 zoneout: Any = None) -> None:  # fmt: skip
        super().__init__(xp, layout, logits, acquire, zoneout)
        self.reset = logits[..., layout.columns["reset"]]
        self.state_candidate = logits[..., layout.columns[STATE_CANDIDATE]]
        self.both = logits[..., layout.hidden_size : layout.input_window.stop]

    def _activate(self, t: int, recurrent: Any) -> Array:
        xp, split = self.xp, self.both.shape[-1]
        xp.add(self.both[t], recurrent[:, :split], out=self.both[t])
        xp.add(recurrent[:, split:], self.bias, out=self.state_candidate[t])
        forget = self.gating.activate(t)
        xp.multiply(self.reset[t], self.state_candidate[t], out=self.scratch)
        xp.add(self.candidate[t], self.scratch, out=self.candidate[t])
        return forget

    def _candidate_backward(self, t: int, d_candidate: Array, d_logits: Array) -> None:
        columns = self.layout.columns
        d_reset = d_logits[:, columns["reset"]]
        self.xp.multiply(d_candidate, self.reset[t], out=d_logits[:, columns[STATE_CANDIDATE]])
        self.xp.multiply(d_candidate, self.state_candidate[t], out=d_reset)
        self._sigmoid_backward(d_reset, self.reset[t])


class MinGRUSteps(MinimalSteps):
    """The minimal cell without recurrent weights, whose candidate may be linear.

    State and cotangent go from step to step in float64: a unit of a long timescale changes by less
    than float32's rounding error times 65,536 steps. With zoneout the state is rounded.
    """

    def __init__(self, xp: Any, layout: Layout, logits: Array, acquire: Acquire,
                 zoneout: Any = None) -> None:  # fmt: skip
        super().__init__(xp, layout, logits, acquire, zoneout)
        shape = self.d_hidden.shape
        self.before, self.after, self.d_hidden = (xp.empty(shape, xp.float64) for _ in range(3))

    @property
    def running(self) -> tuple[Array, ...]:
        return (self.before,)

    def _forward(self, t: int, recurrent: Array | None) -> None:
        if t == 0 or self.zoneout:
            self.before[...] = self.hidden[t]
        forget = self.gating.activate(t)
        if self.layout.cell.candidate == "tanh":
            self.xp.tanh(self.candidate[t], out=self.candidate[t])
        self._update(t, forget, self.before, self.after)
        self.hidden[t + 1] = self.after
        self.before, self.after = self.after, self.before


STEPS: dict[str, type[Steps]] = {"lstm": LSTMSteps, "gru": GRUSteps, "minimal": MinimalSteps,
                                 "mingru": MinGRUSteps}  # fmt: skip


def _at(probability: Any, t: int) -> Any:
    return probability[t] if getattr(probability, "ndim", 0) else probability


def _rows(resets: Array | None) -> list[Array | None]:
    """For each step the rows (batch,) to reset, None where there are none; empty without resets."""
    if resets is None:
        return []
    due = resets.any(1).tolist()
    return [rows if any_ else None for rows, any_ in zip(resets, due, strict=True)]


def _reset(rows: list[Array | None], t: int, arrays: Sequence[Array]) -> None:
    """Zero these rows of the arrays (batch, hidden): a product with 0 would keep NaN."""
    if rows and rows[t] is not None:
        for array in arrays:
            array[rows[t]] = 0
