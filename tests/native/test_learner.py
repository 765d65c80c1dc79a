"""The implementation that a NumPy learner runs is chosen by `impl`, and refused at once."""

import numpy as np
import pytest

from gatecore import Batch, ModelSpec
from gatecore.backends.common.learner import draw
from gatecore.backends.native import library
from gatecore.backends.numpy import functional as backend
from gatecore.backends.numpy.bptt import Engine
from gatecore.backends.numpy.learner import ExplicitLearner

SPEC = ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=7, layers=2)
needs_library = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))


def trained(**settings):
    """Metrics of some steps, and the implementations of the layers in a further pass."""
    learner, rng = backend.Learner(SPEC, seed=2, **settings), np.random.default_rng(3)
    metrics = []
    for _ in range(4):
        tokens = rng.integers(0, 4, (6, 5))
        metrics.append(learner.step(Batch(tokens, tokens), learning_rate=0.05)["loss"])
    batch = Batch(tokens, tokens)
    noise = draw(SPEC, batch)
    layers = learner._layers(learner._features(batch, noise)[0], batch, noise)
    return metrics, {pullback.impl for pullback in layers._layers}


@needs_library
def test_the_library_and_array_operations_train_alike():
    (by_library, path), (without, other) = trained(impl="native"), trained(impl="reference")
    assert (path, other) == ({"native"}, {"reference"})
    assert by_library == pytest.approx(without, rel=1e-5)
    assert by_library[-1] < by_library[0]


@needs_library
def test_the_library_is_taken_wherever_it_serves():
    assert trained()[1] == {"native"}
    assert trained(dtype="float64")[1] == {"reference"}


def test_a_choice_that_cannot_be_had_is_refused_when_it_is_made(monkeypatch):
    with pytest.raises(ValueError, match="impl='native' is not available: it computes in float32"):
        backend.Learner(SPEC, impl="native", dtype="float64")
    with pytest.raises(ValueError, match="impl='quick' is unknown"):
        backend.Learner(SPEC, impl="quick")
    with pytest.raises(ValueError, match="impl='native' is unknown"):
        ExplicitLearner(Engine(np), SPEC, impl="native")
    monkeypatch.setattr(library, "unsupported", lambda dtype: "it was not built")
    with pytest.raises(ValueError, match="impl='native' is not available: it was not built"):
        backend.Learner(SPEC, impl="native")
