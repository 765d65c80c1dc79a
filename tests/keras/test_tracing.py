"""Keras' ways to trace a model: compiled training, rematerialization and export."""

import functools
import importlib

import keras
import numpy as np
import pytest
from keras import ops

from gatecore.backends.keras import GRU, LSTM, MinGRU
from tests.support import norm_error

ON_JAX = keras.backend.backend() == "jax"
X = np.random.default_rng(5).standard_normal((3, 5, 4)).astype("float32")
Y = np.ones((3, 6), "float32")
# torch warns of its own tracing
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


def trained(kind, jit_compile=False, remat=None, steps=2):
    """The weights of a layer after so many steps, in one vector."""
    keras.utils.set_random_seed(0)
    with keras.RematScope(mode=remat):
        layer = kind(6)
        model = keras.Sequential([keras.Input((5, 4)), layer])
        model.compile("sgd", "mse", jit_compile=jit_compile)
        model.fit(X, Y, epochs=steps, batch_size=3, verbose=0)
    parts = [ops.convert_to_numpy(weight).ravel() for weight in layer.trainable_weights]
    return np.concatenate(parts)


@pytest.fixture
def compiler(monkeypatch):
    """On torch its compiler without code, which takes minutes to make, of Keras' own LSTM too."""
    if not ON_JAX:
        torch = importlib.import_module("torch")
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.filterwarnings("ignore:.*Dynamo:UserWarning")  # of what it does not trace
@pytest.mark.parametrize(("kind", "steps"), [(LSTM, 2), (MinGRU, 2)] if ON_JAX else [(LSTM, 1)])
def test_training_is_the_same_compiled(kind, steps, compiler):
    compiled = trained(kind, jit_compile=True, steps=steps)
    assert norm_error(compiled, trained(kind, steps=steps)) < 1e-5


@pytest.mark.skipif(ON_JAX, reason="Keras' rematerialization fails on JAX, for its own LSTM too")
@pytest.mark.parametrize("kind", [LSTM, GRU, MinGRU])
def test_training_is_the_same_rematerialized(kind):
    assert norm_error(trained(kind, remat="full"), trained(kind)) < 1e-6


@pytest.mark.skipif(ON_JAX, reason="Keras exports a torch program on torch alone")
@pytest.mark.parametrize("kind", [LSTM, GRU, MinGRU])
def test_a_model_is_exported_as_a_program_of_torch(kind, tmp_path):
    import torch

    model = keras.Sequential([keras.Input((5, 4)), kind(6), keras.layers.Dense(1)])
    sizes = {0: torch.export.Dim("batch", min=1, max=64)}
    model.export(tmp_path / "model.pt2", format="torch", verbose=False, dynamic_shapes=sizes)
    program = torch.export.load(tmp_path / "model.pt2").module()
    output = program(torch.from_numpy(X)).detach().numpy()
    assert norm_error(output, ops.convert_to_numpy(model(X))) < 1e-6


@pytest.mark.skipif(ON_JAX, reason="Keras traces a model for ONNX by torch.jit on torch alone")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of the exporter Keras uses
def test_an_export_to_onnx_is_refused(tmp_path):
    pytest.importorskip("onnx", reason="Keras exports to ONNX by it")
    model = keras.Sequential([keras.Input((5, 4)), GRU(6)])
    model(X)
    with pytest.raises(RuntimeError, match=r"use model.export\(path, format='torch'\)"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
