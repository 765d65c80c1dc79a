"""The reference transcription is right: it reproduces the high-precision vectors."""

import mpmath
import numpy as np
import pytest

from tests import reference
from tests.support import LAYER_KINDS, floats, layer_vectors, load, nested, norm_error, pack_layer


@pytest.mark.parametrize("name", LAYER_KINDS)
def test_reference_reproduces_the_layer_vectors(name):
    vectors = layer_vectors(name)
    trace = reference.run(
        vectors.layer, nested(vectors.params), nested(vectors.x), nested(vectors.state)
    )
    assert norm_error(trace.outputs, vectors.outputs) < 1e-14
    assert norm_error(trace.forget, vectors.forget) < 1e-14
    assert norm_error(trace.input, vectors.input) < 1e-14
    if vectors.cells is not None:
        assert norm_error(trace.cells, vectors.cells) < 1e-14


def test_reference_in_high_precision_agrees_to_the_last_digits_of_the_vectors():
    raw = load("layer_om_lstm") | {"name": "layer_om_lstm"}
    with mpmath.workdps(40):
        exact = np.vectorize(mpmath.mpf, otypes=[object])
        trace = reference.run(
            LAYER_KINDS["layer_om_lstm"],
            nested({key: exact(value) for key, value in pack_layer(raw).items()}),
            nested(exact(floats(raw["x"]))),
            (nested(exact(floats(raw["h0"]))), nested(exact(floats(raw["c0"])))),
            m=mpmath,
        )
        error = exact(np.array(raw["h"])) - np.array(trace.outputs)
        assert max(abs(e) for e in error.ravel()) < mpmath.mpf("1e-28")
