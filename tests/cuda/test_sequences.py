"""Whole sequences by the kernels, compiled for the host, inside manual BPTT.

All of the CuPy path but the GPU itself: the arguments, the choice of a template, layouts, products,
resets, zoneout, replays of what was recorded. The expected results are the NumPy backend's, which
is tested against independent references.
"""

import numpy as np
import pytest

import gatecore
from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import support
from gatecore.backends.cuda.steps import KernelEngine
from gatecore.backends.numpy import Learner, bptt
from gatecore.backends.numpy.learner import ExplicitLearner
from tests import sequences
from tests.cuda.host import HostLauncher
from tests.sequences import VARIANTS, gradient, random_like, sequence_case
from tests.support import CORES, GATINGS, ULP, leaves, norm_error, rebuild, relative_error
from tests.test_state_update import Forgetting


@pytest.fixture
def engine(host_library):
    """Manual BPTT on the kernels."""
    return KernelEngine(HostLauncher(host_library))


def run(engine, case, point=None, **options):
    """As `sequences.run`, on an engine."""
    point = case.point if point is None else point
    options = {"resets": case.resets, "zoneout": case.zoneout, "impl": "fused", **options}
    arguments = point["params"], point["x"], point["state"], case.gating
    return bptt.run(engine, case.core, *arguments, **options)


def cast(tree, dtype):
    """A nest with its arrays in another dtype."""
    return rebuild(tree, iter([leaf.astype(dtype) for leaf in leaves(tree)]))


def agree(got, wanted, tolerance):
    """Two nests, array by array, by the norm of each."""
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert norm_error(a, b) <= tolerance


def compare(engine, case, rng, tolerance, dtype=np.float64):
    """Outputs, last state and all gradients of a case, with random cotangents of all results."""
    output, state, pullback = sequences.run(case)
    weights = random_like((output, state), rng)
    if dtype != np.float64 and case.zoneout is not None:
        case.zoneout = rebuild_amounts(case.zoneout, dtype)
    got_output, got_state, got_pullback = run(engine, case, cast(case.point, dtype))
    agree((got_output, got_state), (output, state), tolerance)
    agree(gradient(got_pullback, cast(weights, dtype)), gradient(pullback, weights), tolerance)
    agree(list(got_pullback.gates()), list(pullback.gates()), tolerance)


def rebuild_amounts(amounts, dtype):
    """Zoneout with its draws in another dtype; numbers stay."""
    if isinstance(amounts, (tuple, list)):
        return type(amounts)(rebuild_amounts(a, dtype) for a in amounts)
    return amounts.astype(dtype) if isinstance(amounts, np.ndarray) else amounts


