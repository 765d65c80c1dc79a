"""Images read pixel by pixel: handwritten digits, MNIST, CIFAR-10 (Section 3.2)."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, ModelSpec
from gatecore.tasks.problems.base import Scores, Stream, Task, generator
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.pixels.images import CLASSES, Images, cifar10, mnist

_HELD = {"mnist": 6, "cifar10": 10}  # one training image in so many, the last ones, validates
_BATCH = 50  # of the paper
_EPOCHS = {"digits": 150, "mnist": 150, "cifar10": 100}
_WIDE = {"digits": 1024, "mnist": 1024, "cifar10": 2048}  # units, Table 3
_SIZES = {"mnist": 50_000, "cifar10": 45_000}  # training images
_QUICK = dict(
    hidden_size=128, batch_size=64, learning_rate=2e-3, steps=800, evaluate_every=100, judged=1000,
)  # fmt: skip


class Pixels(Task):
    """Classify an image from its pixels, read one per step in rows from the top left.

    The embedded data are scikit-learn's 1797 digits: 8 x 8 pixels in 0..16, scaled to [0, 1], so
    sequences of 64. Of each class, in the order of the file, every 20 images give 14 to training, 3
    to validation and 3 to test: a fixed, stratified split (ours). ``data=mnist`` with
    ``path=FOLDER`` reads MNIST's IDX files, plain or .gz (sequences of 784), ``data=cifar10`` the
    batches of CIFAR-10, binary or Python version (sequences of 1024, three channels); their last
    sixth, or tenth, of the training images is for validation (ours). With ``permute`` step t reads
    pixel p[t] of the bit-reversal permutation p, by which neighbours come far apart.

    The paper does not state, and we infer: the class is read from the last step alone, through the
    ReLU layer of 256; p is used as a gather; the gradient is clipped by its global norm. Epochs
    follow one another without a gap, each in an order drawn from the seed and its number; a batch
    may straddle two. ``paper`` is the model and protocol of the paper's Table 2 (512 units, batch
    50, 150 epochs; 100 of CIFAR-10), ``table3`` that of Table 3 (1024 units; 2048 for CIFAR-10),
    ``table3-zoneout`` the same with its zoneout (0.5 and 0.05 for an LSTM, 0.1 else) and dropout of
    0.5 on the ReLU layer; their rate, of those it tried, is ours. ``quick`` is ours: on MNIST and
    CIFAR-10 one epoch of 51,200 images, judged on a thousand.
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
        "table3": dict(
            batch_size=_BATCH, learning_rate=1e-3, evaluate_every=50, checkpoint_every=200,
        ),
        "table3-zoneout": dict(
            batch_size=_BATCH, learning_rate=1e-3, evaluate_every=50, checkpoint_every=200,
            dropout=0.5,
        ),
    }  # fmt: skip

    data: Literal["digits", "mnist", "cifar10"] = "digits"
    path: str | None = Field(None, description="folder of the files of mnist or cifar10")
    permute: bool = Field(False, description="read the pixels in bit-reversed order")
    judged: int | None = Field(
        None, ge=1, description="images of validation and of test, the first ones; null: all"
    )

    @model_validator(mode="after")
    def _path_fits(self) -> Self:
        if (self.data == "digits") != (self.path is None):
            wanted = "no path" if self.data == "digits" else "a path, the folder of its files"
            raise ValueError(f"data={self.data!r} needs {wanted}, got path={self.path!r}")
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """As its table has it, with what depends on data and core."""
        values = dict(cls.presets[name])
        data = settings.get("data", "digits")
        if data not in _EPOCHS:
            return values  # it will be refused
        if name.startswith("table3"):
            values["hidden_size"] = _WIDE[data]
            values["steps"] = 3800
        if name == "table3-zoneout":
            lstm = settings.get("core", "lstm") == "lstm"
            values["zoneout"] = (0.5, 0.05) if lstm else (0.0, 0.1)
        if data != "digits" and name == "quick":
            values |= _QUICK
        elif data != "digits":
            epoch = _SIZES[data] // _BATCH
            values |= dict(steps=_EPOCHS[data] * epoch, evaluate_every=epoch, checkpoint_every=200)
        return values

    @property
    def title(self) -> str:
        names = {"digits": "Digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}
        return f"{names[self.data]}, pixel by pixel" + (", bit-reversed" if self.permute else "")

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(
            input="dense", input_size=3 if self.data == "cifar10" else 1, output_size=CLASSES,
            head=(256,), read=1, loss="cross_entropy", **model,
        )  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        images = self.images(Stream.TRAIN)
        return _batch(images, _epochs(len(images.labels), seed, step * size, (step + 1) * size))

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Batch]:
        """The seed has no part in it: the split is fixed."""
        images = self.images(stream)
        starts = range(0, len(images.labels), size)
        return [_batch(images, slice(start, start + size)) for start in starts]

    def images(self, stream: Stream) -> Images:
        """One part of the split, in the order in which its pixels are read."""
        if self.path is None:
            images = _split(stream, self.permute)
        else:
            images = _files(self.data, self.path, self.permute)[stream]
        if stream is Stream.TRAIN or self.judged is None:
            return images
        return Images(*(part[: self.judged] for part in images))

    def baselines(self) -> dict[str, Scores]:
        """Guesses from the classes' frequency alone, and from the last pixel alone."""
        train, test = self.images(Stream.TRAIN), self.images(Stream.TEST)
        seen, asked = (_levels(part.pixels[:, -1]) for part in (train, test))
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


def _batch(images: Images, chosen: np.ndarray | slice) -> Batch:
    """Inputs (steps, chosen, channels), float32 in [0, 1], and targets (1, chosen)."""
    inputs = np.ascontiguousarray(_scaled(images.pixels[chosen]).swapaxes(0, 1))
    return Batch(inputs, images.labels[chosen][None])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels


def _levels(pixels: np.ndarray) -> np.ndarray:
    """The brightness of pixels (images, channels), of 17 levels a channel, as one number."""
    levels = np.round(16 * _scaled(pixels)).astype(int)
    return levels @ 17 ** np.arange(levels.shape[1])


@functools.cache
def _split(stream: Stream, permute: bool) -> Images:
    from sklearn.datasets import load_digits  # takes a second to import

    data, labels = load_digits(return_X_y=True)
    mine = _part(labels) == stream
    order = bit_reversal(data.shape[1]) if permute else slice(None)
    return Images((data[mine][:, order, None] / 16).astype(np.float32), labels[mine])


@functools.lru_cache(maxsize=2)
def _files(data: str, path: str, permute: bool) -> dict[Stream, Images]:
    """The three parts of MNIST or CIFAR-10; the training images' last ones are for validation."""
    train, test = _read(data, path)
    if permute:
        order = bit_reversal(train.pixels.shape[1])
        train, test = (Images(part.pixels[:, order], part.labels) for part in (train, test))
    held = len(train.labels) // _HELD[data]
    if not held:
        raise DataError(path, f"{len(train.labels)} training images", f"{_HELD[data]} or more")
    return {
        Stream.TRAIN: Images(*(part[:-held] for part in train)),
        Stream.VALIDATION: Images(*(part[-held:] for part in train)),
        Stream.TEST: test,
    }


@functools.lru_cache(maxsize=1)
def _read(data: str, path: str) -> tuple[Images, Images]:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(folder, "no such folder", f"the folder of the {data} files")
    return {"mnist": mnist, "cifar10": cifar10}[data](folder)


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
