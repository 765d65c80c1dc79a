"""Layer normalization of the cells: the function, the NumPy backend's layers, the initial gates."""

import dataclasses

import mpmath
import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends, cells, mechanism
from gatecore.normalization import layer_norm
from tests import reference
from tests.sequences import (
    VARIANTS,
    D,
    assert_every_slope_is_a_difference,
    assert_float32_is_close,
    assert_is_the_transcription,
    assert_pullback_is_the_derivative,
    central_slope,
    gradient,
    random_like,
    reference_result,
    reference_run,
    run,
    sequence_case,
)
from tests.support import (
    EVERY_CORE,
    GATINGS,
    equations,
    inner,
    leaves,
    nested,
    norm_error,
    random_params,
    random_state,
    rebuild,
)

numpy = backends.load("numpy")
every = pytest.mark.parametrize("core", EVERY_CORE)
gated = pytest.mark.parametrize("name", GATINGS)
ADDED = {
    "lstm": {"norm_ih", "norm_hh", "norm_c", "norm_c_bias"},
    "gru": {"norm_ih", "norm_hh"},
    "minimal": {"norm_ih", "norm_hh"},
    "mingru": {"norm_ih"},
}
SPEC = {"input": "dense", "input_size": 3, "output_size": 2, "hidden_size": 6, "layers": 2}


def normalized_case(core, name, rng, variant="plain"):
    return sequence_case(core, GATINGS[name], variant, rng, layer_norm=True)


# --- the function -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_is_torchs(scale, offset, rng):
    torch = pytest.importorskip("torch")
    x, gain, bias = offset + scale * rng.standard_normal((5, 7)), rng.random(7), rng.random(7)
    tensors = [torch.tensor(array, requires_grad=True) for array in (x, gain, bias)]
    expected = torch.nn.functional.layer_norm(tensors[0], (7,), *tensors[1:], eps=1e-5)
    assert norm_error(layer_norm(x, gain, bias), expected.detach().numpy()) < 1e-8
    weight = torch.tensor(rng.standard_normal((5, 7)))
    exact = torch.autograd.grad((weight * expected).sum(), tensors)
    got = torch.autograd.grad((weight * layer_norm(*tensors)).sum(), tensors)
    for one, other in zip(got, exact, strict=True):
        assert norm_error(one.numpy(), other.numpy()) < 1e-8


def test_layer_norm_is_the_same_in_every_library(foreign_arrays, rng):
    x, gain, bias = rng.standard_normal((2, 5, 7)), rng.random(7), rng.random(7)
    there = layer_norm(*(foreign_arrays.array(value, "float64") for value in (x, gain, bias)))
    assert norm_error(foreign_arrays.numpy(there), layer_norm(x, gain, bias)) < 1e-14


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, -3e-20, 1e6, 0.1e20])
def test_a_row_of_equal_entries_is_normalized_to_zero(dtype, value):
    assert not layer_norm(np.full((2, 9), value, dtype), np.ones(9, dtype)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e18, 1e30])
def test_rows_of_any_size_are_normalized_accurately(dtype, scale, rng):
    """Squares of 1e30 and of 1e-30 are no float32 numbers."""
    x = (scale * rng.standard_normal(9)).astype(dtype)
    with mpmath.workdps(30):
        exact = reference.normalized([mpmath.mpf(float(a)) for a in x], [1] * 9, [0] * 9, mpmath)
    got = layer_norm(x, np.ones(9, dtype))
    assert got.dtype == dtype
    assert norm_error(got, np.array(exact, dtype=float)) < 8 * np.finfo(dtype).eps


# --- cells and layers, against the scalar transcription -----------------------------------------


@every
@gated
def test_a_scan_of_a_cell_is_the_transcription(core, name, rng):
    cell, layer = (
        EVERY_CORE[core](3, D, GATINGS[name], layer_norm=True),
        equations(core, GATINGS[name]),
    )
    params = random_params(layer, 3, D, rng, layer_norm=True)
    xs, state = rng.standard_normal((4, 2, 3)), random_state(layer, 2, D, rng)
    trace = reference.run(layer, *map(nested, (params, xs, state)))
    assert norm_error(cell.scan(params, xs, state)[0], trace.outputs) < 1e-12
    for t, x in enumerate(xs):
        assert norm_error(cell.gates(params, x, state)[0].value, trace.forget[t]) < 1e-12
        output, state = cell.step(params, x, state)
        assert norm_error(output, trace.outputs[t]) < 1e-12


