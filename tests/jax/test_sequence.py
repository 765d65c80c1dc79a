"""The JAX functions are the NumPy backend's, under every transformation, in strict JAX."""

import functools

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from gatecore import cells
from gatecore.backends import jax as backend
from gatecore.backends.numpy import functional as reference
from tests.jax.compilation import quickly_compiled
from tests.support import CORES, GATINGS, leaves, norm_error

T, B, INPUTS, D = 5, 3, 2, 6


@pytest.fixture(autouse=True)
def strict():
    """No implicit promotion of types or ranks."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def function(core, module=backend):
    return getattr(module, core)


def example(core, gating, rng, inputs=INPUTS):
    """Random parameters, inputs and a state."""
    cell = CORES[core](inputs, D, gating)
    params = {k: 0.7 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    h, c = rng.standard_normal((2, B, D))
    return params, rng.standard_normal((T, B, inputs)), (h, c) if core == "lstm" else h


def same(values, exact, tolerance):
    """Whether two nests of equal form agree, each array to `tolerance` of its norm."""
    pairs = zip(leaves(values), leaves(exact), strict=True)
    return all(norm_error(a, b) < tolerance for a, b in pairs)


def pulled(run, cotangents, *arguments):
    """Results of a function, and the cotangents of its arguments."""
    results, pullback = jax.vjp(run, *arguments)
    return results, pullback(cotangents)


# --- the same numbers as NumPy's ----------------------------------------------------------------


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", GATINGS)
def test_outputs_and_gradients_are_those_of_the_numpy_backend(core, name, rng):
    gating = GATINGS[name]
    params, x, state = example(core, gating, rng)
    resets, draws = rng.random((T, B)) < 0.2, 1.0 * (rng.random((T, B, D)) < 0.3)
    zoneout = (draws, 0.1) if core == "lstm" else draws
    output, last, pullback = function(core, reference)(
        params, x, state, gating, resets=resets, zoneout=zoneout
    )
    d_output, d_last = rng.standard_normal(output.shape), jax.tree.map(np.cos, last)

    def run(params, x, state):
        return function(core)(params, x, state, gating, resets=resets, zoneout=zoneout)

    results, gradients = jax.jit(lambda *a: pulled(run, (d_output, d_last), *a))(params, x, state)
    assert same(results, (output, last), 1e-12)
    assert same(gradients, pullback(d_output, d_last), 1e-12)


@pytest.mark.parametrize("core", CORES)
def test_autodiff_gives_the_gradients_of_manual_bptt(core, rng):
    params, x, state = example(core, GATINGS["UR"], rng)
    output, last, pullback = function(core, reference)(params, x, state, "UR")
    cotangents = (np.cos(output), jax.tree.map(np.ones_like, last))

    def run(params, x, state):
        return function(core)(params, x, state, autodiff=True)

    run_and_pull = quickly_compiled(lambda *a: pulled(run, cotangents, *a))
    results, gradients = run_and_pull(params, x, state)
    assert same(results, (output, last), 1e-12)
    assert same(gradients, pullback(*cotangents), 1e-12)


def test_stacked_layers_and_cells_are_those_of_the_numpy_backend(rng):
    params = [
        example("lstm", GATINGS["UR"], rng)[0],
        example("lstm", GATINGS["UR"], rng, inputs=D)[0],
    ]
    x = rng.standard_normal((T, B, INPUTS))
    (output, cells_), last, pullback = reference.lstm(params, x, return_cells=True)
    cotangents = (rng.standard_normal(output.shape), rng.standard_normal(output.shape))
    d_last = jax.tree.map(np.ones_like, last)

    def run(params, x):
        return backend.lstm(params, x, return_cells=True)

    results, gradients = jax.jit(lambda *a: pulled(run, (cotangents, d_last), *a))(params, x)
    assert same(results, ((output, cells_), last), 1e-12)
    assert same(gradients, pullback(cotangents, d_last)[:2], 1e-12)


def test_no_steps_leave_the_state_as_it_was(rng):
    params, x, state = example("lstm", GATINGS["UR"], rng)
    output, last = backend.lstm(params, x[:0], state)
    assert output.shape == (0, B, D)
    assert same(last, state, 1e-15)


@pytest.mark.parametrize("core", CORES)
def test_the_cells_of_the_core_run_in_strict_jax(core, rng):
    params, x, state = example(core, GATINGS["UR"], rng)
    cell = CORES[core](INPUTS, D, "UR")
    strict_results = cell.scan(*jax.tree.map(jnp.asarray, (params, x, state)))
    assert same(strict_results, cell.scan(params, x, state), 1e-13)


# --- saturated gates ----------------------------------------------------------------------------


def test_gradients_of_saturated_gates_keep_their_complement(rng):
    """In float32, 1 − σ(25) is 0 and so would be the forget bias' gradient; it is e⁻²⁵."""
    params, x, _ = example("minimal", GATINGS["standard"], rng)
    params["bias"][:D] = 25.0
    params = {**params, "weight_hh": 0 * params["weight_hh"]}

    def total(params, x):
        return jnp.sum(backend.minimal(params, x, None, "standard")[0])

    d_total = jax.jit(jax.grad(total))
    double = d_total(params, x)["bias"][:D]
    single = d_total(*jax.tree.map(np.float32, (params, x)))["bias"][:D]
    assert np.abs(double).max() > 0
    assert norm_error(single, double) < 1e-5


