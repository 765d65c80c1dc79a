"""The JAX functions are the NumPy backend's, under every transformation, in strict JAX."""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

from gatecore import cells
from gatecore.backends import jax as backend
from gatecore.backends.numpy import functional as reference
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


def same(got, wanted, tolerance):
    """Whether two nests of equal form agree, each array to `tolerance` of its norm."""
    pairs = zip(leaves(got), leaves(wanted), strict=True)
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
def test_the_plain_path_is_the_explicit_one(core, rng):
    params, x, state = example(core, GATINGS["UR"], rng)

    def loss(autodiff, params, x, state):
        output, last = function(core)(params, x, state, autodiff=autodiff)
        return jnp.sum(jnp.sin(output)) + sum(jnp.sum(part) for part in leaves(last))

    plain, explicit = (
        jax.jit(jax.value_and_grad(lambda *a, kind=kind: loss(kind, *a), argnums=(0, 1, 2)))(
            params, x, state
        )
        for kind in (True, False)
    )
    assert same(plain, explicit, 1e-12)


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

    gradient = jax.jit(jax.grad(total))
    double = gradient(params, x)["bias"][:D]
    single = gradient(*jax.tree.map(np.float32, (params, x)))["bias"][:D]
    assert np.abs(double).max() > 0
    assert norm_error(single, double) < 1e-5


# --- transformations ----------------------------------------------------------------------------


def objective(params, x, autodiff=False):
    output, (_, c) = backend.lstm(params, x, autodiff=autodiff)
    return jnp.sum(jnp.square(output)) + jnp.sum(jnp.sin(c))


def test_the_gradient_of_the_gradient(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    direction = {k: rng.standard_normal(v.shape) for k, v in params.items()}

    def along(params, autodiff):
        gradient = jax.grad(objective)(params, x, autodiff)
        return sum(jnp.sum(gradient[k] * direction[k]) for k in gradient)

    plain = jax.jit(jax.grad(lambda p: along(p, True)))(params)
    explicit = jax.jit(jax.grad(lambda p: along(p, False)))(params)
    forward = jax.jit(
        lambda p: jax.jvp(jax.grad(lambda q: objective(q, x, True)), (p,), (direction,))[1]
    )(params)
    assert same(explicit, plain, 1e-11)
    assert same(forward, plain, 1e-11)


def test_forward_mode_needs_the_plain_path(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    gradient = jax.jit(jax.grad(objective))(params, x)
    _, slope = jax.jit(lambda p: jax.jvp(lambda p: objective(p, x, True), (p,), (p,)))(params)
    wanted = sum(float(jnp.sum(gradient[k] * params[k])) for k in params)
    assert float(slope) == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda p: objective(p, x), (params,), (params,))


def test_vmap_over_parameters_and_over_data(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    ensemble = {k: np.stack([v, 2 * v]) for k, v in params.items()}
    data = np.stack([x, -x, 2 * x])
    gradient = jax.jit(jax.grad(objective))
    over_both = jax.jit(
        jax.vmap(jax.vmap(jax.grad(objective), in_axes=(None, 0)), in_axes=(0, None))
    )(ensemble, data)
    for m in range(2):
        member = {k: v[m] for k, v in ensemble.items()}
        for n in range(3):
            got = {k: v[m, n] for k, v in over_both.items()}
            assert same(got, gradient(member, data[n]), 1e-12)


def test_a_scan_around_it_carries_the_state(rng):
    params, x, state = example("gru", GATINGS["OM/2"], rng)
    chunks = np.concatenate([x, -x, 0.5 * x])

    @jax.jit
    def chunked(params):
        def body(h, x):
            output, h = backend.gru(params, x, h, GATINGS["OM/2"])
            return h, output

        return jax.lax.scan(body, state, chunks.reshape(3, T, B, INPUTS))

    last, outputs = chunked(params)
    whole, wanted = backend.gru(params, chunks, state, GATINGS["OM/2"])
    assert same((outputs.reshape(3 * T, B, D), last), (whole, wanted), 1e-12)


def test_donated_buffers_are_used_up_and_the_result_is_the_same(rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)

    def descend(params):
        return jax.tree.map(lambda p, g: p - g, params, jax.grad(objective)(params, x))

    given = jax.tree.map(jnp.asarray, params)
    wanted = jax.jit(descend)(params)
    assert same(jax.jit(descend, donate_argnums=0)(given), wanted, 1e-14)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))


# --- half precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_parameters_have_float32_gates_and_state(dtype, rng):
    params, x, _ = example("lstm", GATINGS["UR"], rng)
    params, x = jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x))
    output, (h, c) = backend.lstm(params, x)
    assert (output.dtype, h.dtype, c.dtype) == (dtype, jnp.float32, jnp.float32)
    gradient_of = jax.jit(jax.grad(lambda p, x: jnp.sum(backend.lstm(p, x)[1][1])))
    gradient = gradient_of(params, x)
    wanted = gradient_of(*jax.tree.map(lambda a: a.astype(jnp.float64), (params, x)))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradient))
    assert same(jax.tree.map(np.float64, gradient), wanted, 0.05)


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


