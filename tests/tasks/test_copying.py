"""Copy: ten symbols, N blanks, ten cues, at which the ten answers are scored."""

import math

import numpy as np
import pytest

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.copying import Copying


@pytest.fixture(scope="module")
def batch():
    return Copying(length=13).batch(seed=5, step=2, size=400)


def test_a_sequence_is_ten_symbols_then_n_zeros_then_ten_nines(batch):
    for sequence, answer in zip(batch.inputs.T.tolist(), batch.targets.T.tolist(), strict=True):
        assert len(sequence) == 13 + 20
        assert set(sequence[:10]) <= {1, 2, 3, 4, 5, 6, 7, 8}
        assert sequence[10:23] == [0] * 13
        assert sequence[23:] == [9] * 10
        assert answer == [symbol - 1 for symbol in sequence[:10]]


def test_symbols_are_uniform_at_every_position(batch):
    counts = np.array([np.bincount(place, minlength=8) for place in batch.targets])
    np.testing.assert_allclose(counts / 400, 1 / 8, atol=0.075)  # 4.5 standard deviations


def test_the_model_reads_the_ten_last_steps_of_one_hot_symbols():
    spec = Copying(length=13).spec(hidden_size=16, core="lstm", mechanism="UR")
    assert (spec.input, spec.input_size, spec.output_size, spec.read) == ("one_hot", 10, 8, 10)
    assert (spec.loss, spec.head) == ("cross_entropy", ())


def test_the_baseline_is_the_score_of_a_memoryless_predictor():
    """During the cues its input is always 9, so it can learn frequencies by position only."""
    task = Copying(length=1)
    seen = task.batch(seed=0, step=0, size=20_000).targets
    asked = task.held_out(Stream.TEST, seed=0, size=1024)[0].targets
    frequency = np.array([np.bincount(place, minlength=8) for place in seen]) / seen.shape[1]
    loss = -np.log(np.take_along_axis(frequency, asked, axis=1)).mean()
    accuracy = (frequency.argmax(axis=1)[:, None] == asked).mean()
    (scores,) = task.baselines().values()
    assert scores["loss"] == math.log(8) == pytest.approx(loss, abs=2e-3)
    assert scores["accuracy"] == 1 / 8 == pytest.approx(accuracy, abs=0.015)


def test_batches_are_a_function_of_seed_and_step_alone():
    task = Copying(length=4)
    first = [task.batch(7, step, 3).inputs for step in (0, 1, 2)]
    again = [task.batch(7, step, 3).inputs for step in (2, 0, 1)]
    for step, order in zip((2, 0, 1), again, strict=True):
        np.testing.assert_array_equal(first[step], order)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], task.batch(8, 0, 3).inputs)


def test_held_out_sets_have_their_size_and_share_nothing_with_training():
    task = Copying(length=4, validation_size=10, test_size=7)
    held = {stream: task.held_out(stream, seed=0, size=4) for stream in Stream if stream}
    assert [b.inputs.shape[1] for b in held[Stream.VALIDATION]] == [4, 4, 2]
    assert [b.inputs.shape[1] for b in held[Stream.TEST]] == [4, 3]
    everything = [task.batch(0, 0, 4), held[Stream.VALIDATION][0], held[Stream.TEST][0]]
    assert len({b.targets.tobytes() for b in everything}) == 3
