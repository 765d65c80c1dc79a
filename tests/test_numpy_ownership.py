"""The NumPy backend's results belong to the caller, and its arguments are checked."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from gatecore import Gate, backends, mechanism
from gatecore.backends.common.buffer_pool import BufferPool
from tests.sequences import VARIANTS, B, D, T, random_like, run, sequence_case
from tests.support import CORES, GATINGS, leaves, rebuild

numpy = backends.load("numpy")


def copies(tree):
    return [leaf.copy() for leaf in leaves(tree)]


def identical(tree, arrays):
    return all(np.array_equal(a, b) for a, b in zip(leaves(tree), arrays, strict=True))


every = pytest.mark.parametrize("core", CORES)
gated = pytest.mark.parametrize("name", GATINGS)


# --- ownership ----------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("name", ["UR", "OM/2"])
@pytest.mark.parametrize("variant", ["draws", "stacked"])
def test_later_calls_change_nothing_that_was_returned(core, name, variant, rng):
    case = sequence_case(core, GATINGS[name], variant, rng)
    output, state, pullback = run(case)
    weights = random_like((output, state), rng)
    returned = (output, state, pullback(*weights), pullback.gates())
    before = copies(returned)
    for _ in range(3):
        other = sequence_case(core, GATINGS[name], variant, rng)
        other_output, _, other_pullback = run(other)
        other_pullback(np.ones_like(other_output))
    assert identical(returned, before)
    assert identical((output, state, pullback(*weights), pullback.gates()), before)


@every
@gated
def test_several_pullbacks_may_be_alive_and_are_called_in_any_order(core, name, rng):
    cases = [sequence_case(core, GATINGS[name], "resets", rng) for _ in range(3)]
    weights = [np.full((T, B, D), k + 1.0) for k in range(3)]
    alone = [copies(run(case)[2](w)) for case, w in zip(cases, weights, strict=True)]
    pullbacks = [run(case)[2] for case in cases]
    for k in (1, 0, 2, 1):
        assert identical(pullbacks[k](weights[k]), alone[k])


@every
@gated
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pullback_called_twice_gives_the_same(core, name, variant, rng):
    output, state, pullback = run(sequence_case(core, GATINGS[name], variant, rng))
    weights = random_like((output, state), rng)
    assert identical(pullback(*weights), copies(pullback(*weights)))


@every
@gated
@pytest.mark.parametrize("variant", VARIANTS)
def test_reused_buffers_are_written_before_they_are_read(core, name, variant, rng, monkeypatch):
    case = sequence_case(core, GATINGS[name], variant, rng)
    output, state, pullback = run(case)
    weights = random_like((output, state), rng)
    before = copies((output, state, pullback(*weights), pullback.gates()))
    acquire = BufferPool.acquire

    def poisoned(self, *arguments):
        array = acquire(self, *arguments)
        array[...] = np.nan
        return array

    monkeypatch.setattr(BufferPool, "acquire", poisoned)
    output, state, pullback = run(case)
    assert identical((output, state, pullback(*weights), pullback.gates()), before)


@every
def test_returned_arrays_share_no_memory(core, rng):
    case = sequence_case(core, GATINGS["UR"], "plain", rng)
    output, state, pullback = run(case)
    returned = leaves((output, state, pullback(np.ones_like(output)), tuple(pullback.gates())))
    for one, other in itertools.combinations(returned + leaves(case.point), 2):
        assert not np.shares_memory(one, other)


@every
@pytest.mark.parametrize("variant", ["plain", "stacked"])
def test_a_pullback_does_not_see_what_its_caller_overwrites(core, variant, rng):
    case = sequence_case(core, GATINGS["UR"], variant, rng)
    output, state, pullback = run(case)
    weights = random_like((output, state), rng)
    before = copies(pullback(*weights))
    for leaf in leaves((output, state, tuple(leaves(pullback.gates())), case.point)):
        leaf[...] = 7
    assert identical(pullback(*weights), before)


@every
def test_arguments_are_left_as_they_were(core, rng):
    case = sequence_case(core, GATINGS["OM/2"], "resets", rng)
    for leaf in (*leaves(case.point), case.resets):
        leaf.flags.writeable = False
    output, state, pullback = run(case)
    weights = random_like((output, state), rng)
    for leaf in leaves(weights):
        leaf.flags.writeable = False
    pullback(*weights)


@every
def test_any_memory_layout_is_accepted(core, rng):
    case = sequence_case(core, GATINGS["UM/3"], "plain", rng)
    output, state, pullback = run(case)
    before = copies((output, state, pullback(np.ones_like(output))))
    scattered = [np.repeat(np.asfortranarray(leaf), 2, axis=0)[::2] for leaf in leaves(case.point)]
    case.point = rebuild(case.point, iter(scattered))
    output, state, pullback = run(case)
    got = (output, state, pullback(np.asfortranarray(np.ones((T, B, D)))))
    for one, other in zip(leaves(got), before, strict=True):
        assert np.allclose(one, other, rtol=1e-13, atol=1e-14)


@every
def test_a_missing_state_or_cotangent_is_zero(core, rng):
    case = sequence_case(core, GATINGS["UR"], "plain", rng)
    zero = rebuild(case.point["state"], iter([0 * a for a in leaves(case.point["state"])]))
    case.point["state"] = None
    default, _, pullback = run(case)
    case.point["state"] = zero
    explicit, _, _ = run(case)
    assert np.array_equal(default, explicit)
    weight = np.ones_like(default)
    assert identical(pullback(weight), copies(pullback(weight, zero)))


@every
def test_the_gradient_of_the_input_is_optional(core, rng):
    for variant in ("plain", "stacked"):
        output, _, pullback = run(sequence_case(core, GATINGS["UR"], variant, rng))
        weight = np.ones_like(output)
        d_params, d_x, d_state = pullback(weight, wrt_x=False)
        assert d_x is None
        full = pullback(weight)
        assert identical((d_params, d_state), copies((full[0], full[2])))


def test_release_does_not_affect_a_living_pullback(rng):
    output, _, pullback = run(sequence_case("lstm", GATINGS["UR"], "plain", rng))
    before = copies(pullback(np.ones_like(output)))
    numpy.release()
    assert identical(pullback(np.ones_like(output)), before)


def test_a_single_step_of_a_single_sequence_is_accepted(rng):
    case = sequence_case("gru", GATINGS["UR"], "plain", rng)
    whole, _, _ = run(case)
    x, h = case.point["x"][:1, :1], case.point["state"][:1]
    output, state, pullback = numpy.gru(case.point["params"], x, h, "UR")
    assert np.allclose(output, whole[:1, :1], rtol=1e-13, atol=1e-14)
    assert isinstance(pullback.gates(), Gate)
    assert np.array_equal(state, output[-1])


# --- bad input ----------------------------------------------------------------------------------


def spoilt(key, spoil):
    """An LSTM case whose parameter (or x, or state) `key` went through `spoil`."""

    def change(case):
        place = case.point if key in case.point else case.point["params"]
        place[key] = spoil(place[key])

    return change


def with_nan(array):
    array = array.copy()
    array.flat[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (spoilt("weight_hh", lambda w: w[:-1]), ValueError, "weight_hh.*must have shape"),
        (spoilt("weight_ih", lambda w: w[:, :-1]), ValueError, "weight_ih.*must have shape"),
        (spoilt("bias", lambda b: b[None]), ValueError, "bias.*must have shape"),
        (spoilt("x", lambda x: x[..., :-1]), ValueError, "weight_ih.*must have shape"),
        (spoilt("x", lambda x: x[0]), ValueError, "x must have shape"),
        (spoilt("x", lambda x: x.astype(np.float32)), TypeError, "float64.*float32"),
        (spoilt("x", lambda x: x.astype(int)), TypeError, "x must be float32 or float64"),
        (spoilt("x", lambda x: x.tolist()), TypeError, "x must be"),
        (spoilt("weight_ih", lambda w: w.tolist()), TypeError, "weight_ih"),
        (spoilt("weight_ih", lambda w: w.astype(np.float32)), TypeError, "weight_ih.*float32"),
        (spoilt("bias", with_nan), ValueError, "bias.*not finite"),
        (spoilt("weight_hh", lambda w: w * np.inf), ValueError, "weight_hh.*not finite"),
        (spoilt("state", lambda s: (s[0], s[1][:1])), ValueError, "state must be"),
        (
            spoilt("state", lambda s: (s[0], s[1].astype(np.float32))),
            (TypeError, ValueError),
            "state",
        ),
        (spoilt("state", lambda s: s[0]), (TypeError, ValueError), "state.*pair"),
        (lambda case: case.point["params"].pop("bias"), ValueError, "lacks 'bias'"),
        (lambda case: case.point["params"].update(bias_n=np.zeros(D)), ValueError, "bias_n"),
        (lambda case: setattr(case, "gating", "URR"), ValueError, "'UR'"),
        (
            lambda case: setattr(case, "gating", mechanism("OM", downsize=4)),
            ValueError,
            "not divisible",
        ),
        (lambda case: setattr(case, "resets", np.zeros((T, B + 1), bool)), ValueError, "resets"),
        (lambda case: setattr(case, "resets", np.zeros((T, B))), (TypeError, ValueError), "resets"),
        (lambda case: setattr(case, "zoneout", 0.5), (TypeError, ValueError), "zoneout.*pair"),
        (lambda case: setattr(case, "zoneout", (1.5, 0.0)), ValueError, "zoneout"),
        (lambda case: setattr(case, "zoneout", (np.zeros((T, D)), 0.0)), ValueError, "zoneout"),
        (lambda case: setattr(case, "zoneout", (np.full((T, B, D), 7.0), 0.0)), ValueError, "zone"),
        (lambda case: setattr(case, "zoneout", ("a", 0.0)), TypeError, "zoneout"),
        (lambda case: setattr(case, "resets", True), TypeError, "resets must be"),
        (spoilt("state", lambda s: (s[0].tolist(), s[1])), TypeError, "state must be"),
    ],
)
@np.errstate(invalid="ignore")
def test_errors_name_the_input(change, error, complaint, rng):
    case = sequence_case("lstm", GATINGS["UR"], "plain", rng)
    change(case)
    with pytest.raises(error, match=complaint):
        run(case)


def test_uniform_gate_initialization_of_one_unit_raises(rng):
    with pytest.raises(ValueError, match="hidden_size"):
        numpy.minimal(
            {"weight_ih": np.ones((3, 2)), "weight_hh": np.ones((3, 1)), "bias": np.ones(3)},
            np.ones((T, B, 2)),
            None,
            "UR",
        )


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (lambda output, state: (output[:-1], state), "d_output must"),
        (lambda output, state: (output, (state[0], state[1][:1])), "d_state must"),
        (lambda output, state: (output, state[0]), "d_state.*pair"),
        (lambda output, state: (output.astype(np.float32), state), "d_output must be float64"),
    ],
)
def test_errors_name_the_cotangent(weights, complaint, rng):
    output, state, pullback = run(sequence_case("lstm", GATINGS["UR"], "plain", rng))
    with pytest.raises(ValueError, match=complaint):
        pullback(*weights(output, state))


def test_the_cotangent_of_outputs_and_cells_is_a_pair(rng):
    case = sequence_case("lstm", GATINGS["UR"], "plain", rng)
    params, x = case.point["params"], case.point["x"]
    (output, _), _, pullback = numpy.lstm(params, x, mechanism="UR", return_cells=True)
    for wrong in (output, (output,), (output,) * 3, None):
        with pytest.raises(ValueError, match="d_output must be a pair"):
            pullback(wrong)


@pytest.mark.parametrize("wrong", [None, "ab", [5]])
def test_params_are_a_mapping_or_a_list_of_them(wrong):
    with pytest.raises(TypeError, match="params must be a mapping"):
        numpy.lstm(wrong, np.zeros((T, B, 3)))


def test_a_pullback_does_not_see_zoneout_masks_overwritten(rng):
    case = sequence_case("lstm", GATINGS["UR"], "plain", rng)
    masks = tuple((rng.random((T, B, D)) < 0.5).astype(float) for _ in range(2))
    output, _, pullback = numpy.lstm(
        case.point["params"], case.point["x"], mechanism="UR", zoneout=masks
    )
    _, expected, _ = pullback(np.ones_like(output))
    for mask in masks:
        mask[...] = 0
    assert np.array_equal(pullback(np.ones_like(output))[1], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_buffers_of_the_pool_can_lie_on_huge_pages(dtype):
    huge, size = 1 << 21, (3 << 21) // np.dtype(dtype).itemsize + 1
    buffer = BufferPool(np).acquire((size,), dtype)
    buffer[...] = 1
    assert (buffer.shape, buffer.dtype, buffer.sum()) == ((size,), dtype, size)
    flags = _memory_flags(buffer.ctypes.data)
    if "hg" not in flags:
        pytest.skip("the system has no huge pages on request")
    assert buffer.ctypes.data % huge == 0


def _memory_flags(address):
    """The flags of the mapping that holds an address, on Linux."""
    smaps, inside = Path("/proc/self/smaps"), False
    for line in smaps.read_text().splitlines() if smaps.exists() else []:
        first, *rest = line.split()
        if "-" in first:
            begin, end = (int(number, 16) for number in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return rest
    return []


def test_small_buffers_of_the_pool_and_those_without_huge_pages_come_from_numpy(monkeypatch):
    monkeypatch.delattr("mmap.MADV_HUGEPAGE", raising=False)
    for size in (10, 1 << 21):
        buffer = BufferPool(np).acquire((size,), np.float32)
        assert buffer.size == size
        assert buffer.reshape(-1).base.base is None  # NumPy's own memory


def test_the_pool_frees_the_sizes_released_least_recently():
    pool = BufferPool(np, capacity=3 * 8 * 10)
    buffers = [pool.acquire((10 + k,), np.float64) for k in range(4)]
    pool.release(buffers)
    again = [pool.acquire((10 + k,), np.float64) for k in range(4)]
    reused = [a.ctypes.data == b.ctypes.data for a, b in zip(again, buffers, strict=True)]
    assert reused == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"state": []}, "state.*list of 2"),
        ({"zoneout": [(0.1, 0.1)]}, "zoneout.*list of 2"),
    ],
)
def test_stacked_layers_take_lists_of_their_number(options, complaint, rng):
    case = sequence_case("lstm", GATINGS["UR"], "stacked", rng)
    case.point["state"] = options.get("state")
    case.zoneout = options.get("zoneout")
    with pytest.raises(ValueError, match=complaint):
        run(case)


def test_an_unknown_backend_offers_the_nearest_names():
    with pytest.raises(ValueError, match="numpy"):
        backends.load("nunpy")
