"""Mapped over data by ``jax.vmap``, the native library is called once, for all elements."""

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402

from gatecore.backends import jax as backend  # noqa: E402
from tests.jax.compilation import quickly_compiled  # noqa: E402
from tests.jax.test_native import (  # noqa: E402
    CALLS,
    UNSUPPORTED,
    B,
    H,
    T,
    X,
    assert_equals_the_scan,
    calling,
    example,
    loss_of,
)
from tests.support import CORES, EVERY_CORE, GATINGS  # noqa: E402

pytestmark = pytest.mark.skipif(UNSUPPORTED is not None, reason=str(UNSUPPORTED))
N = 4
OVER_DATA = (None, 0, 0)  # of parameters, inputs and state


def stacked(tree, rng):
    return jax.tree.map(
        lambda a: jnp.asarray(rng.standard_normal((N, *a.shape)) * np.asarray(a), a.dtype), tree
    )


@pytest.mark.parametrize("gating", ["standard", "UR untied", "OM/2"])
@pytest.mark.parametrize("core", EVERY_CORE)
def test_the_results_and_each_elements_gradients_are_the_scans(core, gating, rng):
    params, x, state = example(core, GATINGS[gating], rng)
    mapped = params, stacked(x, rng), stacked(state, rng)
    masks = jnp.asarray(rng.random((N, T, B, H)) < 0.3, jnp.float32)
    resets = jnp.asarray(rng.random((N, T, B)) < 0.3)

    def run(impl, params, x, state, masks, resets):
        zoneout = (0.1, masks) if core == "lstm" else masks
        loss = loss_of(core, GATINGS[gating], impl, zoneout=zoneout, resets=resets)
        return jax.value_and_grad(loss, (0, 1, 2))(params, x, state)

    def all_elements(impl):
        run_all = jax.vmap(functools.partial(run, impl), (*OVER_DATA, 0, 0))
        return quickly_compiled(run_all)(*mapped, masks, resets)

    assert_equals_the_scan(all_elements)


@pytest.mark.parametrize("core", CORES)
def test_a_mean_over_mapped_sequences_has_the_scans_gradient(core, rng):
    params, x, state = example(core, "UR", rng)
    x = stacked(x, rng)

    def gradient(impl):
        loss = jax.vmap(loss_of(core, "UR", impl), (None, 0, None))
        return quickly_compiled(jax.grad(lambda p: jnp.mean(loss(p, x, state))))(params)

    assert_equals_the_scan(gradient)


def nested_maps(run):
    return jax.vmap(jax.vmap(run, (None, 0, None)), (None, 0, None))


def maps_in_a_scan(run):
    def scanned(params, x, state):
        step = lambda total, x: (total, jax.vmap(run, (None, 0, None))(params, x, state))  # noqa: E731
        return jax.lax.scan(step, 0.0, x)[1]

    return scanned


def an_ensemble_of_mapped_data(run):
    def members(params, x, state):
        models = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), params)
        return jax.vmap(jax.vmap(run, (None, 0, None)), (0, None, None))(models, x[0], state)

    return members


def the_inner_axis_second(run):
    return lambda params, x, state: jax.vmap(run, (None, 2, None))(
        params, jnp.moveaxis(x[0], 0, 2), state
    )


def rematerialized(run):
    return lambda params, x, state: jax.vmap(jax.checkpoint(run), (None, 0, None))(
        params, x[0], state
    )


NESTS = (nested_maps, maps_in_a_scan, an_ensemble_of_mapped_data, the_inner_axis_second,
         rematerialized)  # fmt: skip


@pytest.mark.parametrize("nest", NESTS, ids=lambda nest: nest.__name__)
def test_within_other_transformations(nest, rng):
    params, x, state = example("gru", "UR", rng)
    x = jnp.stack([stacked(x, rng), stacked(x, rng)])

    def values_and_gradients(impl):
        run = nest(jax.value_and_grad(loss_of("gru", "UR", impl)))
        outer = jax.grad(lambda p: jnp.sum(nest(loss_of("gru", "UR", impl))(p, x, state)))
        return quickly_compiled(lambda p: (run(p, x, state), outer(p)))(params)

    assert_equals_the_scan(values_and_gradients, tolerance=1e-4)


def test_the_derivative_of_mapped_gradients_is_the_scans(rng):
    params, x, state = example("minimal", "standard", rng)
    x = stacked(x, rng)

    def second(impl):
        gradients = jax.vmap(jax.grad(loss_of("minimal", "standard", impl)), (None, 0, None))

        def norm(params):
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients(params, x, state)))

        return quickly_compiled(jax.grad(norm))(params)

    assert_equals_the_scan(second, tolerance=1e-3)


@pytest.mark.parametrize("shape", [(0, T, B, X), (N, 0, B, X), (N, T, 0, X)])
def test_without_elements_steps_or_sequences(shape, rng):
    params, _, _ = example("lstm", "UR", rng)
    x = jnp.ones(shape, jnp.float32)

    def run(impl):
        loss = lambda params, x: jnp.sum(backend.lstm(params, x, impl=impl)[0])  # noqa: E731
        return jax.vmap(jax.value_and_grad(loss), (None, 0))(params, x)

    assert_equals_the_scan(run)


@pytest.mark.skipif("ffi" not in CALLS, reason="the library was built without JAX's header")
@pytest.mark.parametrize(("axes", "one_by_one"), [(OVER_DATA, False), ((0, None, None), True)])
def test_over_data_each_pass_is_one_call_and_over_weights_a_loop(axes, one_by_one, rng):
    tree = example("lstm", "UR", rng)
    arrays = [a if axis is None else stacked(a, rng) for a, axis in zip(tree, axes, strict=True)]
    with calling("ffi"):
        gradients = jax.jit(jax.vmap(jax.grad(loss_of("lstm", "UR", "native"), (0, 1)), axes))
        text = gradients.lower(*arrays).compile().as_text()
    assert text.count('custom_call_target="gatecore_jax_forward"') == 1
    assert text.count('custom_call_target="gatecore_jax_backward"') == 1
    assert (" while(" in text) == one_by_one
