"""Layer normalization of JAX's functions, against NumPy's, and of cells."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not installed")
import jax.numpy as jnp  # noqa: E402

from gatecore import backends  # noqa: E402
from gatecore.backends.jax import init, states  # noqa: E402
from tests.jax.compilation import quickly_compiled  # noqa: E402
from tests.sequences import (  # noqa: E402
    gradient,
    random_like,
    reference_result,
    run,
    sequence_case,
)
from tests.support import (  # noqa: E402
    EVERY_CORE,
    GATINGS,
    leaves,
    moved,
    norm_error,
    random_params,
    rebuild,
)

jax_backend, numpy = backends.load("jax"), backends.load("numpy")
every = pytest.mark.parametrize("core", EVERY_CORE)
T, B, INPUTS, D = 4, 2, 3, 6


def function_of(case, **options):
    """The results (output, last state) of JAX's function at a point of the case."""
    layer = getattr(jax_backend, case.core)
    options |= {"resets": case.resets, "zoneout": case.zoneout}
    return lambda point: layer(point["params"], point["x"], point["state"], case.gating, **options)


def with_slopes(function):
    """The results of a function at a point, and their gradients with these cotangents."""

    def both(point, cotangents):
        results, pullback = jax.vjp(function, point)
        return results, pullback(cotangents)[0]

    return both


@pytest.mark.parametrize(
    ("core", "name", "variant", "options"),
    [
        ("lstm", "UR", "resets", {}),
        ("gru", "OM/2", "draws", {}),
        ("minimal", "OR untied", "stacked", {}),
        ("lstm", "UM/3", "evaluation", {"autodiff": True}),
        ("mingru", "UR untied", "resets", {}),
        ("mingru", "OM/2", "stacked", {"impl": "reference"}),
        ("mingru", "OR", "draws", {"impl": "parallel", "autodiff": True}),
    ],
)
def test_results_and_all_gradients_are_numpys(core, name, variant, options, rng):
    case = sequence_case(core, GATINGS[name], variant, rng, layer_norm=True)
    *expected, pullback = run(case)
    weights = random_like(tuple(expected), rng)
    exact = leaves(gradient(pullback, weights))
    with jax.enable_x64(True):
        results, slopes = jax.jit(with_slopes(function_of(case, **options)))(case.point, weights)
    for got, value in zip(leaves(results), leaves(tuple(expected)), strict=True):
        assert norm_error(got, value) < 1e-12
    for got, value in zip(leaves(slopes), exact, strict=True):
        assert norm_error(got, value) < 1e-10


@pytest.mark.parametrize("core", ["minimal", "mingru"])
def test_gradients_have_gradients(core, rng):
    """A second derivative along two directions, by a difference of first ones."""
    case = sequence_case(core, GATINGS["standard"], "plain", rng, layer_norm=True)
    one, other = (random_like(case.point, rng) for _ in range(2))
    with jax.enable_x64(True):
        slope = jax.grad(lambda point: sum(r.sum() for r in leaves(function_of(case)(point))))

        def along(point):
            return sum(
                (a * b).sum() for a, b in zip(leaves(slope(point)), leaves(one), strict=True)
            )

        second = sum(
            (a * b).sum()
            for a, b in zip(
                leaves(jax.jit(jax.grad(along))(case.point)), leaves(other), strict=True
            )
        )
        ahead, behind = (jax.jit(along)(moved(case.point, other, step)) for step in (1e-5, -1e-5))
    assert float(second) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


@every
def test_float32_and_cell_states_are_close_under_jit(core, rng):
    case = sequence_case(core, GATINGS["UR"], "plain", rng, layer_norm=True)
    point = rebuild(case.point, iter([leaf.astype(np.float32) for leaf in leaves(case.point)]))
    options = {"return_cells": True} if core == "lstm" else {}
    results = jax.jit(function_of(case, **options))(point)
    expected = run(case, **options)[:2]
    for got, value in zip(leaves(results), leaves(tuple(expected)), strict=True):
        assert got.dtype == np.float32
        assert norm_error(got, value) < 1e-5


@pytest.mark.parametrize("core", ["gru", "mingru"])
def test_half_precision_rounds_products_alone(core):
    params = init(jax.random.key(0), INPUTS, D, "UR", core=core, layer_norm=True)
    x = jax.random.normal(jax.random.key(1), (T, B, INPUTS), jnp.float32)
    half = {k: v.astype(jnp.bfloat16) for k, v in params.items()}

    def loss(params, x):
        return getattr(jax_backend, core)(params, x)[0].astype(jnp.float32).sum()

    value, slopes = jax.jit(jax.value_and_grad(loss))(half, x.astype(jnp.bfloat16))
    assert float(value) == pytest.approx(float(loss(params, x)), abs=0.5)
    for name, slope in slopes.items():
        assert slope.dtype == jnp.bfloat16
        assert jnp.isfinite(slope).all(), name


@every
def test_initial_gains_are_one(core):
    plain, params = (
        init(jax.random.key(0), INPUTS, D, core=core, layer_norm=n) for n in (False, True)
    )
    assert all(jnp.array_equal(params[name], value) for name, value in plain.items())
    for name in params.keys() - plain.keys():
        assert (params[name] == (name != "norm_c_bias")).all(), name


