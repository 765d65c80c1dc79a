"""Ten lines of use, for an environment that holds the wheel, NumPy and array-api-compat alone.

    python use_installed.py IMPL

IMPL is the implementation that must run a float32 layer: "native" or "reference".
"""

import importlib.resources
import importlib.util
import sys

import numpy as np

import gatecore
from gatecore.backends import load

cell = gatecore.cells.LSTM(3, 8, mechanism="UR")
params = cell.init(rng=0)
x = np.random.default_rng(0).standard_normal((20, 2, 3))
output, (hidden, _), pullback = load("numpy").lstm(params, x, mechanism="UR")
d_params, _, _ = pullback(np.ones_like(output))

expected, _ = cell.scan(params, x)
assert np.allclose(output, expected, rtol=0, atol=1e-12)
single = {name: value.astype(np.float32) for name, value in params.items()}
fast, _, fast_pullback = load("numpy").lstm(single, x.astype(np.float32), mechanism="UR")
assert fast_pullback.impl == sys.argv[1], fast_pullback.impl
assert np.allclose(fast, expected, rtol=0, atol=1e-5)
assert output.shape == (20, 2, 8)
assert np.array_equal(output[-1], hidden)
assert all(np.isfinite(gradient).all() for gradient in d_params.values())
assert gatecore.timescale(gatecore.sigmoid(np.float32(30))) > 1e12
assert importlib.resources.files("gatecore").joinpath("py.typed").is_file()
for bare in ("analysis", "backends", "tasks"):
    assert importlib.util.find_spec(bare) is None, f"the wheel installs a top-level {bare!r}"
print("gatecore", gatecore.__file__, "on Python", sys.version.split()[0])
