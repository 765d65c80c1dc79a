"""The backward pass takes numbers below the smallest normal one, 1.2e-38, for zeros."""

import numpy as np
import pytest

import gatecore
from gatecore.backends.native import library
from gatecore.backends.numpy import lstm, mingru

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
LAYERS = {"lstm": (lstm, gatecore.cells.LSTM), "mingru": (mingru, gatecore.cells.MinGRU)}


def gradients(core, scale, impl):
    function, cell = LAYERS[core]
    rng = np.random.default_rng(0)
    params = {k: v.astype(np.float32) for k, v in cell(3, 8, "UR").init(rng).items()}
    x = rng.standard_normal((20, 2, 3)).astype(np.float32)
    output, _, pullback = function(params, x, mechanism="UR", impl=impl)
    d_params, d_x, _ = pullback(np.full_like(output, scale))
    return [*d_params.values(), d_x]


@pytest.mark.parametrize("core", LAYERS)
def test_denormal_cotangents_give_zeros(core):
    assert not any(gradient.any() for gradient in gradients(core, 1e-42, "native"))
    assert any(gradient.any() for gradient in gradients(core, 1e-42, "reference"))


@pytest.mark.parametrize("core", LAYERS)
def test_small_normal_cotangents_give_their_gradients(core):
    for ours, theirs in zip(
        *(gradients(core, 1e-30, i) for i in ("native", "reference")), strict=True
    ):
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_caller_keeps_its_denormals():
    gradients("lstm", 1e-42, "native")
    assert np.float32(1e-40) * np.float32(0.5) > 0
