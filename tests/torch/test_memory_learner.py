"""Cores with a memory train as the layers do: the same learner, on torch's backend alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import MECHANISMS, Batch, ModelSpec, backends  # noqa: E402
from gatecore.backends.torch import LSTM, Learner  # noqa: E402
from gatecore.backends.torch.memory_cores.factory import recurrent_core  # noqa: E402
from gatecore.backends.torch.training.backbone import leaves, shaped  # noqa: E402
from gatecore.contracts.agent import AgentSpec  # noqa: E402
from gatecore.contracts.memory import MEMORY_CORES, Core, Memory  # noqa: E402

SMALL = {
    "rmc": Memory(slots=3, heads=2),
    "dnc": Memory(slots=4, width=3, heads=2),
    "rma": Memory(slots=20, width=4, heads=2),
}
SHAPES = {"rmc": (3, 6), "dnc": (1, 6), "rma": (2, 6)}


def spec(core, **changes):
    sizes = dict(input="one_hot", input_size=5, output_size=4, hidden_size=6, memory=SMALL[core])
    return ModelSpec(core=core, **{**sizes, **changes})


def batches(count, seed=0, time=6, size=3, resets=False):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        x, y = rng.integers(-1, 5, (time, size)), rng.integers(-1, 4, (time, size))
        yield Batch(x, y, rng.random((time, size)) < 0.2 if resets else None)


@pytest.mark.parametrize("core", MEMORY_CORES)
def test_a_memory_core_learns_to_recall_the_first_input(core):
    rng = np.random.default_rng(0)
    x, y = np.zeros((4, 4, 5), "f4"), rng.integers(0, 4, (4, 4))
    x[0] = rng.standard_normal((4, 5))  # all that sets the sequences apart
    learner, batch = Learner(spec(core, input="dense"), seed=1), Batch(x, y)
    first = learner.step(batch, learning_rate=2e-2, clip_norm=1.0)
    for _ in range(100):
        last = learner.step(batch, learning_rate=2e-2, clip_norm=1.0)
    assert last["loss"] < 0.1 < first["loss"]
    assert last["accuracy"] == 1


@pytest.mark.parametrize("core", MEMORY_CORES)
def test_a_memory_core_resumes_bit_for_bit(core):
    chosen, data = spec(core), list(batches(6, resets=True))
    whole, first, second = (Learner(chosen, seed=s) for s in (3, 3, 4))
    for batch in data:
        whole.step(batch, learning_rate=1e-2)
    for batch in data[:3]:
        first.step(batch, learning_rate=1e-2)
    second.load_state_dict(first.state_dict())
    for batch in data[3:]:
        second.step(batch, learning_rate=1e-2)
    state = second.state_dict()
    for name, value in whole.state_dict().items():
        assert np.array_equal(state[name], value), name


@pytest.mark.parametrize("core", MEMORY_CORES)
def test_initial_parameters_depend_on_the_seed_alone(core):
    torch.manual_seed(1)
    one = Learner(spec(core), seed=7, dtype="float64")
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), expected)  # it drew nothing from torch's own generator
    torch.manual_seed(2)
    other, narrow = Learner(spec(core), seed=7, dtype="float64"), Learner(spec(core), seed=7)
    another = Learner(spec(core), seed=8, dtype="float64")
    names = [name for name in one.parameters if name.startswith("core.")]
    assert len(names) > 5
    for name in names:
        value = one.parameters[name]
        assert torch.equal(value, other.parameters[name]), name
        assert torch.equal(value.float(), narrow.parameters[name]), name
    assert any(not torch.equal(one.parameters[n], another.parameters[n]) for n in names)


@pytest.mark.parametrize("core", MEMORY_CORES)
def test_streams_continue_from_batch_to_batch(core):
    whole, parts = next(batches(1, time=8)), []
    for start in (0, 4):
        parts.append(Batch(*(part[start : start + 4] for part in whole[:2])))
    carrying = Learner(spec(core, streams=3), seed=3, dtype="float64")
    plain = Learner(spec(core), seed=3, dtype="float64")
    kept = carrying.state_dict()
    losses = [carrying.step(part, learning_rate=0.0)["loss"] for part in parts]
    counts = [(part.targets >= 0).sum() for part in parts]
    expected = plain.step(whole, learning_rate=0.0)["loss"]
    assert np.average(losses, weights=counts) == pytest.approx(expected, abs=1e-12)
    moved = carrying.state_dict()
    assert any(not np.array_equal(kept[n], moved[n]) for n in kept if n.startswith("carried."))
    fresh = Learner(spec(core, streams=3), seed=3, dtype="float64")
    fresh.load_state_dict(moved)
    again = [one.step(parts[0], learning_rate=0.0)["loss"] for one in (carrying, fresh)]
    assert again[0] == again[1] != losses[0]


@pytest.mark.parametrize("core", MEMORY_CORES)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_gates_have_the_shape_that_the_spec_states(core, mechanism):
    chosen = spec(core, mechanism=mechanism)
    gate = Learner(chosen, dtype="float64").gates(next(batches(1)))
    assert chosen.gate_shape == SHAPES[core]
    for side in gate:
        assert side.shape == SHAPES[core]
        assert side.dtype == np.float64
    np.testing.assert_allclose(gate.value + gate.complement, 1, rtol=0, atol=1e-12)


def test_gate_shapes_without_an_external_memory():
    chosen = ModelSpec(input="dense", input_size=1, output_size=1, hidden_size=4, layers=3)
    assert chosen.gate_shape == (3, 4)
    assert chosen.memory is None
    assert AgentSpec(shape=(3,), actions=2, hidden_size=4, core="none").gate_shape == (1, 1)


def test_default_sizes_are_filled_in():
    assert spec("rmc", memory=None, hidden_size=8).memory == Memory(
        slots=4, heads=4, gate_style="unit", blocks=1
    )
    assert spec("dnc", memory=Memory(slots=7)).memory == Memory(slots=7, width=16, heads=4)
    agent = AgentSpec(shape=(3,), actions=2, hidden_size=4, core="rma")
    assert agent.memory == Memory(slots=1000, width=200, heads=3)
    assert agent.gate_shape == (2, 4)
    assert spec("rmc", memory=Memory(heads=2, gate_style="memory")).gate_shape == (4, 1)


@pytest.mark.parametrize("core", MEMORY_CORES)
def test_the_head_reads_the_cores_output(core):
    chosen = spec(core, head=(7,))
    module = recurrent_core(chosen, 5)
    assert chosen.head_widths() == [(module.output_size, 7), (7, 4)]
    assert module.gate_shape == chosen.gate_shape
    output, _ = module(torch.zeros(2, 3, 5))
    assert output.shape == (2, 3, module.output_size)


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_layers_as_a_core_compute_what_the_layers_do(core):
    module, x = recurrent_core(Core(core=core, hidden_size=6, layers=2), 5), torch.randn(7, 3, 5)
    resets = torch.rand(7, 3) < 0.3
    output, _ = module(x, None, resets)
    expected, _ = module.layer(x, resets=resets)
    assert torch.equal(output, expected)
    assert output.shape[-1] == module.output_size == 6
    gate = module.forget_gates(x, None, resets)
    assert gate.value.shape == module.gate_shape == (2, 6)
    learner = Learner(
        ModelSpec(input="dense", input_size=5, output_size=1, hidden_size=6, core=core, layers=2,
                  loss="squared_error"),
    )  # fmt: skip
    with torch.no_grad():  # the learner's gates, which are compared with NumPy's
        for k in range(2):
            for name in ("weight_ih", "weight_hh"):
                getattr(module.layer, f"{name}_l{k}").copy_(
                    learner.parameters[f"layers.{k}.{name}"]
                )
            getattr(module.layer, f"bias_ih_l{k}").copy_(learner.parameters[f"layers.{k}.bias"])
            getattr(module.layer, f"bias_hh_l{k}").zero_()
    gate = module.forget_gates(x, None, resets)
    batch = Batch(x.numpy(), np.zeros((7, 3, 1), "f4"), resets.numpy())
    for side, expected in zip(gate, learner.gates(batch), strict=True):
        np.testing.assert_allclose(side, expected, rtol=0, atol=1e-6)
    assert isinstance(recurrent_core(Core(hidden_size=6), 5).layer, LSTM)


REFUSED = [
    ({"core": "rcm"}, "core='rcm' is unknown: did you mean 'rmc'"),
    ({"layers": 2}, "layers=2 is for core lstm, gru, minimal, mingru, not 'rmc'"),
    ({"zoneout": (0.1, 0.1)}, r"zoneout=\(0.1, 0.1\): core='rmc' has none"),
    ({"memory": Memory(heads=4)}, "hidden_size=6 is not divisible by memory_heads=4"),
    ({"memory": Memory(width=3)}, "width=3 is none of core='rmc'"),
    ({"core": "dnc", "memory": Memory(blocks=3)}, "blocks=3 is none of core='dnc'"),
    ({"core": "lstm"}, "memory_slots, memory_heads are for core rmc, dnc, rma, not 'lstm'"),
    ({"mechanism": "C", "memory": Memory(slots=2, heads=1, gate_style="memory")}, "above 2.*got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_sizes_that_do_not_fit_raise(changes, message):
    changes = dict(changes)
    core = changes.pop("core", "rmc")
    with pytest.raises(ValueError, match=message):
        spec("rmc", **{"memory": SMALL["rmc"], **changes}) if core == "rmc" else ModelSpec(
            core=core, input="one_hot", input_size=5, output_size=4, hidden_size=6,
            memory=changes.get("memory", SMALL["rmc"]),
        )  # fmt: skip


def test_errors_name_the_size():
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        Memory(slots=0)
    with pytest.raises(ValueError, match="gate_style='units' is unknown: did you mean 'unit'"):
        Memory(gate_style="units")


@pytest.mark.parametrize("name", ["numpy", "jax"])
def test_learners_of_other_backends_raise(name):
    pytest.importorskip(name, reason=f"{name} is not installed")
    with pytest.raises(ValueError, match="core='dnc' is torch's: choose the torch backend"):
        backends.load(name).Learner(spec("dnc"))


def test_leaves_of_a_state_are_nested_again():
    state = ((torch.zeros(1), torch.ones(1)), torch.full((1,), 2.0))
    assert [int(t) for t in leaves(state)] == [0, 1, 2]
    again = shaped(leaves(state), state)
    assert isinstance(again[0], tuple)
    assert [int(t) for t in leaves(again)] == [0, 1, 2]


# --- which path the learner takes


def layers(**changes):
    return ModelSpec(input="one_hot", input_size=5, output_size=4, hidden_size=6, **changes)


def test_the_requested_implementation_runs_every_layer(monkeypatch):
    from gatecore.backends.torch.training import backbone

    ran = []

    def recorded(*args, **keywords):
        done = run(*args, **keywords)
        ran.append(done.impl)
        return done

    run = backbone.run
    monkeypatch.setattr(backbone, "run", recorded)
    batch, losses = next(batches(1)), {}
    for impl in ("reference", "plain"):
        learner = Learner(layers(layers=2), seed=1, dtype="float64", impl=impl)
        losses[impl] = learner.step(batch, learning_rate=1e-2)["loss"]
        learner.evaluate([batch])
        learner.gates(batch)
        assert ran == [impl] * 6
        ran.clear()
    assert losses["plain"] == pytest.approx(losses["reference"], abs=1e-12)


@pytest.mark.parametrize(
    ("impl", "dtype", "message"),
    [
        ("native", "float64", "impl='native' is not available: .*float32"),
        ("fused", "float32", "impl='fused' is not available: it needs tensors on cuda"),
        ("nativ", "float32", "impl='nativ' is unknown: did you mean 'native'"),
    ],
)
def test_an_unavailable_implementation_raises_when_the_learner_is_made(impl, dtype, message):
    with pytest.raises(ValueError, match=message):
        Learner(layers(), dtype=dtype, impl=impl)


def test_a_memory_core_runs_step_by_step_only():
    batch = next(batches(1))
    losses = [
        Learner(spec("rmc"), impl=impl).step(batch, learning_rate=1e-2)["loss"]
        for impl in ("auto", "plain")
    ]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="impl='native' is not available: core='rmc' goes step by"):
        Learner(spec("rmc"), impl="native")
