"""The DNC is the reference's equations, written out again one number at a time."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import MECHANISMS  # noqa: E402
from gatecore.backends.torch import DNC  # noqa: E402
from tests.torch import cores  # noqa: E402

SIZES = dict(input_size=3, hidden_size=6, output_size=5, slots=4, width=3, reads=2)
EPSILON = 1e-6


def make(mechanism="UR", **changes):
    torch.manual_seed(5)
    core = DNC(**{**SIZES, **changes}, mechanism=mechanism, dtype=torch.float64)
    return cores.stirred(core)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(scores):
    weights = [math.exp(s) for s in scores]
    return [w / sum(weights) for w in weights]


def norm(vector):
    return math.sqrt(sum(v * v for v in vector) + EPSILON)


def lookup(memory, key, strength):
    sharp = math.log(1 + math.exp(strength))
    return softmax(
        [
            sharp * sum(k * m for k, m in zip(key, row, strict=True))
            / (norm(key) * norm(row) + EPSILON)
            for row in memory
        ]
    )  # fmt: skip


def allocation(usage):
    usage = [EPSILON + (1 - EPSILON) * u for u in usage]
    weights, product = [0.0] * len(usage), 1.0
    for k in sorted(range(len(usage)), key=lambda k: usage[k]):
        weights[k] = (1 - usage[k]) * product
        product *= usage[k]
    return weights


class Reference:
    """One sequence with a plain LSTM as the controller: the state in lists, the steps in loops."""

    def __init__(self, core):
        self.p = {k: v.detach().numpy() for k, v in core.named_parameters()}
        n, w, r, h = core.slots, core.width, core.reads, core.controller.hidden_size
        self.n, self.w, self.r, self.clip = n, w, r, core.clip
        self.h, self.c = np.zeros(h), np.zeros(h)
        self.memory, self.read = np.zeros((n, w)), np.zeros((r, w))
        self.read_weights, self.write_weights = np.zeros((r, n)), np.zeros(n)
        self.link, self.precedence, self.usage = np.zeros((n, n)), np.zeros(n), np.zeros(n)

    def clipped(self, x):
        return np.clip(x, -self.clip, self.clip)

    def control(self, x):
        p = self.p
        logits = p["controller.weight_ih"] @ np.concatenate([x, self.read.ravel()])
        logits += p["controller.weight_hh"] @ self.h
        logits += p["controller.bias_ih"] + p["controller.bias_hh"]
        for k in range(len(self.h)):
            i, f, u, o = (logits[k + j * len(self.h)] for j in range(4))
            self.c[k] = sigmoid(f) * self.c[k] + sigmoid(i) * math.tanh(u)
            self.h[k] = sigmoid(o) * math.tanh(self.c[k])
        self.h, self.c = self.clipped(self.h), self.clipped(self.c)
        return p["interface.weight"] @ self.h + p["interface.bias"]

    def step(self, x):
        values = iter(self.control(x))
        take = lambda count: [next(values) for _ in range(count)]  # noqa: E731
        n, w, r = range(self.n), self.w, range(self.r)
        read_keys = [take(w) for _ in r]
        read_strengths, write_key, (write_strength,) = take(self.r), take(w), take(1)
        vector, erase, free = take(w), take(w), take(self.r)
        (allocate,), (write,) = take(1), take(1)
        modes = [softmax(take(3)) for _ in r]

        for i in n:
            self.usage[i] += (1 - self.usage[i]) * self.write_weights[i]
            for k in r:
                self.usage[i] *= 1 - sigmoid(free[k]) * self.read_weights[k, i]
        similar = lookup(self.memory, write_key, write_strength)
        spare, g = allocation(self.usage), sigmoid(allocate)
        written = [sigmoid(write) * (g * spare[i] + (1 - g) * similar[i]) for i in n]
        for i in n:
            for j in range(w):
                self.memory[i, j] *= 1 - written[i] * sigmoid(erase[j])
                self.memory[i, j] += written[i] * vector[j]
        for i in n:
            for j in n:
                kept = (1 - written[i] - written[j]) * self.link[i, j]
                self.link[i, j] = 0 if i == j else kept + written[i] * self.precedence[j]
        self.precedence = (1 - sum(written)) * self.precedence + written
        weights = np.zeros_like(self.read_weights)
        for k in r:
            by_content = lookup(self.memory, read_keys[k], read_strengths[k])
            for i in n:
                before = sum(self.link[j, i] * self.read_weights[k, j] for j in n)
                after = sum(self.link[i, j] * self.read_weights[k, j] for j in n)
                parts = (before, after, by_content[i])
                weights[k, i] = sum(m * part for m, part in zip(modes[k], parts, strict=True))
        self.read_weights, self.write_weights = weights, np.array(written)
        self.read = np.array([sum(weights[k, i] * self.memory[i] for i in n) for k in r])
        both = np.concatenate([self.h, self.read.ravel()])
        return self.clipped(self.p["output.weight"] @ both + self.p["output.bias"])


@pytest.mark.parametrize("clip", [20.0, 0.4])
def test_dnc_with_standard_gates_equals_the_reference(clip):
    core, x = make("standard", clip=clip), cores.inputs(9, 2, 3)
    output, state = core(x)
    for b in range(2):
        reference = Reference(core)
        expected = np.stack([reference.step(step) for step in x[:, b].numpy()])
        np.testing.assert_allclose(output[:, b].detach().numpy(), expected, rtol=0, atol=1e-10)
        for name in ("memory", "usage", "link", "precedence", "read_weights", "write_weights"):
            actual = getattr(state, name)[b].detach().numpy()
            np.testing.assert_allclose(actual, getattr(reference, name), rtol=0, atol=1e-10)
    assert state.link.abs().max() > 1e-3  # it wrote more than one slot
    assert (output.abs().max() == clip) == (clip < 1)  # both sides of clipping were tried


def test_without_clip_values_are_not_limited():
    core, x = make("standard", clip=None), 100 * cores.inputs(4, 2, 3)
    assert torch.equal(core(x)[0], make("standard", clip=1e9)(x)[0])
    with pytest.raises(ValueError, match="clip must be above 0, or None, got -1"):
        make(clip=-1.0)


@pytest.mark.parametrize("name", MECHANISMS)
def test_forget_gates_are_those_of_the_controller(name):
    core, x = make(name), cores.inputs(7, 3, 3)
    gate = core.forget_gates(x)
    assert gate.value.shape == gate.complement.shape == core.gate_shape == (1, 6)
    torch.testing.assert_close(gate.value + gate.complement, torch.ones(1, 6, dtype=torch.float64))
    hidden = core.controller.hidden_size
    state, total = core.initial_state(3, x), torch.zeros(hidden, dtype=torch.float64)
    for step in x:  # by the layer's own cell, which is tested on its own
        inputs = torch.cat([step, state.reads.flatten(1)], 1)
        cell, params = core.controller._cell, cores.params(core.controller)
        total += cell.gates(params, inputs, (state.hidden, state.cell))[0].value.mean(0) / 7
        h, c = core.controller(inputs, (state.hidden, state.cell))
        state = core(step.unsqueeze(0), state)[1]
        torch.testing.assert_close(state.hidden, h)
        torch.testing.assert_close(state.cell, c)
    torch.testing.assert_close(gate.value[0], total)


def test_no_gradient_flows_through_the_usage_into_the_last_write():
    core, x = make(), cores.inputs(1, 1, 3)
    state = core.initial_state(1, x)
    written = torch.full_like(state.write_weights, 0.3).requires_grad_()
    output, _ = core(x, state._replace(write_weights=written))
    (gradient,) = torch.autograd.grad(output.sum(), written, allow_unused=True)
    assert gradient is None or not gradient.any()


cores.conventions(globals(), make)
