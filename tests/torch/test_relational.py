"""The Relational Memory Core is the reference's equations, written out again in loops."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import MECHANISMS, mechanism  # noqa: E402
from gatecore.backends.torch import LSTMCell, RelationalMemory  # noqa: E402
from gatecore.init import uniform_quantile  # noqa: E402
from tests.torch import cores  # noqa: E402

SIZES = dict(input_size=3, slots=4, head_size=3, heads=2)


def make(name="UR", dtype=torch.float64, **changes):
    torch.manual_seed(5)
    core = RelationalMemory(**{**SIZES, **changes}, mechanism=name, dtype=dtype)
    return cores.stirred(core)


def initial(name="UR", **changes):
    torch.manual_seed(5)
    return RelationalMemory(**{**SIZES, **changes}, mechanism=name, dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(row, p, name):
    centred = row - row.mean()
    scale = math.sqrt((centred**2).mean() + 1e-5)
    return centred / scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(row, p, name):
    return p[f"{name}.weight"] @ row + p[f"{name}.bias"]


def attended(p, rows, block, heads, key_size, width):
    """A = softmax(q kᵀ / √key) v of all rows, head by head and row by row."""
    packed = [layer_norm(linear(r, p, f"{block}.qkv"), p, f"{block}.norm_qkv") for r in rows]
    size = 2 * key_size + width // heads
    out = np.zeros_like(rows)
    for head in range(heads):
        part = [r[head * size : (head + 1) * size] for r in packed]
        q, k, v = ([r[s] for r in part] for s in (
            slice(key_size), slice(key_size, 2 * key_size), slice(2 * key_size, None)
        ))  # fmt: skip
        columns = slice(head * width // heads, (head + 1) * width // heads)
        for i in range(len(rows)):
            scores = np.exp([q[i] @ k[j] / math.sqrt(key_size) for j in range(len(rows))])
            out[i, columns] = sum(s * w for s, w in zip(scores / scores.sum(), v, strict=True))
    return out


def reference(core, xs, heads, key_size, layers, style):
    """One sequence (time, input) by a plain-gated core: the outputs."""
    p = {k: v.detach().numpy() for k, v in core.named_parameters()}
    slots, width = core.slots, core.width
    memory, outputs = np.eye(slots, width), []
    for x in xs:
        row = linear(x, p, "input")
        rows = np.concatenate([memory, [row]])
        for b in range(len(core.blocks)):
            name = f"blocks.{b}"
            rows = rows + attended(p, rows, name, heads, key_size, width)
            rows = np.stack([layer_norm(r, p, f"{name}.norm_attended") for r in rows])
            inner = rows
            for k in range(layers):
                inner = inner if k == 0 else np.maximum(inner, 0)
                inner = np.stack([linear(r, p, f"mlp.{k}") for r in inner])
            rows = np.stack([layer_norm(r, p, f"{name}.norm_mlp") for r in inner + rows])
        new = rows[:-1]  # the input's row is dropped
        if style != "none":
            for s in range(slots):
                logits = p["weight_memory"] @ np.tanh(memory[s]) + p["weight_input"] @ row
                if style == "unit":
                    i, f = np.split(logits + p["gate_bias"][s], 2)
                else:
                    i, f = logits + p["gate_bias"].reshape(2, slots)[:, s]
                new[s] = sigmoid(i) * np.tanh(new[s]) + sigmoid(f) * memory[s]
        memory = new
        outputs.append(memory.ravel())
    return np.stack(outputs)


@pytest.mark.parametrize("style", ["unit", "memory", "none"])
@pytest.mark.parametrize(
    ("blocks", "key_size", "layers", "slots"), [(1, 3, 2, 4), (3, 5, 1, 8), (2, 2, 3, 1)]
)
def test_rmc_with_standard_gates_equals_the_reference(style, blocks, key_size, layers, slots):
    core = make(
        "standard", blocks=blocks, key_size=key_size, mlp_layers=layers, slots=slots,
        gate_style=style,
    )  # fmt: skip
    x = cores.inputs(5, 2, 3)
    output, memory = core(x)
    for b in range(2):
        expected = reference(core, x[:, b].numpy(), 2, key_size, layers, style)
        np.testing.assert_allclose(output[:, b].detach().numpy(), expected, rtol=0, atol=1e-10)
        assert torch.equal(memory[b].flatten(), output[-1, b])


def gate_logits(core, x, memory):
    """Logits (batch, slots, slot of the gates, units) of a step, by the definition."""
    row = core.input(x)
    logits = torch.tanh(memory) @ core.weight_memory.T + (row @ core.weight_input.T).unsqueeze(1)
    return logits + core.gate_bias if core.gate_style == "unit" else logits


@pytest.mark.parametrize("name", [*MECHANISMS, "M"])
def test_unit_gates_are_the_mechanisms_gates_of_each_slot(name):
    """By the LSTM cell: one whose logits are given has the same gates."""
    chosen = mechanism(name, downsize=2) if "M" in name else mechanism(name)
    core, x = make(chosen), cores.inputs(1, 3, 3)
    memory = core.initial_state(3, x) + cores.inputs(3, 4, 6, seed=2)
    gate = core.forget_gates(x, memory)
    named = dict(zip([n for n, _ in core._gate_slots],
                     gate_logits(core, x[0], memory).split([w for _, w in core._gate_slots], -1),
                     strict=True))  # fmt: skip
    assert "candidate" not in named
    forget, input = chosen.gates(named)
    torch.testing.assert_close(gate.value, forget.value.mean(0))
    torch.testing.assert_close(gate.complement, forget.complement.mean(0))
    candidate = core._attended(memory, core.input(x[0]).unsqueeze(1),
                               core.blocks[0].project(core.input(x[0]).unsqueeze(1)))  # fmt: skip
    expected = forget.value * memory + input.value * candidate.tanh()
    torch.testing.assert_close(core(x, memory)[1], expected)
    if "R" in name:  # f and r make g, and the input gate is its complement
        f, r = (torch.sigmoid(named[k]) for k in ("forget", "refine"))
        if "O" in name:
            f = torch.softmax(named["forget"], -1).cumsum(-1)
        g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
        torch.testing.assert_close(forget.value, g)
        torch.testing.assert_close(input.value, 1 - g)
        assert set(named) == {"forget", "refine"}
    if name == "O":  # ordered along the slot's units
        assert (forget.value.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("name", [*MECHANISMS, "M"])
def test_memory_gates_are_one_for_each_slot(name):
    chosen = mechanism(name, downsize=2) if "M" in name else mechanism(name)
    core, x = make(chosen, gate_style="memory"), cores.inputs(1, 3, 3)
    memory = core.initial_state(3, x) + cores.inputs(3, 4, 6, seed=2)
    logits, start, named = gate_logits(core, x[0], memory), 0, {}
    for k, (slot, width) in enumerate(core._gate_slots):
        groups = logits[:, :, k].reshape(3, width, 4 // width).mean(-1)
        named[slot] = groups + core.gate_bias[start : start + width]
        start += width
    forget, _ = chosen.gates(named)
    gate = core.forget_gates(x, memory)
    assert gate.value.shape == core.gate_shape == (4, 1)
    torch.testing.assert_close(gate.value[:, 0], forget.value.mean(0))
    if name == "O":  # ordered along the slots
        assert (gate.value[:, 0].diff() > 0).all()


def bias_of(core, slot):
    names = [name for name, _ in core._gate_slots]
    widths = [width for _, width in core._gate_slots]
    return core.gate_bias.detach().split(widths, -1)[names.index(slot)]


def test_uniform_gates_take_the_width_of_a_slot_and_each_has_its_own_bias():
    core = initial("U", slots=50, head_size=20)
    bias = bias_of(core, "forget")
    assert bias.shape == (50, 40)
    low, high = uniform_quantile(np.array([0.0, 1.0]), 40)
    assert low <= bias.min() < low + 0.05
    assert high - 0.05 < bias.max() <= high
    u = torch.sigmoid(bias).flatten().sort().values
    expected = torch.linspace(1 / 40, 1 - 1 / 40, len(u), dtype=torch.float64)
    torch.testing.assert_close(u, expected, rtol=0, atol=0.05)  # Kolmogorov: 0.05 = 2.2/√2000
    assert torch.equal(bias_of(core, "input"), -bias)
    assert len(torch.unique(bias)) == bias.numel()


def test_chrono_takes_the_width_of_a_slot_and_memory_gates_the_number_of_slots():
    bias = bias_of(initial("C", head_size=20), "forget")
    assert bias.min() >= 0
    assert math.log(20) < bias.max() <= math.log(39)
    few = bias_of(initial("U", gate_style="memory", slots=6), "forget")
    low, high = uniform_quantile(np.array([0.0, 1.0]), 6)
    assert few.shape == (6,)
    assert low <= few.min()
    assert few.max() <= high
    assert torch.equal(bias_of(initial("standard"), "forget"), torch.ones(4, 6).double())
    assert not bias_of(initial("standard"), "input").any()


@pytest.mark.parametrize("name", ["standard", "U", "UR", "C", "O"])
def test_gates_start_with_the_mechanisms_timescales(name):
    """Where the weights say nothing, a slot's gates are those of an LSTM with these biases."""
    core = initial(name)
    cell = LSTMCell(1, 6, mechanism=name, dtype=torch.float64)
    with torch.no_grad():
        core.weight_input.zero_(), core.weight_memory.zero_()
        cell.weight_ih.zero_(), cell.weight_hh.zero_()
    gate = core.forget_gates(cores.inputs(2, 1, 3))
    for s in range(4):
        with torch.no_grad():
            rows = dict(zip([n for n, _ in cell._cell.slots], cell.bias_ih.split(6), strict=True))
            for slot, _ in core._gate_slots:
                rows[slot].copy_(bias_of(core, slot)[s])
        x = torch.zeros(1, 1, dtype=torch.float64)
        expected = cell._cell.gates(cores.params(cell), x, (torch.zeros(1, 6).double(), None))[0]
        torch.testing.assert_close(gate.value[s], expected.value[0])
        torch.testing.assert_close(gate.complement[s], expected.complement[0])


def test_without_gates_the_memory_is_the_output_of_attention():
    core, x = make(gate_style=None), cores.inputs(3, 2, 3)
    assert core.gate_style == "none"
    gate = core.forget_gates(x)
    assert gate.value.shape == (4, 1)
    assert not gate.value.any()
    assert (gate.complement == 1).all()
    assert not any(name.startswith(("gate", "weight")) for name, _ in core.named_parameters())
    other = make("standard", gate_style="none")
    assert torch.equal(core(x)[0], other(x)[0])  # no mechanism has a part in it


def test_sizes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="gate_style='units' is unknown: did you mean 'unit'"):
        make(gate_style="units")
    with pytest.raises(ValueError, match="not divisible by downsize=4"):
        make(mechanism("UM", downsize=4))
    with pytest.raises(TypeError, match="heads must be an integer"):
        make(heads=1.5)


cores.conventions(globals(), make)
