"""Effective gates and their derivatives, in place, one time step at a call.

These are the formulas of ``gatecore.algebra`` and ``gatecore.vjp`` written with ``out=``, so that
the time loop allocates nothing; the tests hold them to those functions. Arrays are (time, batch,
width) views; a method works on step t. Branches are on the mechanism's fields.
"""

from typing import Any

from gatecore.backends.common.layout import Plan

Array = Any


class Gating:
    """Activates the logits of one step and forms 1 − f and i, the effective gates.

    Parameters
    ----------
    xp : array namespace
    plan : Plan
    logits : array (time, batch, plan.width)
        Overwritten by the activations.
    take : callable
        ``take(width, steps=True)``: an array (time, batch, width), or (batch, width) of scratch.
    """

    def __init__(self, xp: Any, plan: Plan, logits: Array, take: Any) -> None:
        self.xp, self.plan, self.logits = xp, plan, logits
        self.limit = -87.0 if logits.dtype.itemsize == 4 else -708.0  # exp(-limit) is finite
        hidden = plan.hidden_size
        self.kept = take(plan.complement_width)
        self.softmax: Any = take(plan.ordered_width) if plan.ordered else None
        self.exponential = take(plan.sigmoids.stop - plan.sigmoids.start, steps=False)
        self.scratch = [take(hidden, steps=False) for _ in range(4)]
        self.peak = take(1, steps=False)
        self.value = {s: logits[..., part] for s, part in plan.columns.items()}
        self.complement = {s: self.kept[..., part] for s, part in plan.complements.items()}
        for slot in filter(plan.mechanism.negated, plan.ordered):
            self.value[slot], self.complement[slot] = self.complement[slot], self.value[slot]
        self.sigmoids = logits[..., plan.sigmoids]
        self.paired = self.sigmoids[..., : plan.paired]
        self._effective(take)

    def _effective(self, take: Any) -> None:
        """Where the effective 1 − f̂ and î of each step are found: one array if they are tied."""
        mechanism, hidden = self.plan.mechanism, self.plan.hidden_size
        if mechanism.auxiliary == "none":
            self.decay = self.complement["forget"]
        else:
            self.decay = take(hidden)
        self.write = self.decay if self.plan.tied else self.value.get("input")
        if mechanism.auxiliary == "master":
            self.write = take(hidden)
            # the inner gates (time, batch, n, C) beside master gates (time, batch, n, 1)
            shape = (*self.logits.shape[:2], hidden // mechanism.downsize, mechanism.downsize)
            self.grouped = {
                name: array.reshape(shape)
                for name, array in (("decay", self.decay), ("write", self.write))
            }
            self.inner_forget = self._sides("forget", shape)
            self.inner_input = (
                self._sides("input", shape) if "input" in self.value else self.inner_forget[::-1]
            )
            self.master_forget = self._sides("master_forget", (*shape[:3], 1))
            self.master_input = self._sides("master_input", (*shape[:3], 1))
            self.overlap = self.scratch[3][:, : shape[2]].reshape(shape[1], shape[2], 1)

    @staticmethod
    def _at(sides: tuple[Array, Array], t: int) -> tuple[Array, Array]:
        return sides[0][t], sides[1][t]

    def _sides(self, slot: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        return self.value[slot].reshape(shape), self.complement[slot].reshape(shape)

    # forward

    def activate(self, t: int) -> Array:
        """Logits to activations and effective gates; returns the effective forget gate's value.

        The next step may overwrite that array (batch, hidden).
        """
        self._sigmoid(t)
        for slot in self.plan.ordered:
            self._cumax(slot, t)
        if self.plan.mechanism.auxiliary == "refine":
            return self._refine(t)
        if self.plan.mechanism.auxiliary == "master":
            return self._master(t)
        return self.value["forget"][t]

    def _sigmoid(self, t: int) -> None:
        xp, z, e = self.xp, self.sigmoids[t], self.exponential
        xp.maximum(z, self.limit, out=z)
        xp.negative(z, out=z)
        xp.exp(z, out=e)
        xp.add(e, 1, out=z)
        xp.reciprocal(z, out=z)
        paired = self.plan.paired
        xp.multiply(e[:, :paired], self.paired[t], out=self.kept[t, :, :paired])

    def _cumax(self, slot: str, t: int) -> None:
        xp, plan = self.xp, self.plan
        z, beyond = self.logits[t, :, plan.columns[slot]], self.kept[t, :, plan.complements[slot]]
        weight = self._softmax(slot)[t]
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

    def _softmax(self, slot: str) -> Array:
        first = self.plan.columns[self.plan.ordered[0]].start
        part = self.plan.columns[slot]
        return self.softmax[..., part.start - first : part.stop - first]

    def _refine(self, t: int) -> Array:
        """ḡ = f̄(f̄ + 2 r̄ f); returns g = f(f + 2 r f̄)."""
        forget, complement = self.value["forget"][t], self.complement["forget"][t]
        self._refined(complement, forget, self.complement["refine"][t], self.decay[t])
        return self._refined(forget, complement, self.value["refine"][t], self.scratch[1])

    def _refined(self, side: Array, other: Array, selector: Array, out: Array) -> Array:
        xp = self.xp
        xp.multiply(selector, other, out=out)
        xp.add(out, out, out=out)
        xp.add(out, side, out=out)
        return xp.multiply(out, side, out=out)

    def _master(self, t: int) -> Array:
        """1 − f̂ = F̄ + F I f̄ and î = I(F̄ + i F); returns f̂ = F(Ī + f I)."""
        xp, decay = self.xp, self.grouped["decay"][t]
        big_f, big_i = self._at(self.master_forget, t), self._at(self.master_input, t)
        xp.multiply(big_f[0], big_i[0], out=self.overlap)
        xp.multiply(self.inner_forget[1][t], self.overlap, out=decay)
        xp.add(decay, big_f[1], out=decay)
        forget = self.scratch[1].reshape(decay.shape)
        self._under_masters(big_i[0], big_f, self.inner_input[0][t], self.grouped["write"][t])
        self._under_masters(big_f[0], big_i, self.inner_forget[0][t], forget)
        return self.scratch[1]

    def _under_masters(
        self, outer: Array, other: tuple[Array, Array], inner: Array, out: Array
    ) -> None:
        xp = self.xp
        xp.multiply(inner, other[0], out=out)
        xp.add(out, other[1], out=out)
        xp.multiply(out, outer, out=out)

    # backward

    def backward(self, t: int, forget: Array, input: Array | None, out: Array) -> None:
        """Cotangents of the logits of all gate slots, into ``out`` (batch, plan.width).

        ``forget`` and ``input`` (batch, hidden) are those of the values of the effective gates;
        both are overwritten.
        """
        if self.plan.mechanism.auxiliary == "refine":
            self._refine_backward(t, forget, out)
        elif self.plan.mechanism.auxiliary == "master":
            self._master_backward(t, forget, input, out)
        else:
            self._to_logit("forget", t, forget, out)
            if input is not None:
                self._to_logit("input", t, input, out)

    def _to_logit(self, slot: str, t: int, v: Array, out: Array) -> None:
        out = out[:, self.plan.columns[slot]]
        if slot in self.plan.ordered:
            self._cumax_backward(slot, t, v, out)
        else:
            self.xp.multiply(v, self.value[slot][t], out=out)
            self.xp.multiply(out, self.complement[slot][t], out=out)

    def _cumax_backward(self, slot: str, t: int, v: Array, out: Array) -> None:
        """dz_k = p_k (Σ_{j≥k} v_j (1 − f_j) − Σ_{j<k} v_j f_j), of −v for a negated gate."""
        xp, plan = self.xp, self.plan
        value = self.logits[t, :, plan.columns[slot]]
        complement = self.kept[t, :, plan.complements[slot]]
        product, before = (s[:, : v.shape[1]] for s in self.scratch[:2])
        xp.multiply(v, complement, out=product)
        xp.cumsum(product[:, ::-1], axis=1, out=out[:, ::-1])
        xp.multiply(v, value, out=product)
        before[:, 0] = 0
        xp.cumsum(product[:, :-1], axis=1, out=before[:, 1:])
        xp.subtract(out, before, out=out)
        xp.multiply(out, self._softmax(slot)[t], out=out)
        if plan.mechanism.negated(slot):
            xp.negative(out, out=out)

    def _refine_backward(self, t: int, v: Array, out: Array) -> None:
        """The cotangents dr = v·2 f f̄ and df = v·2(r f̄ + r̄ f), each taken on to its logit."""
        xp, (slope, part, shared, _) = self.xp, self.scratch
        f, f_bar = self.value["forget"][t], self.complement["forget"][t]
        r, r_bar = self.value["refine"][t], self.complement["refine"][t]
        xp.add(v, v, out=v)
        xp.multiply(r, f_bar, out=slope)
        xp.multiply(r_bar, f, out=part)
        xp.add(slope, part, out=slope)
        xp.multiply(v, f, out=shared)
        xp.multiply(shared, f_bar, out=shared)
        dr = out[:, self.plan.columns["refine"]]
        xp.multiply(shared, r, out=dr)
        xp.multiply(dr, r_bar, out=dr)
        if "forget" in self.plan.ordered:
            xp.multiply(v, slope, out=v)
            self._to_logit("forget", t, v, out)
        else:
            xp.multiply(shared, slope, out=out[:, self.plan.columns["forget"]])

    def _master_backward(self, t: int, a: Array, b: Array, out: Array) -> None:
        """With dF = a(Ī + f I) − b I ī, dI = b(F̄ + i F) − a F f̄, df = a F I, di = b F I."""
        xp, shape = self.xp, self.grouped["decay"].shape[1:]
        a, b = a.reshape(shape), b.reshape(shape)
        big_f, big_i = self._at(self.master_forget, t), self._at(self.master_input, t)
        f, i = self._at(self.inner_forget, t), self._at(self.inner_input, t)
        self._master_gate_backward("master_forget", t, out, (a, f[0]), big_i, (b, i[1]))
        self._master_gate_backward("master_input", t, out, (b, i[0]), big_f, (a, f[1]))
        xp.multiply(big_f[0], big_i[0], out=self.overlap)
        xp.multiply(a, self.overlap, out=a)
        xp.multiply(b, self.overlap, out=b)
        flat = (shape[0], self.plan.hidden_size)
        if "input" in self.value:
            self._to_logit("input", t, b.reshape(flat), out)
        else:
            xp.subtract(a, b, out=a)
        self._to_logit("forget", t, a.reshape(flat), out)

    def _master_gate_backward(
        self,
        slot: str,
        t: int,
        out: Array,
        own: tuple[Array, Array],
        other: tuple[Array, Array],
        cross: tuple[Array, Array],
    ) -> None:
        """Σ over a master gate's units of v·(X̄ + inner·X) − w·X·ī, with X the other master."""
        xp, shape = self.xp, own[0].shape
        first, second = (s.reshape(shape) for s in self.scratch[:2])
        xp.multiply(own[1], other[0], out=first)
        xp.add(first, other[1], out=first)
        xp.multiply(first, own[0], out=first)
        xp.multiply(cross[0], other[0], out=second)
        xp.multiply(second, cross[1], out=second)
        xp.subtract(first, second, out=first)
        total = self.scratch[2][:, : shape[1]]
        xp.sum(first, axis=2, out=total)
        self._to_logit(slot, t, total, out)
