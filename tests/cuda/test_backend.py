"""`gatecore.backends.cupy` itself, imported over a stand-in for CuPy: its interface is NumPy's."""

import importlib
import inspect
import sys

import numpy as np
import pytest

import gatecore
from gatecore import backends
from gatecore.backends.cuda import cublas, launch
from tests.cuda.standin import Pointed, StandIn, forget
from tests.support import CORES, norm_error


@pytest.fixture
def backend(host_library, monkeypatch):
    """The backend, with a stand-in for CuPy."""
    cupy = StandIn(host_library)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cublas, "library", lambda: cupy.blas)
    forget()
    yield backends.load("cupy")
    forget()


def on_device(values):
    return {name: value.view(Pointed) for name, value in values.items()}


@pytest.mark.parametrize("core", CORES)
def test_its_layers_take_what_the_numpy_backends_take(backend, core):
    own, reference = getattr(backend, core), getattr(backends.load("numpy"), core)
    names = list(inspect.signature(own).parameters)
    assert names == [
        *(n for n in inspect.signature(reference).parameters if n != "impl"),
        "kernels",
    ]
    params = CORES[core](3, 6, "UR").init(0)
    x = np.random.default_rng(1).standard_normal((5, 2, 3))
    for kernels, impl in (("auto", "fused"), ("none", "reference")):
        output, _, pullback = own(on_device(params), x.view(Pointed), kernels=kernels)
        assert pullback.impl == pullback.path == impl
        assert norm_error(output, reference(params, x)[0]) < 1e-12
    assert backend.why_not_fused(core, params, x) is None
    with pytest.raises(ValueError, match="did you mean 'fused'"):
        own(on_device(params), x.view(Pointed), kernels="fusd")


def test_it_says_why_kernels_do_not_serve(backend):
    params = gatecore.cells.LSTM(3, 1, "standard").init(0)
    x = np.zeros((5, 2, 3))
    assert "hidden_size" in backend.why_not_fused("lstm", params, x, "standard")
    with pytest.raises(ValueError, match="hidden_size"):
        backend.lstm(on_device(params), x.view(Pointed), None, "standard", kernels="fused")


def spec(**fields):
    return gatecore.ModelSpec(
        input="embedding", input_size=5, output_size=5, hidden_size=6, zoneout=(0.5, 0.05),
        head=(4,), dropout=0.1, **fields,
    )  # fmt: skip


def batch():
    tokens = np.random.default_rng(5).integers(0, 5, (2, 7, 3))
    return gatecore.Batch(tokens[0], tokens[1])


@pytest.mark.parametrize("core", CORES)
def test_its_learner_trains_as_the_numpy_backends_and_its_state_is_numpys(backend, core):
    settings = {"seed": 3, "dtype": "float64"}
    own = backend.Learner(spec(core=core), **settings)
    reference = backends.load("numpy").Learner(spec(core=core), **settings)
    for _ in range(3):
        got, wanted = (x.step(batch(), learning_rate=0.01) for x in (own, reference))
        assert got == pytest.approx(wanted, rel=1e-9)
    assert own.evaluate([batch()]) == pytest.approx(reference.evaluate([batch()]), rel=1e-9)
    for side, exact in zip(own.gates(batch()), reference.gates(batch()), strict=True):
        assert type(side) is np.ndarray
        assert norm_error(side, exact) < 1e-9
    state = own.state_dict()
    assert state.keys() == reference.state_dict().keys()
    assert {type(value) for value in state.values()} == {np.ndarray}
    again = backend.Learner(spec(core=core), **settings)
    again.load_state_dict(state)
    assert again.step(batch(), learning_rate=0.01) == own.step(batch(), learning_rate=0.01)


def test_its_learner_can_do_without_kernels_and_refuses_the_cpus_library(backend):
    learners = [backend.Learner(spec(), **choice) for choice in ({"impl": "reference"}, {})]
    first, second = (learner.step(batch(), learning_rate=0.1) for learner in learners)
    assert first == pytest.approx(second, rel=1e-4)
    assert [learner.impl for learner in learners] == ["reference", "auto"]
    with pytest.raises(ValueError, match="impl='native' is unknown"):
        backend.Learner(spec(), impl="native")
    with pytest.raises(ValueError, match="impl='reference' is without kernels"):
        backend.Learner(spec(), impl="reference", kernels="fused")


def test_release_forgets_the_recorded_graphs(backend):
    learner = backend.Learner(spec())
    learner.step(batch(), learning_rate=0.1)
    assert launch.launcher()._buffers
    backend.release()
    assert not launch.launcher()._buffers


def test_its_public_names_exist_and_are_documented(backend):
    assert set(backend.__all__) >= {"lstm", "gru", "minimal", "Learner", "release"}
    assert all(inspect.getdoc(getattr(backend, name)) for name in backend.__all__)
    assert importlib.import_module("gatecore.backends.cupy") is backend
