"""Layers for the native library's tests, and manual BPTT in float64 beside them."""

import dataclasses
import functools

import numpy as np

from gatecore.backends.native import library
from gatecore.backends.native.layer import NativeLayer
from gatecore.backends.numpy.bptt import Call, Engine, run
from tests.support import EVERY_CORE, GATINGS, leaves

ENGINE = Engine(np)
SUPPORTED = () if not library.available() else library.INSTRUCTION_SETS[
    : 1 + library.INSTRUCTION_SETS.index(library.best_instruction_set())
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer on random numbers: parameters, a sequence, and cotangents of all it returns."""

    core: str
    gating: str
    time: int
    batch: int
    inputs: int
    hidden: int  # at least; a downsized master gate needs a multiple
    resets: bool = False
    zoneout: str = "none"  # or "probabilities" or "masks"
    cells: bool = False  # whether all cell states are returned

    @functools.cached_property
    def arguments(self):
        """The layer's arguments and cotangents, in float32."""
        rng = np.random.default_rng(7)
        mechanism = GATINGS[self.gating]
        hidden = -(-self.hidden // mechanism.downsize) * mechanism.downsize
        cell = EVERY_CORE[self.core](self.inputs, hidden, mechanism)
        params = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
        shape, n = (self.time, self.batch, hidden), 2 if self.core == "lstm" else 1
        zoneout = {
            "none": None,
            "probabilities": (0.2, 0.05)[:n],
            "masks": [(rng.random(shape) < 0.3).astype("f8") for _ in range(n)],
        }[self.zoneout]
        arrays = {
            "params": params,
            "x": rng.standard_normal((self.time, self.batch, self.inputs)),
            "state": [rng.standard_normal(shape[1:]) for _ in range(n)],
            "zoneout": zoneout,
            "d_output": [rng.standard_normal(shape) for _ in range(1 + self.cells)],
            "d_state": [rng.standard_normal(shape[1:]) for _ in range(n)],
        }
        resets = rng.random(shape[:2]) < 0.2 if self.resets else None
        return {"cell": cell, "resets": resets} | cast(arrays, np.float32)

    def packed(self, parts):
        """A pair for an LSTM, else the only one; None stays None."""
        return parts if parts is None else tuple(parts) if self.core == "lstm" else parts[0]

    @functools.cached_property
    def expected(self):
        """Outputs, last state, gradients and forget gate by manual BPTT in float64."""
        arguments = cast(self.arguments, np.float64)
        outputs, final, pullback = run(
            ENGINE, self.core, arguments["params"], arguments["x"], self.packed(arguments["state"]),
            arguments["cell"].mechanism, resets=arguments["resets"],
            zoneout=self.packed(arguments["zoneout"]), return_cells=self.cells,
        )  # fmt: skip
        parts = arguments["d_output"]
        gradients = pullback(parts if self.cells else parts[0], self.packed(arguments["d_state"]))
        return outputs, final, *gradients, pullback.gates()

    def native(self, instruction_set=None, split="auto", threads=1, saves=True):
        """The layer by the library, its buffers filled with NaN, and its forward results."""
        arguments = self.arguments

        def acquire(width, steps=True, extra=0):
            shape = (self.time + extra, self.batch, width) if steps else (self.batch, width)
            return np.full(shape, np.nan, np.float32)

        zoneout = None if arguments["zoneout"] is None else tuple(arguments["zoneout"])
        call = Call(
            ENGINE, arguments["cell"], arguments["params"], (self.time, self.batch),
            np.dtype(np.float32), arguments["resets"], zoneout, self.cells, saves,
        )  # fmt: skip
        layer = NativeLayer(
            call, acquire, threads=threads, instruction_set=instruction_set, split=split
        )
        return layer, layer.forward(arguments["x"], arguments["state"])

    def results(self, *arguments, wrt_x=True):
        """``expected`` by the library."""
        layer, (outputs, final) = self.native(*arguments)
        scratch = np.full(layer.scratch_shape(wrt_x), np.nan, np.float32)
        d_params, d_x, d_state = layer.backward(
            self.arguments["d_output"], self.arguments["d_state"], scratch, wrt_x
        )
        outputs = outputs if self.cells else outputs[0]
        parts = self.packed(final), d_params, d_x, self.packed(d_state)
        return outputs, *parts, layer.forget_gate()


def cast(nest, dtype):
    """The nest with its arrays of floats in another type."""
    if isinstance(nest, dict):
        return {name: cast(value, dtype) for name, value in nest.items()}
    if isinstance(nest, (tuple, list)):
        return type(nest)(cast(value, dtype) for value in nest)
    is_floats = isinstance(nest, np.ndarray) and nest.dtype.kind == "f"
    return nest.astype(dtype) if is_floats else nest


def identical(results, others):
    """Whether two nests hold the same bits; None is in neither."""
    pairs = zip(leaves(list(results)), leaves(list(others)), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def worst(results, expected):
    """The largest error of any array, relative to the largest entry of the expected one."""
    errors = [0.0]
    for result, exact in zip(leaves(list(results)), leaves(list(expected)), strict=True):
        assert result.shape == exact.shape, (result.shape, exact.shape)
        if exact.size:
            errors.append(float(np.abs(result - exact).max() / (np.abs(exact).max() or 1.0)))
    return float(np.max(errors))  # NaN where any is
