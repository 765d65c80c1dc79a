"""The native library behind JAX's functions: equal to the scan, under every transformation.

Every transformation is tested with both ways of calling the library: XLA calls it directly, or
through Python, as where it was built without JAX's header.
"""

import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402
from jax.experimental.buffer_callback import buffer_callback  # noqa: E402

from gatecore.backends import jax as backend  # noqa: E402
from gatecore.backends.jax import library_call, native  # noqa: E402
from gatecore.backends.native.call import LayerCall  # noqa: E402
from gatecore.backends.numpy import functional as numpy_backend  # noqa: E402
from tests.jax.compilation import quickly_compiled  # noqa: E402
from tests.support import CORES, EVERY_CORE, GATINGS  # noqa: E402

UNSUPPORTED = native.unsupported(native.Call("float32"))
pytestmark = pytest.mark.skipif(UNSUPPORTED is not None, reason=str(UNSUPPORTED))
T, B, X, H = 5, 3, 2, 18
ROOT = Path(__file__).resolve().parents[2]
CALLS = (
    ("ffi", "callback")
    if UNSUPPORTED is None and library_call.native_call() == "ffi"
    else ("callback",)
)


def example(core, gating, rng):
    """Parameters, inputs and a state."""
    cell = EVERY_CORE[core](X, H, gating)
    params = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    arrays = params, rng.standard_normal((T, B, X)), cell.state(rng.standard_normal((2, B, H)))
    return jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), arrays)


def loss_of(core, mechanism, impl, **keywords):
    def loss(params, x, state):
        results = getattr(backend, core)(params, x, state, mechanism, impl=impl, **keywords)
        leaves = enumerate(jax.tree.leaves(results), start=1)
        return sum((jnp.sin(leaf) * jnp.float32(k)).sum() for k, leaf in leaves)

    return loss


def assert_close(values, expected, tolerance=3e-5):
    for value, exact in zip(*map(jax.tree.leaves, (values, expected)), strict=True):
        assert value.shape == exact.shape
        scale = max(np.abs(exact).max(initial=0), 1e-3)
        assert np.abs(np.asarray(value) - exact).max(initial=0) < tolerance * scale


