"""Keras' own test of a layer, which builds, calls, traces, trains and saves it."""

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from gatecore.backends.keras import (
    GRU,
    LSTM,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    Minimal,
    MinimalCell,
)


def check(kind, settings, **expected):
    TestCase().run_layer_test(
        kind, init_kwargs={"units": 3, **settings}, input_shape=(3, 2, 4), supports_masking=True,
        expected_num_trainable_weights=2 if kind is MinGRU else 3, **expected,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal, MinGRU])
def test_a_layer_with_dropout(kind):
    check(kind, {"dropout": 0.5}, call_kwargs={"training": True}, expected_output_shape=(3, 3),
          expected_num_non_trainable_weights=1, expected_num_seed_generators=1)  # fmt: skip


def test_a_layer_with_recurrent_dropout():
    check(Minimal, {"dropout": 0.5, "recurrent_dropout": 0.5}, call_kwargs={"training": True},
          expected_output_shape=(3, 3), expected_num_non_trainable_weights=1)  # fmt: skip


def test_a_layer_that_returns_sequences_and_regularizes():
    regularizers = {f"{weight}_regularizer": "l2" for weight in ("kernel", "recurrent", "bias")}
    check(GRU, {"return_sequences": True, "mechanism": "OM", **regularizers},
          expected_output_shape=(3, 2, 3), expected_num_losses=3)  # fmt: skip


def test_a_standard_layer_has_the_weights_of_keras_own():
    check(LSTM, {"mechanism": "standard"}, expected_num_non_trainable_weights=0)


def test_a_stack_of_cells_slow_on_jax():
    cells = [LSTMCell(3, dropout=0.2, recurrent_dropout=0.2), GRUCell(4, "OR"), MinimalCell(5)]
    TestCase().run_layer_test(
        keras.layers.RNN, init_kwargs={"cell": cells}, input_shape=(3, 2, 4),
        call_kwargs={"training": True}, expected_output_shape=(3, 5),
        expected_num_trainable_weights=9, expected_num_non_trainable_weights=3,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "states"), [(LSTMCell, 2), (GRUCell, 1), (MinimalCell, 1),
                                              (MinGRUCell, 1)])  # fmt: skip
def test_a_cell(kind, states):
    states = [np.ones((2, 3), "float32")] * states
    TestCase().run_layer_test(
        kind, init_kwargs={"units": 3}, input_shape=(2, 4), call_kwargs={"states": states},
        expected_num_trainable_weights=2 if kind is MinGRUCell else 3,
        # both call the cell without its states
        run_training_check=False, run_mixed_precision_check=False,
    )  # fmt: skip


def test_a_layer_in_both_directions():
    TestCase().run_layer_test(
        keras.layers.Bidirectional, init_kwargs={"layer": LSTM(4)}, input_shape=(3, 2, 4),
        expected_output_shape=(3, 8), expected_num_non_trainable_weights=2,
    )  # fmt: skip


def test_a_layer_distributed_over_time_slow_on_jax():
    TestCase().run_layer_test(
        keras.layers.TimeDistributed, init_kwargs={"layer": GRU(4)}, input_shape=(3, 2, 5, 4),
        expected_output_shape=(3, 2, 4),
        run_mixed_precision_check=False,  # the layer inside keeps its policy
    )  # fmt: skip