@pytest.mark.parametrize("core", CORES)
def test_initial_parameters_have_the_layout_and_the_mechanisms_biases(core):
    params = backend.init(jax.random.key(0), 3, 8, "UR", core=core)
    wanted = CORES[core](3, 8, "UR").init(0)
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in wanted.items()}
    slots = CORES[core](3, 8, "UR").split(params["bias"])
    assert np.array_equal(slots["forget"], -slots["refine"])
    assert float(jnp.abs(params["weight_hh"]).max()) <= 8**-0.5
    assert all(v.dtype == jnp.float32 for v in params.values())


def test_initial_parameters_can_be_traced_and_mapped_over_keys():
    keys = jax.random.split(jax.random.key(1), 3)
    ensemble = jax.jit(jax.vmap(lambda key: backend.init(key, 3, 8)))(keys)
    assert ensemble["bias"].shape == (3, 32)
    for k, key in enumerate(keys):
        one = jax.jit(lambda key: backend.init(key, 3, 8))(key)
        assert all(np.array_equal(one[name], ensemble[name][k]) for name in one)


def test_bad_arguments_name_themselves(rng):
    params, x, state = example("lstm", GATINGS["UR"], rng)
    cases = {
        "params lacks 'bias'": ({k: v for k, v in params.items() if k != "bias"}, x, state),
        "unknown entry 'bias_n'": (params | {"bias_n": state[0]}, x, state),
        r"params\['weight_ih'\] must have shape": (params, x[..., :1], state),
        "x must have shape": (params, x[0], state),
        "is float64 but x is float32": (params, x.astype(np.float32), state),
        "x must have a floating type": (params, x.astype(int), state),
        r"must be a pair \(h, c\)": (params, x, state[0]),
        "state must be float64 of shape": (params, x, (state[0][:1], state[1])),
        "'ur' is unknown|did you mean": (params, x, state, "ur"),
        "at least one layer": ([], x),
        "state of stacked layers": ([params], x, state),
    }
    for message, arguments in cases.items():
        with pytest.raises((ValueError, TypeError), match=message):
            backend.lstm(*arguments)
    with pytest.raises(ValueError, match="resets must be boolean"):
        backend.lstm(params, x, resets=np.zeros((T, B)))
    with pytest.raises(ValueError, match="zoneout must lie in"):
        backend.lstm(params, x, zoneout=(2.0, 0.0))
    with pytest.raises(ValueError, match="zoneout of an LSTM must be a pair"):
        backend.lstm(params, x, zoneout=0.1)
    with pytest.raises(ValueError, match="zoneout draws"):
        backend.lstm(params, x, zoneout=(x, 0.0))


# --- the parallel form --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["standard", "UR", "UM/3", "O"])
def test_the_parallel_form_is_the_sequential_one(name, rng):
    params, x, state = example("minimal", GATINGS[name], rng)
    params["weight_hh"][:] = 0
    own = {k: v for k, v in params.items() if k != "weight_hh"}
    resets = rng.random((T, B)) < 0.2

    def parallel(params, x, state):
        return backend.minimal_parallel(params, x, state, GATINGS[name], resets=resets)

    def sequential(params, x, state):
        return backend.minimal(
            {**params, "weight_hh": jnp.asarray(0 * rng.random((len(params["bias"]), D)))},
            x, state, GATINGS[name], resets=resets,
        )  # fmt: skip

    cotangents = (x[..., :1] + np.zeros(D), state)
    got, wanted = (
        jax.jit(lambda *a, run=run: pulled(run, cotangents, *a))(own, x, state)
        for run in (parallel, sequential)
    )
    assert same(got, wanted, 1e-12)


def test_the_parallel_form_over_a_long_sequence_in_float32(rng):
    steps = 16_384
    params = jax.tree.map(np.float32, cells.Minimal(2, 16, "UR").init(3))
    params["weight_hh"][:] = 0
    x = rng.standard_normal((steps, 1, 2), np.float32)
    own = {k: v for k, v in params.items() if k != "weight_hh"}
    got, _ = jax.jit(backend.minimal_parallel)(own, x)
    wanted, _ = jax.jit(backend.minimal)(params, x)
    assert float(jnp.abs(got - wanted).max()) < 1e-5


def test_the_parallel_form_refuses_recurrent_weights(rng):
    params, x, _ = example("minimal", GATINGS["UR"], rng)
    with pytest.raises(ValueError, match="alone"):
        backend.minimal_parallel(params, x)
