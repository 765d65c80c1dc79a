"""The cells obey the paper's equations, on every array library."""

import dataclasses

import numpy as np
import pytest

from gatecore import cells, mechanism
from tests import reference
from tests.support import (
    CORES,
    EVERY_CORE,
    GATINGS,
    LAYER_KINDS,
    equations,
    layer_vectors,
    leaves,
    nested,
    norm_error,
    random_params,
    random_state,
    rebuild,
)

T, B, INPUTS, D = 4, 2, 3, 6
NAMES = ["standard", "C", "O", "U", "R", "UR", "OR", "OM", "UM", "M", "CR", "CM"]


def example(core, gating, rng):
    """A cell with random parameters, inputs and state, and the reference's trace of it."""
    cell, layer = EVERY_CORE[core](INPUTS, D, gating), equations(core, gating)
    params = random_params(layer, INPUTS, D, rng)
    xs, state = rng.standard_normal((T, B, INPUTS)), random_state(layer, B, D, rng)
    return cell, params, xs, state, reference.run(layer, *map(nested, (params, xs, state)))


def converted(library, tree, dtype="float64"):
    """A nest of NumPy arrays as arrays of another library."""
    return rebuild(tree, iter([library.array(leaf, dtype) for leaf in leaves(tree)]))


# --- against the scalar transcription -----------------------------------------------------------


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("name", [*NAMES, "UM/3", "OM/2"])
def test_a_scan_is_the_papers_recurrence(core, name, rng):
    gating = GATINGS.get(name) or mechanism(name)
    cell, params, xs, state, trace = example(core, gating, rng)
    outputs, last = cell.scan(params, xs, state)
    assert norm_error(outputs, trace.outputs) < 1e-12
    expected = trace.state if core == "lstm" else (trace.state,)
    for got, state in zip(leaves(last), expected, strict=True):
        assert norm_error(got, state) < 1e-12


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("name", GATINGS)
def test_steps_make_the_scan_and_gates_are_the_effective_ones(core, name, rng):
    cell, params, xs, state, trace = example(core, GATINGS[name], rng)
    for t, x in enumerate(xs):
        forget, input_ = cell.gates(params, x, state)
        assert norm_error(forget.value, trace.forget[t]) < 1e-12
        assert norm_error(forget.complement, 1 - np.array(trace.forget[t])) < 1e-12
        assert norm_error(input_.value, trace.input[t]) < 1e-12
        assert norm_error(input_.complement, 1 - np.array(trace.input[t])) < 1e-12
        output, state = cell.step(params, x, state)
        assert norm_error(output, trace.outputs[t]) < 1e-12
        if core == "lstm":
            assert norm_error(state[1], trace.cells[t]) < 1e-12


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("drawn", [False, True], ids=["probabilities", "masks"])
def test_zoneout_is_the_references(core, drawn, rng):
    cell, params, xs, state, _ = example(core, GATINGS["UR"], rng)
    zoneouts = rng.integers(0, 2, (2, T, B, D)) * 1.0 if drawn else (0.5, 0.05)
    zoneout = tuple(zoneouts) if core == "lstm" else zoneouts[1]
    trace = reference.run(
        equations(core, cell.mechanism), *map(nested, (params, xs, state)), zoneout=nested(zoneout)
    )
    for t, x in enumerate(xs):
        at = [a[t] for a in zoneouts] if drawn else zoneouts
        output, state = cell.step(params, x, state, at if core == "lstm" else at[1])
        assert norm_error(output, trace.outputs[t]) < 1e-12


