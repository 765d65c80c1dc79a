"""Float32 where it is hard: gates near 0 and 1 over long sequences, extreme logits, NaN."""

import math
from unittest import mock

import numpy as np
import pytest

from gatecore import sigmoid
from gatecore.backends.native import library
from gatecore.backends.native.layer import NativeLayer
from gatecore.backends.numpy import steps
from gatecore.backends.numpy.bptt import Call, Engine, run
from tests.native.layers import ENGINE, SUPPORTED, Case, cast, worst
from tests.reference import packed_rows
from tests.support import CORES, EVERY_CORE, GATINGS, ULP, equations, relative_error
from tests.test_state_update import Forgetting

if not library.available():
    pytest.skip(library.unsupported(), allow_module_level=True)


def layer_with_gates(core, gating, biases, time=2000):
    """A layer whose biases (by the reference's letters) hold its gates; small weights vary them."""
    case = Case(core, gating, time, 4, 3, 32, cells=core == "lstm")
    params, rows = case.arguments["params"], packed_rows(equations(core, GATINGS[gating]), 32)
    for weights in {"weight_ih", "weight_hh"} & set(params):
        params[weights] *= 0.3
    for letter, value in biases.items():
        params["bias"][rows[letter]] = value
    for part in case.arguments["d_output"]:
        part /= time
    return case, rows


def rounded_in_float32(case):
    """The parameters' gradients in float64, with states and cotangents in float32 between steps.

    They differ from the exact ones by an error that every float32 recurrence has.
    """
    arguments = cast(case.arguments, np.float64)

    def rounding(rows, t, arrays):  # called before a step forward, after one backward
        for array in arrays:
            array[...] = array.astype(np.float32)

    with mock.patch.object(steps, "_reset", rounding):
        _, _, pullback = run(
            Engine(np), case.core, arguments["params"], arguments["x"],
            case.packed(arguments["state"]), arguments["cell"].mechanism, return_cells=case.cells,
        )  # fmt: skip
        d_output = arguments["d_output"] if case.cells else arguments["d_output"][0]
        return pullback(d_output, case.packed(arguments["d_state"]))[0]


def by_slot(gradients, rows):
    """The parameters' gradients, each slot's apart: a small one must not hide behind another."""
    packed = [n for n in gradients if n != "bias_n"]
    parts = {f"{n} {letter}": gradients[n][rows[letter]] for n in packed for letter in rows}
    return parts | {n: v for n, v in gradients.items() if n not in packed}


LONG = math.log(1e4 - 1)  # the logit of a gate with a timescale of 10,000 steps
ORDERED = np.where(np.arange(32) == 0, math.log(31e4), 0)  # logits of cumax, from that timescale up


@pytest.mark.parametrize(
    ("core", "gating", "biases"),
    [
        ("lstm", "standard", {"f": LONG, "i": -LONG}),
        ("lstm", "UR", {"f": LONG, "r": 0.0}),
        ("lstm", "UR", {"f": math.log(99), "r": 4.6}),
        ("lstm", "M", {"F": LONG, "I": -LONG}),
        ("gru", "standard", {"f": LONG}),
        ("gru", "UR", {"f": LONG, "r": 0.0}),
        ("minimal", "standard", {"f": LONG}),
        ("minimal", "UR", {"f": LONG, "r": 4.6}),
        ("lstm", "O", {"f": ORDERED, "i": ORDERED}),
        ("gru", "O", {"f": ORDERED}),
        ("minimal", "O", {"f": ORDERED}),
        ("mingru", "standard", {"f": LONG}),
        ("mingru", "UR", {"f": LONG, "r": 4.6}),
        ("lstm", "OR", {"f": ORDERED, "r": 0.0}),
        ("gru", "OR", {"f": ORDERED, "r": 0.0}),
        ("lstm", "OM", {"F": ORDERED, "I": ORDERED, "f": 0.0, "i": 0.0}),
        ("lstm", "OM", {"F": ORDERED, "I": ORDERED, "f": LONG, "i": 0.0}),
    ],
)
def test_saturated_gates_over_2000_steps_keep_every_gradient(core, gating, biases):
    case, rows = layer_with_gates(core, gating, biases)
    _, _, exact, _, _, forget = case.expected
    for instruction_set in SUPPORTED:
        results = case.results(instruction_set)
        assert worst(results, case.expected) < 1e-5
        assert worst([by_slot(results[2], rows)], [by_slot(exact, rows)]) < 1e-5
        error = np.abs(results[-1].complement - forget.complement)
        assert (error <= 2e-5 * forget.complement).all()  # of each entry: it says the timescale


@pytest.mark.parametrize(
    ("core", "gating", "biases"),
    [
        # timescales of ten million steps: what a step adds is below the state's last bit
        ("lstm", "UR", {"f": LONG, "r": 8.0}),
        ("minimal", "UR", {"f": LONG, "r": 8.0}),
        ("lstm", "OR", {"f": ORDERED, "r": ORDERED}),
        ("minimal", "OR", {"f": ORDERED, "r": ORDERED}),
        ("mingru", "UR", {"f": LONG, "r": 8.0}),
        ("mingru", "O", {"f": ORDERED}),
        # sums of 2,000 candidates, of which the output shows those that happen to be near 0
        ("lstm", "standard", {"f": LONG, "i": 0.0}),
    ],
)
def test_beyond_float32_the_error_is_that_of_rounding_the_state(core, gating, biases):
    case, rows = layer_with_gates(core, gating, biases)
    exact = by_slot(case.expected[2], rows)
    held = by_slot(rounded_in_float32(case), rows)
    inherent = max(worst([held[name]], [exact[name]]) for name in exact)
    for instruction_set in SUPPORTED:
        results = by_slot(case.results(instruction_set)[2], rows)
        assert worst([results], [exact]) < 3 * inherent