@every
@gated
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_and_its_pullback_are_the_transcription_and_its_derivative(
    core, name, variant, rng
):
    case = normalized_case(core, name, rng, variant)
    assert_is_the_transcription(case)
    assert_pullback_is_the_derivative(case, rng, directions=1)


@pytest.mark.parametrize(
    ("core", "name", "variant"),
    [
        ("lstm", "UR", "resets"),
        ("gru", "OM/2", "draws"),
        ("minimal", "UR untied", "evaluation"),
        ("mingru", "OR untied", "stacked"),
    ],
)
def test_every_entry_of_the_gradient_matches_finite_differences(core, name, variant, rng):
    assert_every_slope_is_a_difference(normalized_case(core, name, rng, variant), rng)


def test_cell_states_and_their_cotangents_belong_to_the_derivative(rng):
    case = normalized_case("lstm", "UR", rng)
    (_, states), _, pullback = run(case, return_cells=True)
    assert norm_error(states, reference_run(case, case.point)[0].cells) < 1e-12
    d_cells, direction = random_like(states, rng), random_like(case.point, rng)
    expected = central_slope(
        lambda point: inner(run(case, point, return_cells=True)[0][1], d_cells),
        case.point,
        direction,
    )
    got = inner(gradient(pullback, ((None, d_cells), None)), direction)
    assert got == pytest.approx(expected, rel=1e-6)


@every
def test_a_pullback_can_be_called_again(core, rng):
    case = normalized_case(core, "UR", rng)
    output, _, pullback = run(case)
    first, again = (leaves(gradient(pullback, (np.ones_like(output),))) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@every
@gated
def test_float32_stays_close_to_float64(core, name, rng):
    assert_float32_is_close(normalized_case(core, name, rng, "resets"), rng)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e15, 1e25])
def test_extreme_products_give_finite_results_and_gradients(core, dtype, scale, rng):
    """Constant products have variance 0; the squares of the largest are no float32 numbers."""
    case = normalized_case(core, "UR", rng)
    params = case.point["params"]
    params["weight_ih"] *= scale
    if "weight_hh" in params:
        params["weight_hh"] = 1 + scale * params["weight_hh"]
    point = rebuild(case.point, iter([leaf.astype(dtype) for leaf in leaves(case.point)]))
    output, _, pullback = run(case, point)
    exact = reference_result(case, case.point)[0]
    assert norm_error(output, exact) < (1e-3 if dtype == np.float32 else 1e-10)
    for leaf in leaves(pullback(np.ones_like(output))):
        assert np.isfinite(leaf).all()


# --- parameters ---------------------------------------------------------------------------------


@every
@gated
def test_the_draw_of_the_other_parameters_is_that_without_layer_norm(core, name):
    plain, params = (EVERY_CORE[core](3, D, GATINGS[name], norm).init(5) for norm in (False, True))
    added = ADDED[core]
    assert params.keys() - plain.keys() == added
    assert all(np.array_equal(params[key], value) for key, value in plain.items())
    assert all(np.array_equal(params[key], params[key] * 0 + (key in cells.GAINS)) for key in added)


@every
@gated
def test_initial_timescales_are_those_of_the_biases(core, name):
    """At zero input and state the gates are those of the mechanism's biases."""
    pair = [EVERY_CORE[core](3, D, GATINGS[name], norm) for norm in (False, True)]
    zeros = np.zeros((1, 3)), pair[0].state([np.zeros((1, D))] * len(pair[0].state_names))
    plain, with_norm = (cell.gates(cell.init(5), *zeros) for cell in pair)
    for one, other in zip(leaves(with_norm), leaves(plain), strict=True):
        assert np.array_equal(one, other)


def test_a_cell_shows_and_compares_its_layer_norm():
    cell = cells.LSTM(3, 8, "OM", layer_norm=True)
    assert repr(cell) == "LSTM(3, 8, mechanism='OM', layer_norm=True)"
    assert cell != cells.LSTM(3, 8, "OM")
    assert dataclasses.replace(cell, layer_norm=False) == cells.LSTM(3, 8, "OM")
    with pytest.raises(TypeError, match="layer_norm must be True or False"):
        cells.GRU(3, 8, layer_norm="yes")