@pytest.mark.parametrize("name", LAYER_KINDS)
def test_layers_reproduce_the_vectors(name, arrays):
    vectors = layer_vectors(name)
    layer = vectors.layer
    gating = mechanism(
        {"none": "standard", "refine": "UR", "master": "OM"}[layer.auxiliary],
        downsize=layer.downsize,
    )
    cell = EVERY_CORE[layer.core](3, 8, gating)
    params, x, state = (converted(arrays, v) for v in (vectors.params, vectors.x, vectors.state))
    outputs, _ = cell.scan(params, x, state)
    assert norm_error(arrays.numpy(outputs), vectors.outputs) < 1e-12
    for t in range(len(vectors.x)):
        forget, input_ = cell.gates(params, x[t, ...], state)
        assert norm_error(arrays.numpy(forget.value), vectors.forget[t]) < 1e-12
        assert norm_error(arrays.numpy(input_.value), vectors.input[t]) < 1e-12
        output, state = cell.step(params, x[t, ...], state)
        if vectors.cells is not None:
            assert norm_error(arrays.numpy(state[1]), vectors.cells[t]) < 1e-12
        assert norm_error(arrays.numpy(output), vectors.outputs[t]) < 1e-12


# --- the same code on the other libraries -------------------------------------------------------


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("name", GATINGS)
def test_other_libraries_compute_what_numpy_computes(foreign_arrays, core, name, rng):
    cell, params, xs, state, _ = example(core, GATINGS[name], rng)
    here, last_here = cell.scan(params, xs, state)
    there, last_there = cell.scan(*(converted(foreign_arrays, v) for v in (params, xs, state)))
    assert norm_error(foreign_arrays.numpy(there), here) < 1e-13
    for one, other in zip(leaves(last_there), leaves(last_here), strict=True):
        assert norm_error(foreign_arrays.numpy(one), other) < 1e-13


@pytest.mark.parametrize("core", EVERY_CORE)
def test_a_scan_starts_at_zero_by_default(arrays, core, rng):
    cell, params, xs, state, _ = example(core, GATINGS["UR"], rng)
    zero = rebuild(state, iter([0 * leaf for leaf in leaves(state)]))
    params, xs, zero = (converted(arrays, v, "float32") for v in (params, xs, zero))
    (default, _), (explicit, _) = cell.scan(params, xs), cell.scan(params, xs, zero)
    assert arrays.numpy(default).dtype == np.float32
    assert np.array_equal(arrays.numpy(default), arrays.numpy(explicit))


@pytest.mark.parametrize("core", EVERY_CORE)
def test_a_scan_compiles_under_jax(core, rng):
    jax = pytest.importorskip("jax")
    cell, params, xs, state, trace = example(core, GATINGS["OM/2"], rng)
    outputs, _ = jax.jit(cell.scan)(params, xs, state)
    assert norm_error(outputs, trace.outputs) < 1e-12


# --- mechanism `standard` is torch's layer ------------------------------------------------------


def test_standard_lstm_is_torchs(rng):
    torch = pytest.importorskip("torch")
    cell, params, xs, state, _ = example("lstm", GATINGS["standard"], rng)
    layer = torch.nn.LSTM(INPUTS, D, dtype=torch.float64)
    for name in ("weight_ih", "weight_hh"):
        getattr(layer, f"{name}_l0").data = torch.tensor(params[name])
    layer.bias_ih_l0.data = torch.tensor(params["bias"])
    layer.bias_hh_l0.data *= 0
    expected, _ = layer(torch.tensor(xs), tuple(torch.tensor(s)[None] for s in state))
    assert norm_error(cell.scan(params, xs, state)[0], expected.detach().numpy()) < 1e-12


def test_standard_gru_is_torchs(rng):
    torch = pytest.importorskip("torch")
    cell, params, xs, state, _ = example("gru", GATINGS["standard"], rng)
    layer = torch.nn.GRU(INPUTS, D, dtype=torch.float64)
    for name in ("weight_ih", "weight_hh"):
        getattr(layer, f"{name}_l0").data = torch.tensor(params[name])
    layer.bias_ih_l0.data = torch.tensor(params["bias"])
    layer.bias_hh_l0.data = torch.tensor(np.concatenate([np.zeros(2 * D), params["bias_n"]]))
    expected, _ = layer(torch.tensor(xs), torch.tensor(state)[None])
    assert norm_error(cell.scan(params, xs, state)[0], expected.detach().numpy()) < 1e-12


