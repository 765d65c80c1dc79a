"""Images read pixel by pixel: here scikit-learn's handwritten digits (Section 3.2)."""

import functools
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from gatecore import Batch, ModelSpec
from gatecore.tasks.task import Scores, Stream, Task, generator

CLASSES = 10


class Images(NamedTuple):
    """``pixels`` (images, steps, channels), float32 in [0, 1]; ``labels`` (images,) in 0..9."""

    pixels: np.ndarray
    labels: np.ndarray

    def batch(self, chosen: np.ndarray | slice) -> Batch:
        """Inputs (steps, chosen, channels) and targets (1, chosen)."""
        inputs = np.ascontiguousarray(self.pixels[chosen].swapaxes(0, 1))
        return Batch(inputs, self.labels[chosen][None])


class Pixels(Task):
    """Classify an image from its pixels, read one per step in rows from the top left.

    The embedded data are scikit-learn's 1797 digits: 8 x 8 pixels in 0..16, scaled to [0, 1], so
    sequences of 64. Of each class, in the order of the file, every 20 images give 14 to training, 3
    to validation and 3 to test: a fixed, stratified split (ours). With ``permute`` step t reads
    pixel p[t] of the bit-reversal permutation p, by which neighbours come far apart.

    The paper does not state, and we infer: the class is read from the last step alone, through the
    ReLU layer of 256; p is used as a gather; the gradient is clipped by its global norm. Epochs
    follow one another without a gap, each in an order drawn from the seed and its number; a batch
    may straddle two. ``paper`` is the paper's model and protocol (512 units, batch 50, 150 epochs)
    on these digits; ``quick`` is ours.
    """

    name: ClassVar = "pixels"
    score: ClassVar = "accuracy"
    presets: ClassVar = {
        "quick": dict(
            hidden_size=128, batch_size=64, learning_rate=2e-3, steps=600,
            evaluate_every=30, checkpoint_every=150, threads=1,
        ),
        "paper": dict(
            hidden_size=512, batch_size=50, learning_rate=1e-3, steps=3800,
            evaluate_every=50, checkpoint_every=200,
        ),
    }  # fmt: skip

    permute: bool = Field(False, description="read the pixels in bit-reversed order")

    @property
    def title(self) -> str:
        return "Digits, pixel by pixel" + (", bit-reversed" if self.permute else "")

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(
            input="dense", input_size=1, output_size=CLASSES, head=(256,), read=1,
            loss="cross_entropy", **model,
        )  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        images = self.images(Stream.TRAIN)
        return images.batch(_epochs(len(images.labels), seed, step * size, (step + 1) * size))

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Batch]:
        """The seed has no part in it: the split is fixed."""
        images = self.images(stream)
        starts = range(0, len(images.labels), size)
        return [images.batch(slice(start, start + size)) for start in starts]

    def images(self, stream: Stream) -> Images:
        """One part of the split, in the order in which its pixels are read."""
        return _split(stream, self.permute)

    def baselines(self) -> dict[str, Scores]:
        """Guesses from the classes' frequency alone, and from the last pixel alone."""
        train, test = self.images(Stream.TRAIN), self.images(Stream.TEST)
        seen, asked = (np.round(16 * part.pixels[:, -1, 0]).astype(int) for part in (train, test))
        labels = train.labels, test.labels
        return {
            "most frequent class": _lookup(0 * seen, 0 * asked, *labels),
            "last pixel alone": _lookup(seen, asked, *labels),
        }


def bit_reversal(n: int) -> np.ndarray:
    """The bit-reversal permutation of n indices (Appendix D.5), for any n ≥ 1.

    The m = ⌈log₂ n⌉ bits of 0..2^m − 1 are reversed and the results below n kept, in that order.
    Where n is no power of two it is not its own inverse.

    Examples
    --------
    >>> bit_reversal(6)
    array([0, 4, 2, 1, 5, 3])
    """
    bits = (n - 1).bit_length()
    index = np.arange(1 << bits)
    flipped = np.zeros_like(index)
    for k in range(bits):
        flipped |= (index >> k & 1) << (bits - 1 - k)
    return flipped[flipped < n]


@functools.cache
def _split(stream: Stream, permute: bool) -> Images:
    from sklearn.datasets import load_digits  # takes a second to import

    data, labels = load_digits(return_X_y=True)
    mine = _part(labels) == stream
    order = bit_reversal(data.shape[1]) if permute else slice(None)
    return Images((data[mine][:, order, None] / 16).astype(np.float32), labels[mine])


def _part(labels: np.ndarray) -> np.ndarray:
    """The stream of each image, by its rank within its class."""
    rank = np.empty_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members)) % 20
    return np.select([rank < 3, rank < 6], [Stream.TEST, Stream.VALIDATION], Stream.TRAIN)


def _epochs(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Entries start..stop of the endless sequence of shuffled epochs of ``count`` images."""
    epochs = range(start // count, (stop - 1) // count + 1)
    order = [generator(seed, Stream.TRAIN, epoch).permutation(count) for epoch in epochs]
    return np.concatenate(order)[start - epochs[0] * count : stop - epochs[0] * count]


def _lookup(seen: np.ndarray, asked: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> Scores:
    """Scores on (asked, truth) of the class frequencies, add-one, of each value seen."""
    counts = np.ones((max(seen.max(), asked.max()) + 1, CLASSES))
    np.add.at(counts, (seen, labels), 1)
    guess = counts[asked] / counts[asked].sum(axis=1, keepdims=True)
    loss = -np.log(guess[np.arange(len(truth)), truth]).mean()
    return {"loss": float(loss), "accuracy": float((guess.argmax(axis=1) == truth).mean())}
