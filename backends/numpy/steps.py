"""One step of each cell, forward and backward, in place.

A step object owns the arrays that a forward pass saves for its pullback. ``states[t]`` is what step
t starts from: the hidden states, and the cell states of an LSTM. Backward, ``d_hidden`` and
``d_cell`` (batch, hidden) hold the running cotangents of what a step ends with; ``backward(t)``
turns them into those of what it starts from, except for the path through the recurrent weights,
whose logits' cotangents it leaves in ``d_logits``. :class:`Steps` documents the interface; a kernel
that replaces the NumPy calls keeps it.
"""

from typing import Any

from gatecore.algebra import Gate
from gatecore.backends.common.layout import STATE_CANDIDATE, Plan
from gatecore.backends.numpy.gating import Gating
from gatecore.backends.numpy.loop import Loop

Array = Any


class Steps(Loop):
    """What the cells share.

    Parameters
    ----------
    xp : array namespace
    plan : Plan
    logits : array (time, batch, plan.width)
        The projected input; overwritten by activations.
    take : callable
        ``take(width, steps=True, extra=0)``: an array (time + extra, batch, width) that is kept
        for the pullback, or (batch, width) of scratch.
    zoneout : the amounts of old state kept, each a number or an array (time, batch, hidden)
    """

    bias: Array  # the GRU's b_n (hidden,), set by the driver
    direct = True  # whether the state reaches the next one beside the recurrent weights too

    def __init__(self, xp: Any, plan: Plan, logits: Array, take: Any, zoneout: Any = None) -> None:
        self.xp, self.plan, self.logits, self.zoneout = xp, plan, logits, zoneout
        hidden = plan.hidden_size
        self.gating = Gating(xp, plan, logits, take)
        self.hidden = take(hidden, extra=1)
        self.candidate = logits[..., plan.columns["candidate"]]
        self.d_hidden, self.d_forget, self.d_input, self.scratch, self.old = (
            take(hidden, steps=False) for _ in range(5)
        )

    @property
    def states(self) -> tuple[Array, ...]:
        """The states (time + 1, batch, hidden): before each step, and after the last."""
        return (self.hidden,)

    @property
    def cotangents(self) -> tuple[Array, ...]:
        """The running cotangents of ``states``."""
        return (self.d_hidden,)

    def gates(self) -> dict[str, Gate]:
        """The gate slots' own activations at every step, by slot name."""
        value, complement = self.gating.value, self.gating.complement
        return {slot: Gate(value[slot], complement[slot]) for slot in self.plan.complements}

    def forward(self, t: int, recurrent: Array) -> None:
        """From ``states[t]`` and its product with the weights (batch, rows) to the next states."""
        raise TypeError("Steps is the common base")

    def backward(self, t: int, d_logits: Array) -> None:
        """From the cotangents of the next states to those of the step's logits and old states."""
        raise TypeError("Steps is the common base")

    def _update(self, t: int, forget: Array, old: Array, new: Array) -> None:
        """``gatecore.cells.update``: f̂·c + î·u, and c + (î·u − (1 − f̂)·c) where f̂ > ½.

        Without a branch: with b = c where f̂ > ½, else 0, it is b + (f̂·(c − b) − (1 − f̂)·b + î·u).
        """
        xp, change, scratch = self.xp, self.old, self.scratch
        xp.rint(forget, out=new)
        xp.multiply(new, old, out=new)
        xp.subtract(old, new, out=change)
        xp.multiply(change, forget, out=change)
        xp.multiply(new, self.gating.decay[t], out=scratch)
        xp.subtract(change, scratch, out=change)
        xp.multiply(self.candidate[t], self.gating.write[t], out=scratch)
        xp.add(change, scratch, out=change)
        xp.add(new, change, out=new)

    def _update_backward(self, t: int, old: Array, d_state: Array, d_candidate: Array) -> None:
        """d_state becomes that of the old state; the gates' go to d_forget, d_input."""
        xp, u, decay = self.xp, self.candidate[t], self.gating.decay[t]
        if self.plan.tied:
            xp.subtract(old, u, out=self.d_forget)
            xp.multiply(self.d_forget, d_state, out=self.d_forget)
            xp.multiply(d_state, decay, out=d_candidate)
            xp.subtract(d_state, d_candidate, out=d_state)
        else:
            xp.multiply(d_state, old, out=self.d_forget)
            xp.multiply(d_state, u, out=self.d_input)
            xp.multiply(d_state, self.gating.write[t], out=d_candidate)
            xp.multiply(d_state, decay, out=self.scratch)
            xp.subtract(d_state, self.scratch, out=d_state)
        self._tanh_backward(d_candidate, u)

    def _gates_backward(self, t: int, d_logits: Array) -> None:
        self.gating.backward(t, self.d_forget, None if self.plan.tied else self.d_input, d_logits)

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

    def _keep(self, amount: Any, t: int, old: Array, new: Array) -> None:
        """Zoneout: new + d(old − new)."""
        xp = self.xp
        xp.subtract(old, new, out=self.scratch)
        xp.multiply(self.scratch, self._amount(amount, t), out=self.scratch)
        xp.add(new, self.scratch, out=new)

    def _keep_backward(self, amount: Any, t: int, cotangent: Array, kept: Array) -> None:
        """``cotangent`` of the result becomes that of the new value, ``kept`` of the old one."""
        self.xp.multiply(cotangent, self._amount(amount, t), out=kept)
        self.xp.subtract(cotangent, kept, out=cotangent)

    @staticmethod
    def _amount(amount: Any, t: int) -> Any:
        return amount[t] if getattr(amount, "ndim", 0) else amount


