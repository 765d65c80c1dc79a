"""The tests of this folder on Keras' JAX backend: a process has one backend."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from gatecore.backends.keras import GRU, LSTM
from tests.support import norm_error

pytest.importorskip("jax", reason="jax is not installed")
SAVED = "GATECORE_SAVED_MODEL"  # the folder of a model that the first process saved
X = np.random.default_rng(5).standard_normal((3, 5, 4)).astype("float32")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this process is on JAX already")
def test_the_layers_on_keras_jax_backend(tmp_path):
    model = keras.Sequential([keras.Input((5, 4)), LSTM(6, return_sequences=True), GRU(6, "OM")])
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "output.npy", model.predict(X, verbose=0))
    # one core less, and what compiles longest in one type only: the code is the same
    tests = "not slow_on_jax and not minimal and not Minimal and not (keras_own and float32)"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", Path(__file__).parent, "-k", tests]
    settings = {"KERAS_BACKEND": "jax", SAVED: str(tmp_path)}
    process = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True,
                             check=False)  # fmt: skip
    assert process.returncode == 0, process.stdout


@pytest.mark.skipif(SAVED not in os.environ, reason="the test above sets it, in its own process")
def test_a_model_that_was_saved_on_torch_is_loaded():
    folder = Path(os.environ[SAVED])
    model = keras.saving.load_model(folder / "model.keras")
    assert norm_error(model.predict(X, verbose=0), np.load(folder / "output.npy")) < 1e-6
