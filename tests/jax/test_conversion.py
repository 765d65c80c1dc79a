"""`convert` replaces flax's cells in an nnx model, in place."""

import logging

import numpy as np
import pytest

pytest.importorskip("flax")

import jax.numpy as jnp
from flax import nnx

from gatecore.backends.jax import GRUCell, LSTMCell, convert
from tests.support import norm_error

X = jnp.asarray(np.random.default_rng(3).standard_normal((2, 4, 3)), jnp.float32)


def flax_cell(kind=nnx.OptimizedLSTMCell, inputs=3, **settings):
    initializers = dict.fromkeys(
        ("kernel_init", "recurrent_kernel_init"), nnx.initializers.normal()
    )
    return kind(inputs, 4, rngs=nnx.Rngs(0), **initializers, **settings)


class Model(nnx.Module):
    def __init__(self):
        self.encoder = nnx.Bidirectional(
            nnx.RNN(flax_cell()), nnx.RNN(flax_cell(nnx.LSTMCell))
        )  # fmt: skip
        self.layers = nnx.List(
            [nnx.RNN(flax_cell(nnx.GRUCell, 8)), nnx.Linear(4, 1, rngs=nnx.Rngs(1))]
        )
        self.again = self.encoder.forward_rnn.cell
        self.pair = nnx.data((self.again, [{"cell": self.again}]))

    def __call__(self, x):
        for layer in (self.encoder, *self.layers):
            x = layer(x)
        return x


def test_every_cell_is_replaced_once_and_computes_the_same(caplog):
    model = Model()
    expected = model(X)
    with caplog.at_level(logging.INFO, "gatecore"):
        assert convert(model, "standard") is model
    assert norm_error(model(X), expected) < 1e-6
    forward = model.encoder.forward_rnn.cell
    kinds = [type(c) for c in (forward, model.encoder.backward_rnn.cell, model.layers[0].cell)]
    assert kinds == [LSTMCell, LSTMCell, GRUCell]
    assert model.again is forward
    assert model.pair[0] is model.pair[1][0]["cell"] is forward
    assert len(caplog.records) == 3
    nnx.split(model)  # a valid graph


def test_weights_in_common_are_kept_if_asked():
    kept, new = (
        convert(flax_cell(bias_init=nnx.initializers.ones), "UR", keep, rngs=nnx.Rngs(5))
        for keep in (True, False)
    )
    kernel = flax_cell().dense_i.kernel[...]
    slots = kept._cell.split(kept.params["weight_ih"].T)
    for number, slot in ((1, "forget"), (2, "candidate"), (3, "output")):
        assert np.array_equal(slots[slot], kernel[:, 4 * number : 4 * number + 4])
    fresh = new._cell.split(new.params["weight_ih"].T)
    assert np.array_equal(slots["refine"], fresh["refine"])
    assert not np.array_equal(slots["forget"], fresh["forget"])
    assert not np.all(new.params["bias"] == kept.params["bias"])


def test_settings_are_kept():
    cell = flax_cell(nnx.GRUCell, dtype=jnp.bfloat16, param_dtype=jnp.float16)
    new = convert(nnx.RNN(cell, unroll=2, time_major=True))
    assert (new.unroll, new.time_major, new.cell.dtype) == (2, True, jnp.bfloat16)
    assert new.cell.weight_hh[...].dtype == jnp.float16


class Peephole(nnx.LSTMCell):
    pass


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        (lambda: flax_cell(Peephole), TypeError, "cell is a Peephole, a subclass of flax's cell"),
        (lambda: flax_cell(gate_fn=nnx.relu), ValueError, "gate_fn must stay sigmoid"),
        (lambda: flax_cell(kernel_metadata={"note": 1}), TypeError, r"metadata \(note\)"),
    ],
)
def test_what_may_compute_something_else_is_refused_and_nothing_replaced(cell, error, message):
    model = nnx.List([nnx.RNN(flax_cell()), nnx.RNN(cell())])
    with pytest.raises(error, match=message):
        convert(model)
    assert type(model[0].cell) is nnx.OptimizedLSTMCell


def test_a_model_without_cells_is_warned_of():
    with pytest.warns(UserWarning, match="convert replaced nothing"):
        convert(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