# --- initial parameters -------------------------------------------------------------------------


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("name", GATINGS)
def test_initial_parameters_have_the_packed_shapes(core, name):
    cell = EVERY_CORE[core](INPUTS, D, GATINGS[name])
    rows = GATINGS[name].rows(core, D)
    shapes = {"weight_ih": (rows, INPUTS), "bias": (rows,)}
    shapes |= {"weight_hh": (rows, D)} if core in CORES else {}
    shapes |= {"bias_n": (D,)} if core == "gru" else {}
    params = cell.init(0)
    assert {key: value.shape for key, value in params.items()} == shapes
    assert all(value.dtype == np.float64 for value in params.values())


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_hidden_size():
    params = cells.LSTM(50, 64, "UR").init(0)
    for weight in (params["weight_ih"], params["weight_hh"]):
        assert np.abs(weight).max() <= 1 / 8
        assert np.abs(weight).max() > 0.124
        assert abs(weight.var() - (1 / 8) ** 2 / 3) < 0.03 * (1 / 8) ** 2 / 3


def test_initial_biases_are_the_mechanisms():
    params = cells.LSTM(INPUTS, D, "UR").init(0)
    slots = np.split(params["bias"], 4)  # refine forget candidate output
    assert slots[1].any()
    assert slots[0].any()
    assert not np.allclose(slots[0], -slots[1])
    assert not slots[2].any()
    assert not slots[3].any()
    opposed = cells.LSTM(INPUTS, D, mechanism("UR", refine_bias="opposed")).init(0)["bias"]
    assert np.array_equal(opposed[:D], -opposed[D : 2 * D])
    assert not cells.GRU(INPUTS, D).init(0)["bias_n"].any()


def test_initial_parameters_are_a_function_of_the_generator():
    cell = cells.GRU(INPUTS, D, "UM")
    one, same, other = cell.init(5), cell.init(np.random.default_rng(5)), cell.init(6)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["weight_ih"], other["weight_ih"])


@pytest.mark.parametrize("core", EVERY_CORE)
def test_a_cell_is_a_value(core):
    cell, same = EVERY_CORE[core](3, 8, "UR"), EVERY_CORE[core](3, 8, mechanism("UR"))
    assert cell == same
    assert hash(cell) == hash(same)
    others = [
        EVERY_CORE[core](4, 8, "UR"),
        EVERY_CORE[core](3, 4, "UR"),
        EVERY_CORE[core](3, 8, "OM"),
    ]
    others += [EVERY_CORE[name](3, 8, "UR") for name in EVERY_CORE if name != core]
    assert len({cell, same, *others}) == 1 + len(others)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.hidden_size = 4
    assert dataclasses.replace(cell, mechanism="OM") == EVERY_CORE[core](3, 8, "OM")


@pytest.mark.parametrize("core", EVERY_CORE)
def test_a_state_is_made_of_its_named_parts(core):
    cell = EVERY_CORE[core](3, 8)
    state = cell.initial_state(np.zeros((1, 2, 3)))
    parts = cell.parts(state)
    assert len(parts) == len(cell.state_names)
    assert all(part.shape == (2, 8) for part in parts)
    assert all(one is other for one, other in zip(parts, leaves(cell.state(parts)), strict=True))


def test_the_repr_of_a_cell_is_its_constructor():
    assert repr(cells.LSTM(3, 8, "OM")) == "LSTM(3, 8, mechanism='OM')"


@pytest.mark.parametrize(
    ("bad", "error", "complaint"),
    [
        (lambda: cells.LSTM(0, 4), ValueError, "input_size"),
        (lambda: cells.LSTM(3, 0), ValueError, "hidden_size"),
        (lambda: cells.LSTM(3, 4.0), TypeError, "hidden_size"),
        (lambda: cells.LSTM(3, 1, "UR"), ValueError, "hidden_size"),
        (lambda: cells.GRU(3, 6, mechanism("OM", downsize=4)), ValueError, "not divisible"),
        (lambda: cells.Minimal(3, 4, "URU"), ValueError, "UR"),
        (lambda: cells.LSTM(3, 4).init(None), TypeError, "rng"),
        (lambda: cells.LSTM(3, 4).parts(np.zeros((2, 4))), ValueError, r"pair \(h, c\)"),
    ],
)
def test_errors_name_the_argument(bad, error, complaint):
    with pytest.raises(error, match=complaint):
        bad()
