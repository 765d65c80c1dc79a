"""Effective gates and their derivatives, in place, one time step at a call.

These are the formulas of ``gatecore.algebra`` and ``gatecore.vjp`` written with ``out=``, so that
the time loop allocates nothing; the tests compare them with those functions. Arrays are (time,
batch, width) views; a method works on step t. Branches are on the mechanism's fields.
"""

from collections.abc import Callable
from typing import Any

from gatecore.backends.common.layout import Layout

Array = Any
Acquire = Callable[..., Array]
Sides = tuple[Array, Array]


class Gating:
    """Activates the logits of one step and forms the effective gates.

    Activations overwrite ``logits`` (time, batch, layout.width). ``acquire(width, steps=True)`` is
    an array (time, batch, width), or (batch, width) of scratch. ``forget_complement`` and ``input``
    (time, batch, hidden) are 1 − f̂ and î, of the effective gates: one array where they are tied.
    """

    def __init__(self, xp: Any, layout: Layout, logits: Array, acquire: Acquire) -> None:
        self.xp, self.layout, self.logits = xp, layout, logits
        self.limit = -87.0 if logits.dtype.itemsize == 4 else -708.0  # exp(-limit) is finite
        self.complements = acquire(layout.complement_width)
        self.softmax: dict[str, Array] = {}
        if layout.ordered:  # the ordered slots' columns are the last ones, in order
            weights, first = acquire(layout.ordered_width), layout.columns[layout.ordered[0]].start
            for slot in layout.ordered:
                part = layout.columns[slot]
                self.softmax[slot] = weights[..., part.start - first : part.stop - first]
        self.exponential = acquire(layout.sigmoids.stop - layout.sigmoids.start, steps=False)
        self.scratch = [acquire(layout.hidden_size, steps=False) for _ in range(4)]
        self.peak = acquire(1, steps=False)
        self.value = {s: logits[..., part] for s, part in layout.columns.items()}
        self.complement = {s: self.complements[..., p] for s, p in layout.complements.items()}
        for slot in filter(layout.mechanism.negated, layout.ordered):
            self.value[slot], self.complement[slot] = self.complement[slot], self.value[slot]
        self.sigmoids = logits[..., layout.sigmoids]
        self.paired = self.sigmoids[..., : layout.paired]
        mechanism, hidden = layout.mechanism, layout.hidden_size
        if mechanism.auxiliary == "none":
            self.forget_complement = self.complement["forget"]
        else:
            self.forget_complement = acquire(hidden)
        self.input: Array = self.forget_complement if self.layout.tied else self.value.get("input")
        if mechanism.kind in ("master", "untied"):
            self.input = acquire(hidden)
        if mechanism.auxiliary == "master":
            # the inner gates (time, batch, n, C) beside master gates (time, batch, n, 1)
            shape = (*self.logits.shape[:2], hidden // mechanism.downsize, mechanism.downsize)
            self.grouped = self.forget_complement.reshape(shape), self.input.reshape(shape)
            self.inner_forget = self._sides("forget", shape)
            self.inner_input = (
                self._sides("input", shape) if "input" in self.value else self.inner_forget[::-1]
            )
            self.master_forget = self._sides("master_forget", (*shape[:3], 1))
            self.master_input = self._sides("master_input", (*shape[:3], 1))
            self.overlap = self.scratch[3][:, : shape[2]].reshape(shape[1], shape[2], 1)

    def _sides(self, slot: str, shape: tuple[int, ...]) -> Sides:
        return self.value[slot].reshape(shape), self.complement[slot].reshape(shape)

    @staticmethod
    def _at(sides: Sides, t: int) -> Sides:
        return sides[0][t], sides[1][t]

    def activate(self, t: int) -> Array:
        """Logits to activations and effective gates; returns the effective forget gate's value.

        That is an array (batch, hidden) which the next step may overwrite.
        """
        self._sigmoid(t)
        for slot in self.layout.ordered:
            self._cumax(slot, t)
        if self.layout.mechanism.auxiliary == "refine":
            return self._refine(t)
        if self.layout.mechanism.auxiliary == "master":
            return self._master(t)
        return self.value["forget"][t]

    def _sigmoid(self, t: int) -> None:
        xp, z, e = self.xp, self.sigmoids[t], self.exponential
        xp.maximum(z, self.limit, out=z)
        xp.negative(z, out=z)
        xp.exp(z, out=e)
        xp.add(e, 1, out=z)
        xp.reciprocal(z, out=z)
        paired = self.layout.paired
        xp.multiply(e[:, :paired], self.paired[t], out=self.complements[t, :, :paired])

    def _cumax(self, slot: str, t: int) -> None:
        xp, weight = self.xp, self.softmax[slot][t]
        z, beyond = self._cumax_sides(slot, t)
        xp.max(z, axis=1, keepdims=True, out=self.peak)
        xp.subtract(z, self.peak, out=weight)
        xp.exp(weight, out=weight)
        xp.cumsum(weight, axis=1, out=z)
        beyond[:, -1] = 0
        xp.cumsum(weight[:, :0:-1], axis=1, out=beyond[:, -2::-1])
        total = self.scratch[0][:, : z.shape[1]]
        xp.add(z, beyond, out=total)
        xp.divide(weight, z[:, -1:], out=weight)
        xp.divide(z, total, out=z)
        xp.divide(beyond, total, out=beyond)

    def _cumax_sides(self, slot: str, t: int) -> Sides:
        """cumax of the slot's logits and its complement, the slot negated or not."""
        columns, complements = self.layout.columns[slot], self.layout.complements[slot]
        return self.logits[t, :, columns], self.complements[t, :, complements]

    def _refine(self, t: int) -> Array:
        """ḡ = f̄(f̄ + 2 r̄ f), and a separate input gate; returns g = f(f + 2 r f̄)."""
        forget, complement = self.value["forget"][t], self.complement["forget"][t]
        self._refined(complement, forget, self.complement["refine"][t], self.forget_complement[t])
        if not self.layout.tied:
            sides = self.value["input"][t], self.complement["input"][t]
            self._refined(*sides, self.value["refine_input"][t], self.input[t])
        return self._refined(forget, complement, self.value["refine"][t], self.scratch[1])

    def _refined(self, side: Array, other: Array, refine: Array, out: Array) -> Array:
        xp = self.xp
        xp.multiply(refine, other, out=out)
        xp.add(out, out, out=out)
        xp.add(out, side, out=out)
        return xp.multiply(out, side, out=out)

    def _master(self, t: int) -> Array:
        """1 − f̂ = F̄ + F I f̄ and î = I(F̄ + i F); returns f̂ = F(Ī + f I)."""
        xp, (complement, input) = self.xp, self._at(self.grouped, t)
        big_f, big_i = self._at(self.master_forget, t), self._at(self.master_input, t)
        xp.multiply(big_f[0], big_i[0], out=self.overlap)
        xp.multiply(self.inner_forget[1][t], self.overlap, out=complement)
        xp.add(complement, big_f[1], out=complement)
        forget = self.scratch[1].reshape(complement.shape)
        self._mastered(big_i[0], big_f, self.inner_input[0][t], input)
        self._mastered(big_f[0], big_i, self.inner_forget[0][t], forget)
        return self.scratch[1]

    def _mastered(self, master: Array, other: Sides, inner: Array, out: Array) -> None:
        xp = self.xp
        xp.multiply(inner, other[0], out=out)
        xp.add(out, other[1], out=out)
        xp.multiply(out, master, out=out)

    def backward(self, t: int, forget: Array, input: Array, out: Array) -> None:
        """Cotangents of the logits of all gate slots, into ``out`` (batch, layout.width).

        ``forget`` and ``input`` (batch, hidden) are those of the values of the effective gates,
        and are overwritten; ``input`` is not read where the gates are tied.
        """
        if self.layout.mechanism.auxiliary == "refine":
            self._refine_backward("forget", "refine", t, forget, out)
            if not self.layout.tied:
                self._refine_backward("input", "refine_input", t, input, out)
        elif self.layout.mechanism.auxiliary == "master":
            self._master_backward(t, forget, input, out)
        else:
            self._to_logit("forget", t, forget, out)
            if not self.layout.tied:
                self._to_logit("input", t, input, out)

    def _to_logit(self, slot: str, t: int, v: Array, out: Array) -> None:
        out = out[:, self.layout.columns[slot]]
        if slot in self.layout.ordered:
            self._cumax_backward(slot, t, v, out)
        else:
            self.xp.multiply(v, self.value[slot][t], out=out)
            self.xp.multiply(out, self.complement[slot][t], out=out)

    def _cumax_backward(self, slot: str, t: int, v: Array, out: Array) -> None:
        """dz_k = p_k (Σ_{j≥k} v_j (1 − f_j) − Σ_{j<k} v_j f_j), of −v for a negated gate."""
        xp = self.xp
        value, complement = self._cumax_sides(slot, t)
        product, before = (s[:, : v.shape[1]] for s in self.scratch[:2])
        xp.multiply(v, complement, out=product)
        xp.cumsum(product[:, ::-1], axis=1, out=out[:, ::-1])
        xp.multiply(v, value, out=product)
        before[:, 0] = 0
        xp.cumsum(product[:, :-1], axis=1, out=before[:, 1:])
        xp.subtract(out, before, out=out)
        xp.multiply(out, self.softmax[slot][t], out=out)
        if self.layout.mechanism.negated(slot):
            xp.negative(out, out=out)

    def _refine_backward(self, slot: str, refine: str, t: int, v: Array, out: Array) -> None:
        """The cotangents dr = v·2 f f̄ and df = v·2(r f̄ + r̄ f), and from them their logits'."""
        xp, (slope, part, shared, _) = self.xp, self.scratch
        f, f_bar = self.value[slot][t], self.complement[slot][t]
        r, r_bar = self.value[refine][t], self.complement[refine][t]
        xp.add(v, v, out=v)
        xp.multiply(r, f_bar, out=slope)
        xp.multiply(r_bar, f, out=part)
        xp.add(slope, part, out=slope)
        xp.multiply(v, f, out=shared)
        xp.multiply(shared, f_bar, out=shared)
        dr = out[:, self.layout.columns[refine]]
        xp.multiply(shared, r, out=dr)
        xp.multiply(dr, r_bar, out=dr)
        if slot in self.layout.ordered:
            xp.multiply(v, slope, out=v)
            self._to_logit(slot, t, v, out)
        else:
            xp.multiply(shared, slope, out=out[:, self.layout.columns[slot]])

    def _master_backward(self, t: int, a: Array, b: Array, out: Array) -> None:
        """With dF = a(Ī + f I) − b I ī, dI = b(F̄ + i F) − a F f̄, df = a F I, di = b F I."""
        xp, shape = self.xp, self.grouped[0].shape[1:]
        flat, a, b = a.shape, a.reshape(shape), b.reshape(shape)
        big_f, big_i = self._at(self.master_forget, t), self._at(self.master_input, t)
        f, i = self._at(self.inner_forget, t), self._at(self.inner_input, t)
        self._master_gate_backward("master_forget", t, out, (a, f[0]), big_i, (b, i[1]))
        self._master_gate_backward("master_input", t, out, (b, i[0]), big_f, (a, f[1]))
        xp.multiply(big_f[0], big_i[0], out=self.overlap)
        xp.multiply(a, self.overlap, out=a)
        xp.multiply(b, self.overlap, out=b)
        if "input" in self.value:
            self._to_logit("input", t, b.reshape(flat), out)
        else:
            xp.subtract(a, b, out=a)
        self._to_logit("forget", t, a.reshape(flat), out)

    def _master_gate_backward(self, slot: str, t: int, out: Array, inner: Sides, other: Sides,
                              cross: Sides) -> None:  # fmt: skip
        """Σ over a master gate's units of v·(X̄ + inner·X) − w·X·ī, with X the other master."""
        xp, shape = self.xp, inner[0].shape
        first, second = (s.reshape(shape) for s in self.scratch[:2])
        xp.multiply(inner[1], other[0], out=first)
        xp.add(first, other[1], out=first)
        xp.multiply(first, inner[0], out=first)
        xp.multiply(cross[0], other[0], out=second)
        xp.multiply(second, cross[1], out=second)
        xp.subtract(first, second, out=first)
        total = self.scratch[2][:, : shape[1]]
        xp.sum(first, axis=2, out=total)
        self._to_logit(slot, t, total, out)