def test_the_roundings_of_a_constant_sequence_do_not_add_up():
    case, _ = layer_with_gates("mingru", "UR", {"f": math.log(1e6 - 1), "r": 0.0}, time=16_384)
    case.arguments["x"][...] = 0.7
    case.arguments["d_output"][0][...] = 0.3
    for instruction_set in SUPPORTED:
        assert worst(case.results(instruction_set), case.expected) < 1e-5


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("name", GATINGS)
def test_a_large_state_that_is_forgotten_leaves_nothing_behind(core, name):
    case = Forgetting(core, name)
    for instruction_set in SUPPORTED:
        parts = last_state(case.cell, case.params, case.x, case.state, instruction_set)
        for got, exact in zip(parts, case.exact(), strict=True):
            assert relative_error(got, exact) < 8 * ULP


def last_state(cell, params, x, state, instruction_set):
    """The parts of the state after all steps of x, with nothing saved."""
    call = Call(ENGINE, cell, params, x.shape[:2], x.dtype, None, None, False, False)
    layer = NativeLayer(call, None, threads=1, instruction_set=instruction_set)
    return layer.forward(x, cell.parts(state))[1]


@pytest.mark.parametrize(
    ("logit", "size", "time", "error"),
    [
        (math.log(1e6 - 1), 1, 2000, 4e-6),
        (-200, 1e4, 1, 1e-7),
        (0.3, 1, 1, 1e-7),
        (-0.3, 1, 1, 1e-7),
    ],
    ids=["a memory of a million steps", "a large state forgotten", "above a half", "below a half"],
)
@pytest.mark.parametrize("core", ["lstm", "minimal"])
def test_a_state_has_the_error_of_float32_at_every_gate(core, logit, size, time, error, rng):
    cell = CORES[core](50, 50, "standard")
    blocks = {name: np.zeros((width, 50)) for name, width in cell.slots} | {"candidate": np.eye(50)}
    bias = {"forget": float(logit), "input": float(-logit)}
    params = {
        "weight_ih": np.concatenate([blocks[name] for name, _ in cell.slots]),
        "weight_hh": np.zeros((cell.rows, 50)),
        "bias": np.concatenate([np.full(width, bias.get(name, 0.0)) for name, width in cell.slots]),
    }
    x, state = rng.standard_normal((time, 20, 50)), size * rng.standard_normal((20, 50))
    params, x, state = cast((params, x, state), np.float32)
    exact, gate = state.astype(float), sigmoid(np.float64(np.float32(logit)))
    for candidate in np.tanh(x.astype(float)):
        exact = gate.value * exact + gate.complement * candidate
    for instruction_set in SUPPORTED:
        arguments = cell.state([state] * len(cell.state_names))
        got = last_state(cell, params, x, arguments, instruction_set)[-1]
        assert np.linalg.norm(got - exact) < error * np.linalg.norm(exact)


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_extreme_logits_saturate_and_stay_finite(core, gating):
    for logit in (-100.0, 100.0, 1e30):
        case = Case(core, gating, 3, 2, 1, 19)
        case.arguments["params"]["bias"][...] = logit * np.where(np.arange(19) % 2, 1, -1)[
            np.arange(case.arguments["params"]["bias"].size) % 19
        ].astype(np.float32)
        for instruction_set in SUPPORTED:
            results = case.results(instruction_set)
            assert worst(results[:2], case.expected[:2]) < 1e-4  # logits of 100 are exact to 4e-6
            for part in results[2:5]:
                assert np.isfinite(worst([part], [cast(part, np.float64)]))


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_nan_propagates_from_its_step_on_in_its_sequence_alone(core, gating):
    case = Case(core, gating, 6, 5, 2, 19)
    clean = {name: case.native(name)[1][0][0] for name in SUPPORTED}
    case.arguments["x"][2, 3, 1] = np.nan
    for instruction_set in SUPPORTED:
        output = case.native(instruction_set)[1][0][0]
        assert np.isnan(output[2:, 3]).all()
        assert np.array_equal(np.delete(output, 3, axis=1), np.delete(clean[instruction_set], 3, 1))
        assert np.array_equal(output[:2], clean[instruction_set][:2])
        gradients = case.results(instruction_set)[2]
        assert all(np.isnan(value).any() for value in gradients.values())


def test_infinity_minus_infinity_gives_nan():
    case = Case("lstm", "UR", 3, 2, 1, 19)
    case.arguments["params"]["weight_hh"][...] = 1
    case.arguments["state"][0][...] = np.inf
    case.arguments["state"][0][:, ::2] = -np.inf  # their sum is not a number
    assert np.isnan(case.native()[1][0][0]).all()
