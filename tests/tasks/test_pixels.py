"""Digits read pixel by pixel: split, order, epochs, baselines."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.datasets import load_digits

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.pixels.task import Pixels, bit_reversal


@pytest.fixture(scope="module")
def digits():
    return load_digits()


def rows(images):
    """Each image as a hashable value, with its label."""
    return [(image.tobytes(), label) for image, label in zip(*images, strict=True)]


def test_the_split_is_stratified_complete_and_disjoint(digits):
    parts = {stream: Pixels().images(stream) for stream in Stream}
    everything = (digits.data[:, :, None] / 16).astype(np.float32)
    split = Counter(row for part in parts.values() for row in rows(part))
    assert split == Counter(rows((everything, digits.target)))
    whole = np.bincount(digits.target)
    shares = ((Stream.TRAIN, 0.7), (Stream.VALIDATION, 0.15), (Stream.TEST, 0.15))
    for stream, share in shares:
        counts = np.bincount(parts[stream].labels)
        np.testing.assert_allclose(counts, share * whole, atol=3)


def test_an_image_is_read_in_rows_from_the_top_left_scaled_to_one(digits):
    batch = Pixels().held_out(Stream.TEST, seed=0, size=1)[0]
    first_zero = digits.images[np.flatnonzero(digits.target == 0)[0]]
    expected = [first_zero[row, column] / 16 for row in range(8) for column in range(8)]
    assert batch.inputs.shape == (64, 1, 1)
    assert batch.inputs.dtype == np.float32
    np.testing.assert_array_equal(batch.inputs[:, 0, 0], expected)
    assert batch.targets.tolist() == [[0]]


def test_permuted_step_t_reads_the_pixel_whose_index_has_the_reversed_bits():
    plain, permuted = (
        Pixels(permute=permute).held_out(Stream.TEST, 0, 1000)[0] for permute in (False, True)
    )
    for step in range(64):
        source = int(format(step, "06b")[::-1], 2)
        np.testing.assert_array_equal(permuted.inputs[step], plain.inputs[source])
    np.testing.assert_array_equal(permuted.targets, plain.targets)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 100, 784, 1024])
def test_bit_reversal_is_the_reversed_numbers_below_n(n):
    bits = len(format(n - 1, "b")) if n > 1 else 0
    flipped = [int(format(i, f"0{bits}b")[::-1] or "0", 2) if bits else 0 for i in range(1 << bits)]
    np.testing.assert_array_equal(bit_reversal(n), [j for j in flipped if j < n])


def test_bit_reversal_of_784_is_a_permutation_but_no_involution():
    order = bit_reversal(784)
    assert order[:6].tolist() == [0, 512, 256, 768, 128, 640]
    np.testing.assert_array_equal(np.sort(order), np.arange(784))
    assert (order[order] != np.arange(784)).any()
    np.testing.assert_array_equal(bit_reversal(64)[bit_reversal(64)], np.arange(64))


def test_each_epoch_has_every_training_image_once_in_a_different_order():
    """Batches of 100 from 1261 images straddle epochs; 1261 batches are exactly 100 epochs."""
    task = Pixels()
    train = task.images(Stream.TRAIN)
    count = len(train.labels)
    images = []
    for step in range(-(-3 * count // 100)):
        batch = task.batch(seed=3, step=step, size=100)
        images += rows((batch.inputs.swapaxes(0, 1), batch.targets[0]))
    epochs = [images[k * count : (k + 1) * count] for k in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(rows(train))
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_may_be_larger_than_the_training_set():
    assert Pixels().batch(seed=0, step=0, size=3000).inputs.shape == (64, 3000, 1)


def test_the_seed_orders_training_data_and_leaves_held_out_data_alone():
    task = Pixels()
    assert not np.array_equal(task.batch(0, 0, 50).inputs, task.batch(1, 0, 50).inputs)
    for stream in (Stream.VALIDATION, Stream.TEST):
        for one, other in zip(*(task.held_out(stream, seed, 64) for seed in (0, 1)), strict=True):
            np.testing.assert_array_equal(one.inputs, other.inputs)


@pytest.mark.parametrize("permute", [False, True])
def test_the_baselines_are_the_scores_of_memoryless_predictors(permute):
    """A dictionary from the last pixel to its commonest class, and the commonest class of all."""
    task = Pixels(permute=permute)
    train, test = task.images(Stream.TRAIN), task.images(Stream.TEST)
    votes = defaultdict(Counter)
    for image, label in zip(*train, strict=True):
        votes[image[-1, 0]][label] += 1
    overall = Counter(train.labels)
    right = {"most frequent class": 0, "last pixel alone": 0}
    for image, label in zip(*test, strict=True):
        right["most frequent class"] += overall.most_common(1)[0][0] == label
        labels = votes.get(image[-1, 0], Counter())
        best = max(range(10), key=lambda c: (labels[c], -c))
        right["last pixel alone"] += best == label
    scores = task.baselines()
    for name, hits in right.items():
        assert scores[name]["accuracy"] == pytest.approx(hits / len(test.labels), abs=1e-12)
        assert 2.2 < scores[name]["loss"] < np.log(10) + 0.02