@pytest.mark.parametrize("core", CORES)
def test_resets_clear_bad_states_and_cotangents(core, engine, rng):
    case = sequence_case(core, GATINGS["UR"], "resets", rng)
    case.resets[0, 0] = case.resets[2, 1] = True
    output, _, _ = sequences.run(case)
    for part in leaves(case.point["state"]):
        part[0] = np.nan
    bad = np.ones_like(output)
    bad[2:, 1] = np.nan
    with np.errstate(invalid="ignore"):
        (got, _, pullback), (_, _, its) = run(engine, case), sequences.run(case)
        (_, d_x, d_state), (_, its_d_x, its_d_state) = pullback(bad), its(bad)
    agree(got, output, 1e-12)
    agree(d_x[:2], its_d_x[:2], 1e-12)
    agree(d_state, its_d_state, 1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_kernels_give_the_numpy_backends_sequences_and_gradients(engine, core, name, variant, rng):
    case = sequence_case(core, GATINGS[name], variant, rng)
    compare(engine, case, rng, 1e-12)


@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_float32_kernels_stay_close_to_float64(engine, core, name, rng):
    case = sequence_case(core, GATINGS[name], "stacked", rng)
    compare(engine, case, rng, 5e-6, np.float32)


@pytest.mark.parametrize(("threads", "lanes"), [(3, 1), (8, 4)])
@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_the_threads_of_a_block_share_the_work(host_library, core, name, threads, lanes, rng):
    engine = KernelEngine(HostLauncher(host_library, threads, lanes))
    case = sequence_case(core, GATINGS[name], "stacked", rng)
    compare(engine, case, rng, 1e-12)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("scale", [1000.0, -1000.0])
def test_saturated_gates_in_float32_are_those_of_float64(engine, core, name, scale, rng):
    case = sequence_case(core, GATINGS[name], "plain", rng)
    case.point["params"]["bias"] *= scale
    point = cast(case.point, np.float32)
    output, state, pullback = sequences.run(case, cast(point, np.float64))
    got_output, got_state, got_pullback = run(engine, case, point)
    weights = cast(random_like((output, state), rng), np.float32)
    got = got_output, got_state, gradient(got_pullback, weights)
    wanted = output, state, gradient(pullback, cast(weights, np.float64))
    assert all(np.isfinite(leaf).all() for leaf in leaves(got))
    # absolutely, for cotangents of size 1: here one has 0 where the other has 1e-22 or a denormal
    largest = max(1.0, *(float(np.abs(leaf).max()) for leaf in leaves(wanted)))
    for a, b in zip(leaves(got), leaves(wanted), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * largest


@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_cell_states_and_their_cotangents(engine, name, rng):
    case = sequence_case("lstm", GATINGS[name], "resets", rng)
    outputs, state, pullback = sequences.run(case, return_cells=True)
    got, got_state, got_pullback = run(engine, case, return_cells=True)
    agree((got, got_state), (outputs, state), 1e-12)
    for given in [(outputs[0], outputs[1]), (None, outputs[1]), (outputs[0], None)]:
        agree(gradient(got_pullback, (given, None)), gradient(pullback, (given, None)), 1e-12)


@pytest.mark.parametrize("name", ["UR", "OM"])
def test_cotangents_in_another_layout_are_the_same_cotangents(engine, name, rng):
    case = sequence_case("lstm", GATINGS[name], "plain", rng)
    case.point = cast(case.point, np.float32)
    _, _, pullback = run(engine, case)
    d_output = rng.standard_normal((*case.point["x"].shape[:2], 6)).astype(np.float32)
    wanted = pullback(d_output)
    agree(pullback(np.asfortranarray(d_output)), wanted, 0)
    agree(pullback(np.repeat(d_output, 2, axis=0)[::2]), wanted, 0)


@pytest.mark.parametrize("core", CORES)
def test_later_calls_replay_the_first_ones_record_on_their_own_arrays(engine, core, rng):
    cases = [sequence_case(core, GATINGS["UR"], "plain", rng) for _ in range(3)]
    runs = [run(engine, case) for case in cases]  # three pullbacks alive, buffers of one shape
    weights = [random_like(r[:2], rng) for r in runs]
    for k in (1, 0, 2, 1):
        output, state, pullback = sequences.run(cases[k])
        agree(runs[k][:2], (output, state), 1e-12)
        agree(gradient(runs[k][2], weights[k]), gradient(pullback, weights[k]), 1e-12)
    assert len(engine.launcher.graph_buffers) == 1
    assert engine.launcher.replayed == ["forward"] * 3 + ["backward"] * 4


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", GATINGS)
def test_a_large_state_that_is_forgotten_leaves_nothing_behind(engine, core, name):
    case = Forgetting(core, name)
    given = case.params, case.x, case.state, case.cell.mechanism
    states = case.cell.parts(bptt.run(engine, core, *given)[1])
    for got, exact in zip(states, case.exact(), strict=True):
        assert relative_error(got, exact) < 8 * ULP


@pytest.mark.parametrize("variant", ["plain", "resets", "draws"])
@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_inference_gives_the_same_and_saves_nothing(engine, core, name, variant, rng):
    case = sequence_case(core, GATINGS[name], variant, rng)
    output, state, saving = run(engine, case)
    got, got_state, pullback = run(engine, case, save_for_backward=False)
    agree((got, got_state), (output, state), 0)
    layer, saved = pullback._layer, saving._layer
    cell, hidden = layer.cell, layer.cell.hidden_size
    assert layer.operand.shape[-1] + hidden <= saved.operand.shape[-1]
    weights = [case.point["params"]["weight_ih"].T, case.point["params"]["bias"][None]]
    projected = layer.operand[..., : cell.input_size + 1] @ np.concatenate(weights)
    if "M" not in name or "O" in name:  # sigmoid master gates are completed in place
        agree(layer.logits, projected, 1e-12)
    assert norm_error(saved.logits, projected) > 1e-3


def test_a_learner_trains_as_the_numpy_backends_does(engine):
    spec = gatecore.ModelSpec(
        input="one_hot", input_size=4, output_size=4, hidden_size=6, mechanism="OM",
        zoneout=(0.5, 0.05), layers=2,
    )  # fmt: skip
    tokens = np.random.default_rng(5).integers(0, 4, (2, 7, 3))
    batch = gatecore.Batch(tokens[0], tokens[1])
    learners = ExplicitLearner(engine, spec, dtype="float64"), Learner(spec, dtype="float64")
    for _ in range(3):
        got, wanted = (learner.step(batch, learning_rate=0.1) for learner in learners)
        assert got == pytest.approx(wanted, rel=1e-10)
    agree(list(learners[0].gates(batch)), list(learners[1].gates(batch)), 1e-10)


def cell_of(core="lstm", mechanism="UR", hidden=8):
    return gatecore.cells.CELLS[core](3, hidden, mechanism)


@pytest.mark.parametrize(
    ("hidden", "steps", "dtype", "word"),
    [
        (8, (5, 2), "float16", "dtype"),
        (1, (5, 2), "float32", "hidden_size"),
        (8, (0, 2), "float32", "time"),
        (8, (5, 0), "float32", "batch"),
    ],
)
def test_what_is_not_supported_has_a_reason(hidden, steps, dtype, word):
    assert word in support.unsupported(cell_of("lstm", "standard", hidden), steps, dtype)


def test_every_mechanism_is_supported_on_every_core():
    for core in CORES:
        for gating in GATINGS.values():
            assert support.unsupported(cell_of(core, gating, 12), (5, 2), "float32") is None
    assert support.device_unsupported(90) is None
    assert "compute_capability 75" in support.device_unsupported(75)


def test_auto_falls_back_and_an_explicit_request_raises(host_library, rng):
    params = gatecore.cells.LSTM(3, 1, "standard").init(0)
    arguments = "lstm", params, rng.standard_normal((4, 2, 3)), None, "standard"
    engine = KernelEngine(HostLauncher(host_library))
    with pytest.raises(ValueError, match="impl='fused' is not available: hidden_size 1 is not in"):
        bptt.run(engine, *arguments, impl="fused")
    output, _, pullback = bptt.run(engine, *arguments)
    assert pullback.impl == pullback.path == "reference"
    assert np.array_equal(output, gatecore.backends.load("numpy").lstm(*arguments[1:])[0])
    case = sequence_case("lstm", GATINGS["UR"], "stacked", rng)
    assert run(engine, case, impl="auto")[2].impl == ["fused"] * 2
    assert run(engine, case, impl="reference")[2].impl == ["reference"] * 2
    old = KernelEngine(HostLauncher(host_library), lambda: "compute_capability 70")
    assert run(old, case, impl="auto")[2].impl == ["reference"] * 2


@pytest.mark.parametrize("hidden", [2, 31, 32, 100, 512, 1000, 4096])
@pytest.mark.parametrize("mechanism", ["UR", "OM", "O", "UM"])
def test_every_unit_has_a_thread_and_no_block_is_too_large(hidden, mechanism):
    shape = support.geometry(layout_of(cell_of("lstm", mechanism, hidden)), 7, 4)
    together = mechanism != "UR"
    assert shape.grid[0] == 7
    assert shape.threads % support.WARP == 0
    assert shape.threads <= support.MAX_THREADS
    assert shape.shared == 6 * 4 * (shape.threads // support.WARP)
    assert shape.grid[1] == 1 if together else shape.grid[1] * shape.threads >= hidden
