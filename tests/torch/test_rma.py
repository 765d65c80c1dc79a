"""The RMA core is the reference's equations, written out again with a memory that is a list."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import MECHANISMS  # noqa: E402
from gatecore.backends.torch import RMA  # noqa: E402
from tests.torch import cores  # noqa: E402

SIZES = dict(input_size=3, hidden_size=6, latents=4, slots=5, reads=2, nearest=3)


def make(mechanism="UR", **changes):
    torch.manual_seed(5)
    core = RMA(**{**SIZES, **changes}, mechanism=mechanism, dtype=torch.float64)
    return cores.stirred(core)


class Reference:
    """One sequence with plain LSTMs, torch's autograd through single numbers and short vectors."""

    def __init__(self, core):
        self.core, self.p = core, dict(core.named_parameters())
        zeros = lambda size: torch.zeros(size, dtype=torch.float64)  # noqa: E731
        self.states = [[zeros(core.hidden_size)] * 2 for _ in core.controllers]
        self.reads = zeros(core.reads * core.latents)
        self.memory, self.written = [zeros(core.latents) for _ in range(core.slots)], 0

    def linear(self, x, name):
        return self.p[f"{name}.weight"] @ x + self.p[f"{name}.bias"]

    def lstm(self, k, x):
        name = f"controllers.{k}"
        h, c = self.states[k]
        logits = self.p[f"{name}.weight_ih"] @ x + self.p[f"{name}.weight_hh"] @ h
        i, f, u, o = (logits + self.p[f"{name}.bias_ih"] + self.p[f"{name}.bias_hh"]).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        self.states[k] = [torch.sigmoid(o) * torch.tanh(c), c]

    def lookup(self, key, strength):
        def cosine(row):
            length = row.norm()
            return key @ row / (key.norm() * length) if length > 0 else key.sum() * 0

        scores = [strength * cosine(row) for row in self.memory]
        order = sorted(range(len(scores)), key=lambda k: -float(scores[k].detach()))
        best = order[: self.core.nearest]
        weights = torch.stack([scores[k].exp() for k in best])
        weights = weights / weights.sum()
        return sum(w * self.memory[k] for w, k in zip(weights, best, strict=True))

    def step(self, x):
        core = self.core
        known = [x, *(h for h, _ in self.states), self.reads]
        z = self.linear(torch.tanh(self.linear(torch.cat(known), "encoder")), "latent")
        for k in range(len(core.controllers)):
            self.lstm(k, torch.cat([z, self.states[k - 1][0]]) if k else z)
        hidden = torch.cat([h for h, _ in self.states])
        asked = self.linear(hidden, "query")
        count = core.reads * core.latents
        strengths = torch.log(1 + torch.exp(asked[count:]))
        keys = asked[:count].split(core.latents)
        self.reads = torch.cat([self.lookup(k, s) for k, s in zip(keys, strengths, strict=True)])
        self.memory[self.written % core.slots] = z.detach()
        self.written += 1
        return torch.cat([z, hidden, self.reads]), strengths


def reference_outputs(core, xs, starts):
    """Outputs and strengths of one sequence that begins anew at ``starts``."""
    outputs = []
    for t, x in enumerate(xs):
        if t == 0 or t in starts:
            reference = Reference(core)
        outputs.append(reference.step(x))
    return [torch.stack(part) for part in zip(*outputs, strict=True)], reference


CASES = {
    "few steps": ({}, 4, ()),
    "the memory goes round": ({}, 13, ()),
    "all rows are near": ({"nearest": 50, "slots": 4}, 7, ()),
    "no zero is left out": ({"slots": 20}, 6, ()),
    "resets": ({}, 14, (3, 11)),
    "resets in a large memory": ({"slots": 30}, 9, (2,)),
    "three layers": ({"layers": 3}, 4, ()),
}