# --- transformations ----------------------------------------------------------------------------


def objective(params, x, autodiff=False):
    output, (_, c) = backend.lstm(params, x, autodiff=autodiff)
    return jnp.sum(jnp.square(output)) + jnp.sum(jnp.sin(c))


gradient = jax.jit(jax.grad(objective))  # compiled once for all tests


def test_second_derivatives_are_those_of_forward_over_reverse_mode(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    direction = {k: rng.standard_normal(v.shape) for k, v in params.items()}

    def slope(params):
        d_params = jax.grad(objective)(params, x)
        return sum(jnp.sum(d_params[k] * direction[k]) for k in d_params)

    def forward_over_reverse(params):
        return jax.jvp(lambda p: jax.grad(objective)(p, x, True), (params,), (direction,))[1]

    second, expected = (
        quickly_compiled(function)(params) for function in (jax.grad(slope), forward_over_reverse)
    )
    assert same(second, expected, 1e-11)


def test_forward_mode_needs_autodiff(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    slope_of = quickly_compiled(
        lambda p: jax.jvp(lambda p: objective(p, x, autodiff=True), (p,), (p,))[1]
    )
    slope = slope_of(params)
    d_params = gradient(params, x)
    assert float(slope) == pytest.approx(
        sum(float(jnp.sum(d_params[k] * params[k])) for k in params), rel=1e-12
    )
    with pytest.raises(TypeError, match="needs autodiff=True"):
        jax.jvp(lambda p: objective(p, x), (params,), (params,))
    with pytest.raises(TypeError, match="needs autodiff=True"):
        jax.jacfwd(lambda b: objective(params | {"bias": b}, x))(params["bias"])
    with pytest.raises(TypeError, match="needs autodiff=True"):
        jax.jacfwd(jax.jit(lambda b: objective(params | {"bias": b}, x)))(params["bias"])
    with pytest.raises(TypeError, match="needs autodiff=True"):
        jax.jit(jax.jacfwd(jax.checkpoint(lambda x: objective(params, x))))(x)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_hessian_is_the_derivative_of_the_gradient(dtype, rng):
    params, x, _ = jax.tree.map(lambda a: a.astype(dtype), example("minimal", GATINGS["UR"], rng))

    def total(bias):
        return jnp.sum(jnp.square(backend.minimal({**params, "bias": bias}, x)[0]))

    hessian = quickly_compiled(jax.hessian(total))(params["bias"])
    expected = quickly_compiled(jax.jacrev(jax.jacrev(total)))(params["bias"])
    assert norm_error(hessian, expected) < 1e4 * np.finfo(dtype).eps


def test_rematerialization_gives_the_same_gradient(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    remat = quickly_compiled(jax.grad(jax.checkpoint(objective)))(params, x)
    assert same(remat, gradient(params, x), 1e-13)


def test_a_scan_that_resets_states_as_in_reinforcement_learning(rng):
    """Steps one by one with resets of their own, as actors take, are a sequence with resets."""
    params, x, h = example("gru", GATINGS["UR"], rng)
    done = rng.random((T, B)) < 0.3

    def unrolled(params):
        def body(h, step):
            x, done = step
            output, h = backend.gru(params, x[None], h, resets=done[None])
            return h, output[0]

        return jnp.sum(jnp.sin(jax.lax.scan(body, h, (x, done))[1]))

    def whole(params):
        return jnp.sum(jnp.sin(backend.gru(params, x, h, resets=done)[0]))

    gradients = [quickly_compiled(jax.grad(loss))(params) for loss in (unrolled, whole)]
    assert same(*gradients, 1e-12)


def test_vmap_over_parameters_and_over_data(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    ensemble = {k: np.stack([v, 2 * v]) for k, v in params.items()}
    data = np.stack([x, -x, 2 * x])
    over_both = quickly_compiled(
        jax.vmap(jax.vmap(jax.grad(objective), in_axes=(None, 0)), in_axes=(0, None))
    )(ensemble, data)
    for m in range(2):
        member = {k: v[m] for k, v in ensemble.items()}
        for n in range(3):
            mapped = {k: v[m, n] for k, v in over_both.items()}
            assert same(mapped, gradient(member, data[n]), 1e-12)


def test_a_scan_over_chunks_carries_the_state(rng):
    params, x, state = example("gru", GATINGS["OM/2"], rng)
    chunks = np.concatenate([x, -x, 0.5 * x])

    @jax.jit
    def chunked(params):
        def body(h, x):
            output, h = backend.gru(params, x, h, GATINGS["OM/2"])
            return h, output

        return jax.lax.scan(body, state, chunks.reshape(3, T, B, INPUTS))

    last, outputs = chunked(params)
    whole = reference.gru(params, chunks, state, GATINGS["OM/2"])[:2]
    assert same((outputs.reshape(3 * T, B, D), last), whole, 1e-12)


def test_donated_buffers_are_used_up_and_the_result_is_the_same(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)

    def descend(params):
        return jax.tree.map(lambda p, g: p - g, params, jax.grad(objective)(params, x))

    donated = jax.tree.map(jnp.asarray, params)
    descended = jax.tree.map(lambda p, g: p - g, params, gradient(params, x))
    assert same(jax.jit(descend, donate_argnums=0)(donated), descended, 1e-14)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(donated))


# --- half precision -----------------------------------------------------------------------------


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def gradient_of_the_last_cell_state(params, x):
    output, last = backend.lstm(params, x)
    return jnp.sum(last[1]), (output, last)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_have_float32_gates_and_state(dtype, rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    half = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x))
    d_params, (output, last) = gradient_of_the_last_cell_state(*half)
    assert output.dtype == dtype
    assert all(part.dtype == jnp.float32 for part in last)
    exact, _ = gradient_of_the_last_cell_state(*jax.tree.map(np.float64, half))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(d_params))
    assert same(jax.tree.map(np.float64, d_params), exact, 0.05)


def test_long_timescales_survive_bfloat16_weights():
    """A timescale of 1e4 steps over 2e4 steps: the state stays within 1 % of float64's."""
    params = {
        "weight_ih": jnp.asarray([[0.0], [1.0]], jnp.bfloat16),
        "weight_hh": jnp.zeros((2, 1), jnp.bfloat16),
        "bias": jnp.asarray([9.2103, 0.0], jnp.bfloat16),
    }
    x = np.where(np.arange(20_000) < 100, 3.0, 0.0).reshape(-1, 1, 1)
    run = jax.jit(lambda p, x: backend.minimal(p, x, None, "standard")[1])
    half = run(params, jnp.asarray(x, jnp.bfloat16))
    exact = run(jax.tree.map(lambda a: a.astype(jnp.float64), params), jnp.asarray(x))
    assert abs(float(half[0, 0]) / float(exact[0, 0]) - 1) < 0.01


# --- initial parameters and arguments -----------------------------------------------------------


@functools.cache
def drawing(core):
    """The function of a key that draws parameters, compiled once."""
    return quickly_compiled(functools.partial(draw, core=core))


def draw(key, core="lstm"):
    return backend.init(key, 3, 8, core=core)


@pytest.mark.parametrize("core", CORES)
def test_initial_parameters_have_the_layout_and_the_mechanisms_biases(core):
    params = drawing(core)(jax.random.key(0))
    cell = CORES[core](3, 8, "UR")
    assert {k: v.shape for k, v in params.items()} == cell.parameter_shapes()
    slots = cell.split(params["bias"])
    for slot in ("forget", "refine"):  # U[1/d, 1 − 1/d] of the gate, each a draw of its own
        assert float(jnp.abs(slots[slot]).max()) <= np.log(7) + 1e-6
        assert len(set(slots[slot].tolist())) == 8
    assert abs(np.corrcoef(slots["forget"], slots["refine"])[0, 1]) < 0.999
    assert float(jnp.abs(params["weight_hh"]).max()) <= 8**-0.5
    assert all(v.dtype == jnp.float32 for v in params.values())


def test_initial_parameters_can_be_traced_and_mapped_over_keys():
    keys = jax.random.split(jax.random.key(1), 3)
    ensemble = quickly_compiled(jax.vmap(draw))(keys)
    assert ensemble["bias"].shape == (3, 32)
    for k, key in enumerate(keys):
        params = drawing("lstm")(key)
        assert all(np.array_equal(params[name], ensemble[name][k]) for name in params)


def test_a_key_may_be_a_seed_and_nothing_else():
    with jax.numpy_dtype_promotion("standard"):
        keys = (7, np.int64(7), np.array(7), jnp.int32(7), jax.random.key(7), jax.random.PRNGKey(7))
        seeded = [backend.init(key, 3, 8) for key in keys]
    assert all(np.array_equal(a["bias"], seeded[0]["bias"]) for a in seeded)
    keys = jax.random.split(jax.random.key(0), 2)
    for key in (True, 0.5, "7", np.random.default_rng(0), np.ones(2), jnp.ones(2), keys):
        with pytest.raises(TypeError, match=r"key must be one of jax.random.key\(seed\)"):
            backend.init(key, 3, 8)


def test_bad_arguments_name_themselves(rng):
    params, x, state = example("lstm", GATINGS["UR"], rng)
    cases = {
        "params lacks 'bias'": ({k: v for k, v in params.items() if k != "bias"}, x, state),
        "unknown entry 'bias_n'": (params | {"bias_n": state[0]}, x, state),
        r"params\['weight_ih'\] must have shape": (params, x[..., :1], state),
        "x must have shape": (params, x[0], state),
        "is float64 but x is float32": (params, x.astype(np.float32), state),
        "x must have a floating type": (params, x.astype(int), state),
        r"state must be a pair \(h, c\)": (params, x, state[0]),
        "state must be float64 of shape": (params, x, (state[0][:1], state[1])),
        "'URX' is unknown|did you mean": (params, x, state, "URX"),
        "at least one layer": ([], x),
        "state of stacked layers": ([params], x, state),
    }
    for message, arguments in cases.items():
        with pytest.raises((ValueError, TypeError), match=message):
            backend.lstm(*arguments)
    with pytest.raises(ValueError, match="resets must be bool of shape"):
        backend.lstm(params, x, resets=np.zeros((T, B)))
    with pytest.raises(ValueError, match="zoneout must lie in"):
        backend.lstm(params, x, zoneout=(2.0, 0.0))
    with pytest.raises(ValueError, match="zoneout of an LSTM must be a pair"):
        backend.lstm(params, x, zoneout=0.1)
    with pytest.raises(ValueError, match="zoneout mask must be"):
        backend.lstm(params, x, zoneout=(x, 0.0))


@pytest.mark.parametrize(("value", "error"), [(7.0, ValueError), (np.nan, ValueError),
                                              (1j, TypeError)])  # fmt: skip
def test_zoneout_masks_are_probabilities(value, error):
    params = {k: np.asarray(v) for k, v in cells.LSTM(3, 8).init(0).items()}
    masks = (np.full((5, 2, 8), value),) * 2
    with pytest.raises(error, match=r"zoneout must (be real|lie in \[0, 1\])"):
        backend.lstm(params, np.ones((5, 2, 3)), zoneout=masks)
