"""The native library behind JAX's functions: equal to the scan, under every transformation.

Each is done twice: XLA calls the library itself, and through the host, as where it was built
without JAX's header.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402

from gatecore.backends import jax as adapter  # noqa: E402
from gatecore.backends.jax import host_callback, native  # noqa: E402
from gatecore.backends.native.call import LayerCall  # noqa: E402
from tests.support import CORES, GATINGS  # noqa: E402

pytestmark = pytest.mark.skipif(
    native.obstacle(jnp.float32) is not None, reason=str(native.obstacle(jnp.float32))
)
T, B, X, H = 5, 3, 2, 18
ROOT = Path(__file__).resolve().parents[2]
CALLS = (
    ("ffi", "callback")
    if native.obstacle(jnp.float32) is None and native.native_call() == "ffi"
    else ("callback",)
)


def problem(core, gating, rng):
    cell = CORES[core](X, H, gating)
    drawn = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in drawn.items()}
    state = tuple(jnp.asarray(part, jnp.float32) for part in rng.standard_normal((2, B, H)))
    x = jnp.asarray(rng.standard_normal((T, B, X)), jnp.float32)
    return params, x, state if core == "lstm" else state[0]


def loss_of(core, mechanism, impl, **keywords):
    def loss(params, x, state):
        result = getattr(adapter, core)(params, x, state, mechanism, impl=impl, **keywords)
        leaves = enumerate(jax.tree.leaves(result), start=1)
        return sum((jnp.sin(leaf) * jnp.float32(k)).sum() for k, leaf in leaves)

    return loss


def close(found, expected, tolerance=3e-5):
    for mine, its in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert mine.shape == its.shape
        scale = max(float(jnp.abs(its).max(initial=0)), 1e-3)
        assert float(jnp.abs(mine - its).max(initial=0)) < tolerance * scale


def as_the_scan(function, tolerance=3e-5):
    """What ``function`` gives for each ``impl``, the native one by each call, is the same."""
    expected = function("reference")
    for name in CALLS:
        with calling(name):
            assert native.native_call() == name
            close(function("native"), expected, tolerance)


@contextlib.contextmanager
def calling(name):
    """What is traced here calls the library so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GATECORE_JAX_CALL", name)
        yield


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_outputs_and_gradients_are_the_scans(core, gating, rng):
    given = problem(core, GATINGS[gating], rng)
    draws = jnp.asarray(rng.random((T, B, H)) < 0.3, jnp.float32)
    keywords = {"resets": jnp.asarray(rng.random((T, B)) < 0.2), "zoneout": draws}
    if core == "lstm":
        keywords |= {"zoneout": (0.1, draws), "return_cells": True}

    def gradients(impl):
        loss = loss_of(core, GATINGS[gating], impl, **keywords)
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*given)

    as_the_scan(gradients)


def test_second_derivatives_are_the_scans(rng):
    params, x, state = problem("lstm", GATINGS["UR"], rng)

    def second(impl):
        loss = loss_of("lstm", "UR", impl)
        norm = lambda params, x: sum(  # noqa: E731
            (g**2).sum() for g in jax.tree.leaves(jax.grad(loss, (0, 1))(params, x, state))
        )
        return jax.grad(norm, (0, 1))(params, x)

    as_the_scan(second, tolerance=1e-3)


def test_mapped_over_data_and_over_parameters(rng):
    params, x, state = problem("gru", GATINGS["UR"], rng)
    several = jnp.stack([x, 2 * x, -x])
    models = jax.tree.map(lambda p: jnp.stack([p, p / 2, -p]), params)

    def mapped(impl):
        gradient = jax.grad(loss_of("gru", "UR", impl))
        data = jax.jit(jax.vmap(gradient, (None, 0, None)))(params, several, state)
        return data, jax.vmap(gradient, (0, None, None))(models, x, state)

    as_the_scan(mapped)


