"""CuPy and torch on a GPU behind one small interface, and NumPy in float64 to compare with."""

import functools
import importlib
import importlib.util
from types import SimpleNamespace

import numpy as np

from gatecore import cells, mechanism
from gatecore.backends import load

MEGABYTE = 2**20


class Absent(Exception):
    """This machine lacks what a check needs."""


def module(name):
    """A module; raises Absent if it is not installed."""
    if importlib.util.find_spec(name) is None:
        raise Absent(f"{name} is not installed")
    return importlib.import_module(name)


def tree(function, value):
    """A nest of dicts, tuples and lists with ``function`` applied to each array; None stays."""
    if isinstance(value, dict):
        return {name: tree(function, entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(tree(function, entry) for entry in value)
    return None if value is None else function(value)


def leaves(value, name="result"):
    """(name, array) of a nest."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from leaves(entry, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for k, entry in enumerate(value):
            yield from leaves(entry, f"{name}[{k}]")
    elif value is not None:
        yield name, value


class Reference:
    """The NumPy backend in float64, which `make test` holds to independent references."""

    def sequence(self, case):
        """Outputs, last state and all gradients of a case."""
        layer = getattr(load("numpy"), case.core)
        output, state, pullback = layer(
            case.params, case.x, case.state, case.mechanism,
            resets=case.resets, zoneout=case.zoneout,
        )  # fmt: skip
        return output, state, pullback(case.d_output, case.d_state)


def poison(megabytes=512):
    """Fill the memory that the next arrays and tensors will be given with NaN.

    That of both pools, CuPy's and torch's, where a GPU can be used: results of one framework may
    lie in the memory of the other.
    """
    sizes = [2**k // 4 for k in range(9, 28) if 2**k <= megabytes * MEGABYTE]
    for name in ("cupy", "torch"):
        try:
            framework = module(name)
        except Absent:
            continue
        if framework.cuda.is_available():
            full = functools.partial(framework.full, fill_value=np.nan, dtype=framework.float32)
            where = {"device": "cuda"} if name == "torch" else {}
            arrays = [full((size,), **where) for size in sizes for _ in (0, 1)]
            if name == "torch":
                framework.cuda.synchronize()
            else:
                framework.cuda.get_current_stream().synchronize()
            del arrays


class Framework:
    """Arrays of a framework on the GPU."""

    def mask(self, zoneout):
        """A zoneout mask as an array; a probability stays a number."""
        return self.array(zoneout) if np.ndim(zoneout) else zoneout


class Cupy(Framework):
    """gatecore.backends.cupy."""

    name = "cupy"

    def __init__(self, dtype="float32", kernels="fused"):
        self.cupy, self.dtype, self.kernels = module("cupy"), np.dtype(dtype), kernels
        try:
            self.backend = load("cupy")
        except ImportError as error:
            raise Absent(str(error)) from error

    def array(self, value):
        """On the GPU; floating arrays in this framework's dtype."""
        value = np.asarray(value)
        return self.cupy.asarray(value, dtype=self.dtype if value.dtype.kind == "f" else None)

    def numpy(self, value):
        """As NumPy, float64."""
        return self.cupy.asnumpy(value).astype(np.float64)

    def synchronize(self):
        """Wait for the GPU."""
        self.cupy.cuda.get_current_stream().synchronize()

    def sequence(self, case):
        """Outputs, last state and all gradients of a case."""
        params, x, state, resets = (
            tree(self.array, part) for part in (case.params, case.x, case.state, case.resets)
        )
        output, state, pullback = getattr(self.backend, case.core)(
            params, x, state, case.mechanism, resets=resets,
            zoneout=tree(self.mask, case.zoneout), kernels=self.kernels,
        )  # fmt: skip
        if self.kernels == "fused" and pullback.impl != "fused":
            raise AssertionError(f"the fused kernels were requested, {pullback.impl} ran")
        gradients = pullback(*tree(self.array, (case.d_output, case.d_state)))
        return tree(self.numpy, (output, state, gradients))


class Torch(Framework):
    """gatecore.backends.torch on CUDA tensors."""

    name = "torch"

    def __init__(self, dtype="float32", impl="auto"):
        self.torch, self.impl = module("torch"), impl
        if not self.torch.cuda.is_available():
            raise Absent("torch sees no CUDA device")
        self.dtype, self.backend = getattr(self.torch, dtype), load("torch")

    def array(self, value):
        """On the GPU; floating arrays in this framework's dtype."""
        value = np.asarray(value)
        tensor = self.torch.tensor(value, device="cuda")
        return tensor.to(self.dtype) if value.dtype.kind == "f" else tensor

    def numpy(self, value):
        """As NumPy, float64."""
        return value.detach().double().cpu().numpy()

    def synchronize(self):
        """Wait for the GPU."""
        self.torch.cuda.synchronize()

    def leaf(self, value):
        """A tensor that requires a gradient."""
        return self.array(value).requires_grad_()

    def sequence(self, case):
        """Outputs, last state and all gradients of a case."""
        params, x, state = tree(self.leaf, (case.params, case.x, case.state))
        output, last = getattr(self.backend, case.core)(
            params, x, state, case.mechanism, resets=tree(self.array, case.resets),
            zoneout=tree(self.mask, case.zoneout), impl=self.impl,
        )  # fmt: skip
        results = [array for _, array in leaves((output, last))]
        cotangents = [self.array(a) for _, a in leaves((case.d_output, case.d_state))]
        sources = [array for _, array in leaves((params, x, state))]
        flat = iter(self.torch.autograd.grad(results, sources, cotangents))
        gradients = tree(lambda _: next(flat), (params, x, state))
        return tree(self.numpy, (output, last, gradients))


def random_case(core, name, sizes, rng, variant="plain", dtype=np.float32):
    """A layer with random parameters, inputs and cotangents, representable in ``dtype``."""
    time, batch, inputs, hidden = sizes
    gating = mechanism(name, downsize=2) if "M" in name else mechanism(name)
    cell = cells.CELLS[core](inputs, hidden, gating)
    round_ = lambda a: np.asarray(a).astype(dtype).astype(np.float64)  # noqa: E731
    state, d_state = (tuple(round_(a) for a in rng.standard_normal((2, batch, hidden)) / 2)
                      for _ in "ab")  # fmt: skip
    masks = tuple((rng.random((2, time, batch, hidden)) < 0.5).astype(np.float64))
    probabilities = (0.5, 0.05)
    zoneout = {"masks": masks, "probabilities": probabilities}.get(variant)
    lstm = core == "lstm"
    return SimpleNamespace(
        core=core,
        mechanism=gating,
        params=tree(round_, cell.init(rng)),
        x=round_(rng.standard_normal((time, batch, inputs))),
        state=state if lstm else state[0],
        resets=rng.random((time, batch)) < 0.2 if variant == "resets" else None,
        zoneout=zoneout if lstm or zoneout is None else zoneout[1],
        d_output=round_(rng.standard_normal((time, batch, hidden))),
        d_state=d_state if lstm else d_state[0],
    )