@pytest.mark.parametrize(
    ("core", "drop", "add", "message"),
    [
        ("lstm", "norm_hh", {}, "lacks 'norm_hh'"),
        ("lstm", "norm_c_bias", {}, "lacks 'norm_c_bias'"),
        ("gru", "norm_ih", {}, "lacks 'norm_ih'"),
        ("gru", None, {"norm_c": np.ones(D)}, "unknown entry 'norm_c'"),
        ("minimal", None, {"norm_ih": np.ones(D)}, r"params\['norm_ih'\] must have shape"),
    ],
)
def test_an_incomplete_or_wrong_set_of_parameters_is_refused(core, drop, add, message):
    params = EVERY_CORE[core](3, D, layer_norm=True).init(0) | add
    params.pop(drop, None)
    with pytest.raises(ValueError, match=message):
        getattr(numpy, core)(params, np.zeros((4, 2, 3)))


@every
def test_the_native_library_is_not_taken(core, rng):
    params = EVERY_CORE[core](3, D, layer_norm=True).init(0)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    x = rng.standard_normal((4, 2, 3)).astype(np.float32)
    assert getattr(numpy, core)(params, x)[2].impl == "reference"
    with pytest.raises(ValueError, match="it has no layer normalization; use impl='auto'"):
        getattr(numpy, core)(params, x, impl="native")


# --- models -------------------------------------------------------------------------------------


def learner(backend="numpy", core="lstm", **settings):
    spec = ModelSpec(**SPEC, core=core, layer_norm=True, **settings)
    return backends.load(backend).Learner(spec, seed=3, dtype="float64")


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((6, 5, 3)), rng.integers(2, size=(6, 5)))


@pytest.mark.parametrize(
    ("core", "two_biases"), [*((core, False) for core in EVERY_CORE), ("lstm", True), ("gru", True)]
)
def test_a_model_trains_its_gains(core, two_biases):
    model = learner(core=core, two_biases=two_biases)
    before = model.state_dict()
    losses = [model.step(batch(), learning_rate=0.01)["loss"] for _ in range(20)]
    assert losses[-1] < losses[0]
    names = [name for name in model.parameters if ".norm_" in name]
    assert len(names) == 2 * len(ADDED[core])
    for name in names:
        assert (model.parameters[name] != before[f"parameters.{name}"]).any(), name


def test_a_model_with_a_memory_refuses_it():
    with pytest.raises(ValueError, match="layer_norm=True is for core lstm, gru, minimal, ming"):
        ModelSpec(**{**SPEC, "layers": 1}, core="dnc", layer_norm=True)
    with pytest.raises(TypeError, match="layer_norm must be True or False"):
        ModelSpec(**SPEC, layer_norm=1)


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_a_learner_refuses_the_native_library(backend):
    pytest.importorskip(backend)
    with pytest.raises(ValueError, match="it has no layer normalization"):
        backends.load(backend).Learner(ModelSpec(**SPEC, layer_norm=True), impl="native")


@every
def test_the_gates_of_a_learner_are_the_initial_ones_at_zero_input(core):
    """Of the first step, whose state is zero, in the first layer."""
    plain = numpy.Learner(ModelSpec(**SPEC, core=core), seed=3, dtype="float64")
    zeros = Batch(np.zeros((1, 2, 3)), np.zeros((1, 2), int))
    for one, other in zip(learner(core=core).gates(zeros), plain.gates(zeros), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert mechanism("UR") == plain.spec.mechanism


@every
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_backends_have_equal_losses_and_stay_together(backend, core):
    pytest.importorskip(backend)
    models = [learner(name, core, two_biases=core == "gru") for name in ("numpy", backend)]
    for step in range(3):
        metrics = [model.step(batch(step), learning_rate=0.01) for model in models]
        for name, value in metrics[0].items():
            assert metrics[1][name] == pytest.approx(value, rel=1e-9), (step, name)
    for name, value in models[0].state_dict().items():
        other = models[1].state_dict()[name]
        np.testing.assert_allclose(other, value, rtol=1e-7, atol=1e-9, err_msg=name)
    for one, other in zip(*(model.gates(batch()) for model in models), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-8)