@pytest.mark.parametrize("case", CASES)
def test_rma_with_standard_gates_equals_the_reference(case):
    changes, steps, starts = CASES[case]
    core, x = make("standard", **changes), cores.inputs(steps, 2, 3)
    resets = torch.zeros(steps, 2, dtype=torch.bool)
    resets[list(starts), 1] = True
    done = core.unroll(x, None, resets if starts else None)
    trained = [v for v in core.parameters() if v.requires_grad]
    loss = 0
    for b in range(2):
        (output, strengths), reference = reference_outputs(core, x[:, b], starts if b else ())
        torch.testing.assert_close(done.output[:, b], output, rtol=0, atol=1e-10)
        torch.testing.assert_close(done.strengths[:, b], strengths, rtol=0, atol=1e-10)
        kept = torch.stack(reference.memory)
        torch.testing.assert_close(done.state.memory[b], kept, rtol=0, atol=1e-10)
        assert done.state.written[b] == reference.written
        loss = loss + output.square().sum() + strengths.sum()
    expected = torch.autograd.grad(loss, trained)
    actual = torch.autograd.grad(done.output.square().sum() + done.strengths.sum(), trained)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)
    assert torch.equal(done.latents, done.output[..., : core.latents])
    assert torch.equal(done.output, core(x, None, resets if starts else None)[0])


@pytest.mark.parametrize("slots", [5, 40])
def test_single_steps_equal_the_whole_sequence(slots):
    core, x = make(slots=slots), cores.inputs(17, 3, 3)
    resets = torch.rand(17, 3, generator=torch.Generator().manual_seed(1)) < 0.15
    assert resets.any(0).all()
    whole, last = core(x, None, resets)
    state = None
    for t in range(17):
        output, state = core(x[t : t + 1], state, resets[t : t + 1])
        torch.testing.assert_close(output[0], whole[t], rtol=0, atol=cores.TINY)
    cores.close(state, last)


def test_a_call_leaves_its_initial_state_unchanged():
    core, x = make(), cores.inputs(9, 2, 3)
    _, before = core(x[:3])
    copies = [leaf.clone() for leaf in cores.leaves(before)]
    core(x[3:], before)
    assert all(map(torch.equal, copies, cores.leaves(before)))


def test_no_gradient_flows_through_the_memory():
    core, x = make(), cores.inputs(2, 1, 3).requires_grad_()
    done = core.unroll(x)
    assert not done.state.memory.requires_grad
    reads = done.output[1, 0, -core.reads * core.latents :]
    memory = done.state._replace(memory=torch.zeros_like(done.state.memory))
    _, again = core(x[1:], memory)  # the same, but for what the first step wrote
    assert not torch.equal(again.reads[0], reads)


@pytest.mark.parametrize("name", MECHANISMS)
def test_forget_gates_are_those_of_both_lstms(name):
    core, x = make(name), cores.inputs(6, 3, 3)
    gate = core.forget_gates(x)
    assert gate.value.shape == gate.complement.shape == core.gate_shape == (2, 6)
    whole = torch.ones(2, 6, dtype=torch.float64)
    torch.testing.assert_close(gate.value + gate.complement, whole)
    output, _ = core(x)
    z, h1, h2, _ = output.split([4, 6, 6, 8], -1)
    zeros = torch.zeros(1, 3, 6, dtype=torch.float64)
    for k, (inputs, h) in enumerate([(z, h1), (torch.cat([z, h1], -1), h2)]):
        before = torch.cat([zeros, h[:-1]])  # by the cell, which is tested on its own
        cell, params = core.controllers[k]._cell, cores.params(core.controllers[k])
        torch.testing.assert_close(
            gate.value[k], cell.gates(params, inputs, (before, None))[0].value.mean((0, 1))
        )
        c, state = zeros[0], zeros[0]
        for t in range(6):
            state, c = core.controllers[k](inputs[t], (state, c))
            torch.testing.assert_close(state, h[t])


cores.conventions(globals(), make, steps=1)  # more, and finite differences see the memory, too