def test_extreme_products_have_finite_gradients(rng):
    """Constant products have variance 0; the squares of the largest are no float32 numbers."""
    case = sequence_case("lstm", GATINGS["UR"], "plain", rng, layer_norm=True)
    compiled, weights = jax.jit(with_slopes(function_of(case))), case.point["params"]["weight_ih"]
    for scale in (0.0, 1e25):
        case.point["params"]["weight_ih"] = scale * weights
        expected = run(case)[:2]
        ones = [np.ones_like(leaf, np.float32) for leaf in leaves(tuple(expected))]
        point = rebuild(case.point, iter([leaf.astype(np.float32) for leaf in leaves(case.point)]))
        results, slopes = compiled(point, rebuild(tuple(expected), iter(ones)))
        for got, value in zip(leaves(results), leaves(tuple(expected)), strict=True):
            assert norm_error(got, value) < 1e-4
        assert all(np.isfinite(slope).all() for slope in leaves(slopes))


def test_the_native_library_is_not_taken(rng):
    layer = sequence_case("lstm", GATINGS["UR"], "plain", rng).layer
    params = random_params(layer, INPUTS, D, rng, layer_norm=True)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    with pytest.raises(ValueError, match="it has no layer normalization; use impl='auto'"):
        jax_backend.lstm(params, np.zeros((T, B, INPUTS), np.float32), impl="native")
    del params["norm_c"]
    with pytest.raises(ValueError, match="params lacks 'norm_c'"):
        jax_backend.lstm(params, np.zeros((T, B, INPUTS), np.float32))


# --- cells of flax and Equinox ------------------------------------------------------------------

LIBRARIES = pytest.mark.parametrize("library", ["nnx", "linen", "equinox"])
NAMES = {"lstm": "LSTMCell", "gru": "GRUCell", "minimal": "MinimalCell", "mingru": "MinGRUCell"}
MIXED = pytest.mark.parametrize(
    ("core", "name"),
    [("lstm", "UR"), ("gru", "OM/2"), ("minimal", "OR untied"), ("mingru", "UM/3")],
)


def cell_of(library, core, gating, layer_norm=True, dtype=jnp.float64):
    """A cell of a library, and a function of its parameters that makes a step."""
    settings = {"layer_norm": layer_norm}
    if library == "equinox":
        eqx = pytest.importorskip("equinox", reason="equinox is not installed")
        from gatecore.backends.jax import equinox

        key = jax.random.key(0)
        cell = getattr(equinox, NAMES[core])(INPUTS, D, gating, dtype=dtype, key=key, **settings)

        def step(params, state, x):
            new = eqx.tree_at(lambda c: [getattr(c, name) for name in params], cell,
                              [*params.values()])  # fmt: skip
            state = jax.vmap(new)(x, state)
            return state, leaves(state)[0]

        return cell.params, step
    nnx = pytest.importorskip("flax.nnx")
    turned = (lambda state: state[::-1]) if core == "lstm" else lambda state: state
    if library == "nnx":
        rngs = nnx.Rngs(0)
        cell = getattr(jax_backend, NAMES[core])(
            INPUTS, D, mechanism=gating, param_dtype=dtype, rngs=rngs, **settings
        )
        graph, state = nnx.split(cell)

        def step(params, carry, x):
            cell = nnx.merge(graph, nnx.as_pure(state))
            for name, value in params.items():
                getattr(cell, name)[...] = value
            carry, output = cell(turned(carry), x)
            return turned(carry), output

        return cell.params, step
    from gatecore.backends.jax import linen

    cell = getattr(linen, NAMES[core])(D, gating, param_dtype=dtype, **settings)

    def step(params, carry, x):
        kind = f"{core}_norm" if layer_norm else core
        bias = states.bias_name(kind, gating)
        named = {bias if name == "bias" else name: value for name, value in params.items()}
        carry, output = cell.apply({"params": named}, turned(carry), x)
        return turned(carry), output

    x = jnp.zeros((1, INPUTS), dtype)
    carry = cell.initialize_carry(jax.random.key(0), x.shape)
    variables = quickly_compiled(cell.init)(jax.random.key(0), carry, x)
    return cell.packed(variables["params"]), step


@LIBRARIES
@MIXED
def test_steps_of_a_cell_are_the_transcription_and_their_gradient_numpys(library, core, name, rng):
    case = sequence_case(core, GATINGS[name], "plain", rng, layer_norm=True)
    *results, pullback = run(case)
    weights = random_like(tuple(results), rng)
    with jax.enable_x64(True):
        _, step = cell_of(library, core, GATINGS[name])

        def steps(point):
            state, outputs = jax.lax.scan(
                lambda state, x: step(point["params"], state, x), point["state"], point["x"]
            )
            return outputs, state

        point = jax.tree.map(jnp.asarray, case.point)
        results, slopes = quickly_compiled(with_slopes(steps))(point, weights)
    for got, value in zip(leaves(results), leaves(reference_result(case, case.point)), strict=True):
        assert norm_error(got, value) < 1e-12
    for got, value in zip(leaves(slopes), leaves(gradient(pullback, weights)), strict=True):
        assert norm_error(got, value) < 1e-10


@LIBRARIES
@MIXED
def test_initial_timescales_of_a_cell_are_those_without(library, core, name):
    gates = []
    for layer_norm in (False, True):
        params, _ = cell_of(library, core, GATINGS[name], layer_norm, jnp.float32)
        cell = EVERY_CORE[core](INPUTS, D, GATINGS[name], layer_norm)
        assert {k: v.shape for k, v in params.items()} == cell.parameter_shapes()
        zeros = np.zeros((1, INPUTS), np.float32), np.zeros((1, D), np.float32)
        gates.append(cell.gates({k: np.asarray(v) for k, v in params.items()}, zeros[0],
                                cell.state([zeros[1]] * len(cell.state_names))))  # fmt: skip
        gains = [value for k, value in params.items() if k.startswith("norm") and "bias" not in k]
        assert all((gain == 1).all() for gain in gains)
    for one, other in zip(*map(leaves, gates), strict=True):
        assert np.array_equal(one, other)