@contextlib.contextmanager
def calling(name):
    """Within it, what is traced calls the library in this way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATECORE_JAX_CALL", name)
        assert library_call.native_call() == name
        yield


def assert_equals_the_scan(function, tolerance=3e-5):
    """``function`` of "native" equals that of "reference", with either way of calling."""
    expected = jax.tree.map(np.asarray, function("reference"))
    for name in CALLS:
        with calling(name):
            assert_close(function("native"), expected, tolerance)


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_outputs_and_gradients_are_those_of_the_numpy_backend(core, gating, rng):
    arguments = example(core, GATINGS[gating], rng)
    masks, resets = 1.0 * (rng.random((T, B, H)) < 0.3), rng.random((T, B)) < 0.2
    keywords = {"zoneout": masks}
    if core == "lstm":
        keywords = {"zoneout": (0.1, masks), "return_cells": True}
    run = functools.partial(
        getattr(backend, core), mechanism=GATINGS[gating], resets=resets, impl="native", **keywords
    )
    *expected, pullback = getattr(numpy_backend, core)(
        *jax.tree.map(np.float64, arguments), GATINGS[gating], resets=resets, **keywords
    )
    cotangents = jax.tree.map(np.cos, tuple(expected))

    def pulled(*arguments):
        results, pullback = jax.vjp(run, *arguments)
        return results, pullback(jax.tree.map(jnp.float32, cotangents))

    for name in CALLS:
        with calling(name):
            results, gradients = jax.jit(lambda *arguments: pulled(*arguments))(*arguments)
        assert_close(results, tuple(expected))
        assert_close(gradients, pullback(*cotangents))


def second_derivatives(loss, inner, outer):
    """The gradient by some arguments of the squared norm of the gradient by some."""

    def norm(*arguments):
        gradient = jax.grad(loss, inner)(*arguments)
        return sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient))

    return quickly_compiled(jax.grad(norm, outer))


def test_second_derivatives_are_the_scans(rng):
    arguments = example("lstm", "standard", rng)

    def second(impl):
        return second_derivatives(loss_of("lstm", "standard", impl), (0, 1), (0, 1))(*arguments)

    assert_equals_the_scan(second, tolerance=1e-3)


def test_the_gradient_by_the_parameters_is_differentiated_by_the_inputs(rng):
    arguments = example("minimal", "standard", rng)

    def mixed(impl):
        return second_derivatives(loss_of("minimal", "standard", impl), 0, 1)(*arguments)

    assert_equals_the_scan(mixed, tolerance=1e-3)


def test_mapped_over_data_and_over_parameters(rng):
    params, x, state = jax.tree.map(np.asarray, example("gru", "UR", rng))
    scales = np.array([1.0, 0.5, -1.0], np.float32)
    data, models = (
        [jax.tree.map(lambda leaf, scale=scale: scale * leaf, tree) for scale in scales]
        for tree in (x, params)
    )

    def stacked(trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    gradient = quickly_compiled(jax.grad(loss_of("gru", "UR", "reference")))
    expected = (
        stacked([gradient(params, one, state) for one in data]),
        stacked([gradient(model, x, state) for model in models]),
    )
    for name in CALLS:
        with calling(name):
            gradient = jax.grad(loss_of("gru", "UR", "native"))
            mapped = (
                jax.jit(jax.vmap(gradient, (None, 0, None)))(params, stacked(data), state),
                jax.jit(jax.vmap(gradient, (0, None, None)))(stacked(models), x, state),
            )
            assert_close(mapped, expected)


def test_within_a_scan_with_donated_buffers_and_strict_promotion(rng):
    params, x, state = example("minimal", "M", rng)

    def chunks(impl):
        def one(state, x):
            output, state = backend.minimal(params, x, state, "M", impl=impl)
            return state, output

        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            run = jax.jit(lambda s, xs: jax.lax.scan(one, s, xs), donate_argnums=0)
            return run(state + jnp.float32(0), jnp.stack([x, x]))

    assert_equals_the_scan(chunks)


def test_the_implementation_is_reported_and_one_that_does_not_support_the_call_is_refused():
    assert backend.implementation(jnp.float32, impl="native") == "native"
    assert backend.implementation(jnp.float32, impl="reference") == "reference"
    assert backend.implementation(jnp.float64) == "reference"
    assert backend.implementation(jnp.float32, autodiff=True) == "reference"
    with pytest.raises(ValueError, match="computes in float32, not bfloat16"):
        backend.implementation(jnp.bfloat16, impl="native")
    with pytest.raises(ValueError, match=r"autodiff=True asks for the scan"):
        backend.implementation(jnp.float32, autodiff=True, impl="native")


def test_a_batch_of_one_step_and_one_sequence():
    params = jax.tree.map(jnp.float32, CORES["lstm"](1, 3, "UR").init(0))
    x = jnp.ones((1, 1, 1), jnp.float32)
    assert_equals_the_scan(lambda impl: backend.lstm(params, x, impl=impl))


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2)])
def test_without_steps_or_sequences(shape):
    params = jax.tree.map(jnp.float32, CORES["lstm"](shape[2], 4, "UR").init(0))
    x, state = jnp.ones(shape, jnp.float32), (jnp.ones((shape[1], 4), jnp.float32),) * 2

    def gradient(impl):
        return quickly_compiled(jax.grad(loss_of("lstm", "UR", impl), (0, 1, 2)))(params, x, state)

    assert_equals_the_scan(gradient)


def test_without_compilation(rng):
    params, x, state = example("minimal", "standard", rng)

    def gradient(impl):
        with jax.disable_jit():
            return jax.grad(loss_of("minimal", "standard", impl), (0, 1))(params, x, state)

    assert_equals_the_scan(gradient)


def test_equal_callbacks_are_compiled_once(rng):
    params, x, state = example("lstm", "UR", rng)
    callbacks = []

    def record(callback, *results, **options):
        callbacks.append(callback)
        return buffer_callback(callback, *results, **options)

    with calling("callback"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(library_call, "buffer_callback", record)
        for _ in range(2):
            backend.lstm(params, x, state, impl="native")
    assert callbacks[0] == callbacks[1]
    assert hash(callbacks[0]) == hash(callbacks[1])


def test_a_refusal_of_the_library_is_raised(rng, monkeypatch):
    params, x, state = example("lstm", "UR", rng)

    def refuse(call, **fields):
        raise RuntimeError("run_forward failed: for this test")

    monkeypatch.setattr(LayerCall, "forward", refuse)
    raised = (RuntimeError, ValueError)  # which of them, is up to JAX
    with calling("callback"), pytest.raises(raised, match="run_forward failed: for this"):
        jax.block_until_ready(backend.lstm(params, x, state, impl="native"))


def test_steps_queued_on_one_core_end():
    process = subprocess.run(
        [sys.executable, "tests/jax/callbacks.py"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=120,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr


def test_without_jaxs_header_long_sequences_run_by_callbacks(monkeypatch):
    monkeypatch.setattr(library_call, "_registered", lambda: False)
    assert backend.native_call() == "callback"
    assert backend.implementation(jnp.float32, impl="native") == "native"
    assert backend.implementation(jnp.float32, sizes=(2, 3, 4, 5), impl="native") == "native"
    auto = "native" if jax.device_count() == 1 else "reference"
    assert backend.implementation(jnp.float32) == auto
    assert backend.implementation(jnp.float32, sizes=(520, 32, 10, 256)) == auto
    assert backend.implementation(jnp.float32, sizes=(5, 4, 4, 16)) == "reference"


def test_the_way_of_calling_can_be_chosen(monkeypatch):
    monkeypatch.setenv("GATECORE_JAX_CALL", "callback")
    assert backend.native_call() == "callback"
    monkeypatch.setenv("GATECORE_JAX_CALL", "")
    assert backend.native_call() == CALLS[0]