class LSTMSteps(Steps):
    """Equations (2)-(7), with the effective gates in (5) as the mechanism forms them."""

    def __init__(self, xp: Any, plan: Plan, logits: Array, take: Any, zoneout: Any = None) -> None:
        super().__init__(xp, plan, logits, take, zoneout)
        hidden = plan.hidden_size
        self.cell = take(hidden, extra=1)
        self.tanh_cell = take(hidden)
        self.d_cell = take(hidden, steps=False)
        self.kept_cell = take(hidden, steps=False)
        self.output = logits[..., plan.columns["output"]]
        self.direct = zoneout is not None

    @property
    def states(self) -> tuple[Array, ...]:
        return self.hidden, self.cell

    @property
    def cotangents(self) -> tuple[Array, ...]:
        return self.d_hidden, self.d_cell

    def forward(self, t: int, recurrent: Array) -> None:
        xp, hidden, cell = self.xp, self.hidden[t + 1], self.cell[t + 1]
        xp.add(self.logits[t], recurrent, out=self.logits[t])
        xp.tanh(self.candidate[t], out=self.candidate[t])
        self._update(t, self.gating.activate(t), self.cell[t], cell)
        xp.tanh(cell, out=self.tanh_cell[t])
        xp.multiply(self.output[t], self.tanh_cell[t], out=hidden)
        if self.zoneout is not None:
            self._keep(self.zoneout[0], t, self.cell[t], cell)
            self._keep(self.zoneout[1], t, self.hidden[t], hidden)

    def backward(self, t: int, d_logits: Array) -> None:
        xp, columns = self.xp, self.plan.columns
        if self.zoneout is not None:
            self._keep_backward(self.zoneout[0], t, self.d_cell, self.kept_cell)
            self._keep_backward(self.zoneout[1], t, self.d_hidden, self.old)
        d_output = d_logits[:, columns["output"]]
        xp.multiply(self.d_hidden, self.tanh_cell[t], out=d_output)
        self._sigmoid_backward(d_output, self.output[t])
        xp.multiply(self.d_hidden, self.output[t], out=self.d_hidden)
        self._tanh_backward(self.d_hidden, self.tanh_cell[t])
        xp.add(self.d_cell, self.d_hidden, out=self.d_cell)
        self._update_backward(t, self.cell[t], self.d_cell, d_logits[:, columns["candidate"]])
        self._gates_backward(t, d_logits)
        if self.zoneout is not None:
            xp.add(self.d_cell, self.kept_cell, out=self.d_cell)
            self.d_hidden[...] = self.old


class MinimalSteps(Steps):
    """h' = h + (1 − g)(u − h) with u = tanh of its logits."""

    def forward(self, t: int, recurrent: Array) -> None:
        forget = self._activate(t, recurrent)
        self.xp.tanh(self.candidate[t], out=self.candidate[t])
        self._update(t, forget, self.hidden[t], self.hidden[t + 1])
        if self.zoneout is not None:
            self._keep(self.zoneout, t, self.hidden[t], self.hidden[t + 1])

    def backward(self, t: int, d_logits: Array) -> None:
        if self.zoneout is not None:
            self._keep_backward(self.zoneout, t, self.d_hidden, self.old)
        d_candidate = d_logits[:, self.plan.columns["candidate"]]
        self._update_backward(t, self.hidden[t], self.d_hidden, d_candidate)
        self._candidate_backward(t, d_candidate, d_logits)
        self._gates_backward(t, d_logits)
        if self.zoneout is not None:
            self.xp.add(self.d_hidden, self.old, out=self.d_hidden)

    def _activate(self, t: int, recurrent: Array) -> Array:
        """Gates and the candidate's logits; returns the effective forget gate's value."""
        self.xp.add(self.logits[t], recurrent, out=self.logits[t])
        return self.gating.activate(t)

    def _candidate_backward(self, t: int, d_candidate: Array, d_logits: Array) -> None:
        """What the candidate's logits consist of beside the input's and the state's part."""


class GRUSteps(MinimalSteps):
    """The minimal cell whose candidate is tanh(Wx + b + q∘(Uh + b_n)), q the reset gate."""

    def __init__(self, xp: Any, plan: Plan, logits: Array, take: Any, zoneout: Any = None) -> None:
        super().__init__(xp, plan, logits, take, zoneout)
        self.reset = logits[..., plan.columns["reset"]]
        self.state_candidate = logits[..., plan.columns[STATE_CANDIDATE]]
        self.both = logits[..., plan.hidden_size : plan.input_window.stop]

    def _activate(self, t: int, recurrent: Array) -> Array:
        xp, split = self.xp, self.both.shape[-1]
        xp.add(self.both[t], recurrent[:, :split], out=self.both[t])
        xp.add(recurrent[:, split:], self.bias, out=self.state_candidate[t])
        forget = self.gating.activate(t)
        xp.multiply(self.reset[t], self.state_candidate[t], out=self.scratch)
        xp.add(self.candidate[t], self.scratch, out=self.candidate[t])
        return forget

    def _candidate_backward(self, t: int, d_candidate: Array, d_logits: Array) -> None:
        columns = self.plan.columns
        d_reset = d_logits[:, columns["reset"]]
        self.xp.multiply(d_candidate, self.reset[t], out=d_logits[:, columns[STATE_CANDIDATE]])
        self.xp.multiply(d_candidate, self.state_candidate[t], out=d_reset)
        self._sigmoid_backward(d_reset, self.reset[t])


STEPS: dict[str, type[Steps]] = {"lstm": LSTMSteps, "gru": GRUSteps, "minimal": MinimalSteps}
