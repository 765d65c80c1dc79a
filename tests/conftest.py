"""Array backends as fixtures: each test that asks for `arrays` runs on all that are installed."""

import enum
import importlib.util
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before JAX is first imported: float64 must mean float64, and no accelerator is looked for.
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# and Keras: on one of the two backends that we support, without the settings of a user's folder
os.environ.setdefault("KERAS_BACKEND", "torch" if importlib.util.find_spec("torch") else "jax")
os.environ.setdefault("KERAS_HOME", str(Path(tempfile.gettempdir()) / "gatecore-tests-keras"))


class Backend(enum.Enum):
    """The array libraries the core is written for; the value is the package that provides it."""

    NUMPY = "numpy"
    STRICT = "array_api_strict"
    TORCH = "torch"
    JAX = "jax"

    def __str__(self):
        return self.value

    @property
    def installed(self):
        return importlib.util.find_spec(self.value) is not None

    @property
    def differentiates(self):
        """Whether the library has automatic differentiation to compare with."""
        return self in (Backend.TORCH, Backend.JAX)

    def array(self, values, dtype="float64"):
        """`values` as an array of this library."""
        values = np.asarray(values, dtype=dtype)
        if self is Backend.NUMPY:
            return values
        if self is Backend.STRICT:
            import array_api_strict

            return array_api_strict.asarray(values)
        if self is Backend.TORCH:
            import torch

            return torch.tensor(values)
        import jax.numpy

        return jax.numpy.asarray(values)

    def numpy(self, array):
        """An array of this library as a NumPy array of the same dtype."""
        return array.detach().numpy() if self is Backend.TORCH else np.asarray(array)

    def gradients(self, function, arguments, cotangents):
        """Cotangents of `arguments` under the library's own differentiation.

        `function` maps arrays to a tuple of arrays; everything given and returned is NumPy.
        """
        if self is Backend.TORCH:
            import torch

            leaves = [torch.tensor(a, requires_grad=True) for a in arguments]
            results = function(*leaves)
            total = sum(
                (torch.tensor(c) * r).sum() for c, r in zip(cotangents, results, strict=True)
            )
            return [g.numpy() for g in torch.autograd.grad(total, leaves)]
        import jax

        _, pullback = jax.vjp(lambda *a: tuple(function(*a)), *map(jax.numpy.asarray, arguments))
        return [np.asarray(g) for g in pullback(tuple(map(jax.numpy.asarray, cotangents)))]


def backend_parameters(backends):
    """The backends as pytest parameters; those not installed are skipped with a reason."""
    return [
        pytest.param(
            b,
            id=str(b),
            marks=pytest.mark.skipif(not b.installed, reason=f"{b} is not installed"),
        )
        for b in backends
    ]


@pytest.fixture(params=backend_parameters(Backend))
def arrays(request):
    """Each array library in turn."""
    return request.param


@pytest.fixture(params=backend_parameters(b for b in Backend if b is not Backend.NUMPY))
def foreign_arrays(request):
    """Each array library but NumPy."""
    return request.param


@pytest.fixture(params=backend_parameters(b for b in Backend if b.differentiates))
def autodiff(request):
    """Each library with automatic differentiation."""
    return request.param


@pytest.fixture
def rng():
    """A generator with a fixed seed: every run of the suite sees the same numbers."""
    return np.random.default_rng(20191010)