def test_within_a_scan_with_donated_buffers_and_strict_promotion(rng):
    params, x, state = problem("minimal", GATINGS["M"], rng)

    def chunks(impl):
        def one(state, x):
            output, state = adapter.minimal(params, x, state, "M", impl=impl)
            return state, output

        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            run = jax.jit(lambda s, xs: jax.lax.scan(one, s, xs), donate_argnums=0)
            return run(state + jnp.float32(0), jnp.stack([x, x]))

    as_the_scan(chunks)


def test_what_runs_can_be_asked_and_what_cannot_be_had_is_refused():
    assert adapter.implementation(jnp.float32, impl="native") == "native"
    assert adapter.implementation(jnp.float32, impl="reference") == "reference"
    assert adapter.implementation(jnp.float64) == "reference"
    assert adapter.implementation(jnp.float32, autodiff=True) == "reference"
    with pytest.raises(ValueError, match="computes in float32, not bfloat16"):
        adapter.implementation(jnp.bfloat16, impl="native")
    with pytest.raises(ValueError, match=r"autodiff=True asks for the scan"):
        adapter.implementation(jnp.float32, autodiff=True, impl="native")


def test_a_batch_of_one_step_and_one_sequence(rng):
    params = CORES["lstm"](1, 3, "UR").init(0)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    x = jnp.asarray(np.ones((1, 1, 1)), jnp.float32)
    as_the_scan(lambda impl: adapter.lstm(params, x, impl=impl))


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2)])
def test_without_steps_or_sequences(shape):
    params = CORES["lstm"](shape[2], 4, "UR").init(0)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    x, start = jnp.ones(shape, jnp.float32), (jnp.ones((shape[1], 4), jnp.float32),) * 2
    loss = lambda impl: loss_of("lstm", "UR", impl)  # noqa: E731
    as_the_scan(lambda impl: jax.grad(loss(impl), (0, 1, 2))(params, x, start))


def test_without_compilation(rng):
    params, x, state = problem("gru", GATINGS["OM"], rng)

    def gradient(impl):
        with jax.disable_jit():
            return jax.grad(loss_of("gru", GATINGS["OM"], impl), (0, 1))(params, x, state)

    as_the_scan(gradient)


def test_equal_calls_through_the_host_are_compiled_once(rng):
    params, x, state = problem("lstm", GATINGS["UR"], rng)
    made = []
    with calling("callback"), pytest.MonkeyPatch.context() as patch:
        call = host_callback.call
        patch.setattr(
            host_callback, "call", lambda host, *rest: made.append(host) or call(host, *rest)
        )
        for _ in range(2):
            adapter.lstm(params, x, state, impl="native")
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])


def test_what_the_library_refuses_is_raised(rng, monkeypatch):
    params, x, state = problem("lstm", GATINGS["UR"], rng)

    def refuse(call, **fields):
        raise RuntimeError("run_forward failed: for this test")

    monkeypatch.setattr(LayerCall, "forward", refuse)
    raised = (RuntimeError, ValueError)  # which of them, is up to JAX
    with calling("callback"), pytest.raises(raised, match="run_forward failed: for this"):
        jax.block_until_ready(adapter.lstm(params, x, state, impl="native"))


def test_steps_queued_on_one_core_end():
    done = subprocess.run(
        [sys.executable, "tests/jax/by_host.py"], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_jaxs_header_the_host_calls_long_sequences(monkeypatch):
    monkeypatch.setattr(native, "_registered", lambda: False)
    assert adapter.native_call() == "callback"
    assert adapter.implementation(jnp.float32, impl="native") == "native"
    assert adapter.implementation(jnp.float32, sizes=(2, 3, 4, 5), impl="native") == "native"
    alone = jax.device_count() == 1
    for sizes, taken in (((5, 4, 4, 16), False), ((520, 32, 10, 256), alone), (None, alone)):
        found = adapter.implementation(jnp.float32, sizes=sizes)
        assert found == ("native" if taken else "reference"), sizes


def test_how_it_is_called_can_be_chosen(monkeypatch):
    monkeypatch.setenv("GATECORE_JAX_CALL", "callback")
    assert adapter.native_call() == "callback"
    monkeypatch.setenv("GATECORE_JAX_CALL", "")
    assert adapter.native_call() == CALLS[0]
