"""Images read pixel by pixel: handwritten digits, MNIST, CIFAR-10 (Section 3.2)."""

import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from gatecore import Batch, ModelSpec
from gatecore._checks import Acts
from gatecore.permutation import bit_reversal
from gatecore.tasks.problems.base import Scores, Size, Stream, Task, frequency_scores, generator
from gatecore.tasks.problems.data_files import DataError, check_path
from gatecore.tasks.problems.pixels import image_files
from gatecore.tasks.problems.pixels.image_files import CLASSES, KNOWN, Images, cifar10, mnist

_BATCH = 50  # of the paper
_TABLE_3 = dict(batch_size=_BATCH, learning_rate=1e-3, steps=3800, evaluate_every=50,
                checkpoint_every=200)  # fmt: skip
_ZONEOUT = {"lstm": (0.5, 0.05)}  # by core
_RATES = {"gru": 5e-4}  # by core: the larger of the paper's two for a GRU; higher ones are unstable
_SHARES = {("standard", "lstm"): 2}  # of Table 3's units: its LSTM baseline has half of them
_QUICK = dict(hidden_size=128, batch_size=64, learning_rate=2e-3, steps=800, evaluate_every=100,
              judged=1000)  # fmt: skip


class _Dataset(NamedTuple):
    """A data set and the paper's protocol for it."""

    channels: int = 1
    hidden_size: int = 1024  # Table 3
    epochs: int = 150
    training_size: int = 50_000
    validation_share: int = 6  # one of so many training images, from the end, is for validation
    read: Callable[[Path], tuple[Images, Images]] = mnist


_DATASETS = {"digits": _Dataset(), "mnist": _Dataset(),
             "cifar10": _Dataset(3, 2048, 100, 45_000, 10, cifar10)}  # fmt: skip


class Pixels(Task):
    """Classify an image from its pixels, read one per step, row by row from the top left.

    ``data`` is ``digits`` (scikit-learn's 1797 images of 8 × 8 pixels, embedded), ``mnist`` or
    ``cifar10``, with the folder of their files as ``path``. With ``permute`` step t reads pixel
    p[t] of the bit-reversal permutation p. Inputs are (784, size, 1) for MNIST, (1024, size, 3) for
    CIFAR-10 and (64, size, 1) for the digits, in [0, 1].

    ``paper`` is the protocol of Table 2, ``table3`` that of Table 3, ``table3-zoneout`` the same
    with zoneout and dropout; the learning rate, among those the paper tried, is ours. The paper
    does not state, and we infer: the class is read from the last step only, through the ReLU layer
    of 256; p is a gather; clipping by the gradient's global norm. Ours are ``quick``, the digits
    and their split (14:3:3 of each class), the validation set (the last sixth of MNIST's training
    images, the last tenth of CIFAR-10's), and that a batch may straddle two epochs. A missing or
    damaged file raises DataError when data are first read. The title and the paper's values beside
    a result follow the digest of the files, ``content``: Fashion-MNIST has MNIST's format, too.

    >>> batch = Pixels(permute=True).batch(seed=0, step=0, size=5)
    >>> batch.inputs.shape, batch.targets.shape
    ((64, 5, 1), (1, 5))
    """

    name: ClassVar = "pixels"
    score: ClassVar = "accuracy"
    presets: ClassVar = {
        "quick": dict(hidden_size=128, batch_size=64, learning_rate=2e-3, steps=600,
                      evaluate_every=30, checkpoint_every=150, threads=1),
        "paper": dict(hidden_size=512, batch_size=50, learning_rate=1e-3, steps=3800,
                      evaluate_every=50, checkpoint_every=200),
        "table3": _TABLE_3,
        "table3-zoneout": dict(_TABLE_3, dropout=0.5)}  # fmt: skip

    _acts: ClassVar[Acts] = {"content": (lambda task: task.path, "its images are in no files")}

    data: Literal["digits", "mnist", "cifar10"] = Field(
        "digits", description="images; mnist and cifar10 need a path"
    )
    path: str | None = Field(None, description="folder with the files of mnist or cifar10")
    permute: bool = Field(False, description="read the pixels in bit-reversed order")
    judged: Size | None = Field(None, description="number of validation and of test images, "
                                "from the first; null: all")  # fmt: skip
    content: str = Field("", description="identifies the files; determined from them")

    @model_validator(mode="after")
    def _identify_images(self) -> Self:
        check_path(self.data, "digits", self.path)
        if self.path is not None and not self.content:
            with contextlib.suppress(DataError):  # a run reports it
                object.__setattr__(self, "content", _digest(self.data, self.path))
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset's values; sizes depend on data and gates, rate and zoneout on the core."""
        values = dict(cls.presets[name])
        data, core = settings.get("data", "digits"), settings.get("core", "lstm")
        if name != "quick":
            values["learning_rate"] = _RATES.get(core, values["learning_rate"])
        if (dataset := _DATASETS.get(data)) is None:
            return values  # the task refuses it
        if name.startswith("table3"):
            share = _SHARES.get((settings.get("mechanism", ""), core), 1)
            values["hidden_size"] = dataset.hidden_size // share
        if name == "table3-zoneout":
            values["zoneout"] = _ZONEOUT.get(core, (0.0, 0.1))
        if data != "digits" and name == "quick":
            values |= _QUICK
        elif data != "digits":
            epoch = dataset.training_size // _BATCH
            values |= dict(steps=dataset.epochs * epoch, evaluate_every=epoch, checkpoint_every=200)
        return values

    @property
    def title(self) -> str:
        order, folder = ", bit-reversed" if self.permute else "", Path(self.path or "").name
        return f"{self.known or f'Images of {folder}'}, pixel by pixel{order}"

    @property
    def known(self) -> str | None:
        """The name of the data set, by the digest of its files."""
        return "Digits" if self.path is None else KNOWN.get(self.content)

    def spec(self, **model: Any) -> ModelSpec:
        channels = _DATASETS[self.data].channels
        return ModelSpec(input="dense", input_size=channels, output_size=CLASSES, head=(256,),
                         read=1, loss="cross_entropy", **model)  # fmt: skip

    def batch(self, seed: int, step: int, size: int) -> Batch:
        images = self.images(Stream.TRAIN)
        return _batch(images, _epochs(len(images.labels), seed, step * size, (step + 1) * size))

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Batch]:
        """The fixed split, the same for every seed."""
        images = self.images(stream)
        starts = range(0, len(images.labels), size)
        return [_batch(images, slice(start, start + size)) for start in starts]

    def images(self, stream: Stream) -> Images:
        """The images of a split, with pixels in the order in which they are read."""
        images = _splits(self.data, self.path, self.permute)[stream]
        if self.path is not None and self.content != (found := _digest(self.data, self.path)):
            raise DataError(self.path, f"files of the digest {found}", f"{self.content}, of those "
                            "that this run was made for; start another run")  # fmt: skip
        count = None if stream is Stream.TRAIN else self.judged
        return Images(*(part[:count] for part in images))

    def baselines(self) -> dict[str, Scores]:
        """Class frequencies, and those given the last pixel, in 17 levels a channel."""
        train, test = self.images(Stream.TRAIN), self.images(Stream.TEST)
        levels = [np.round(16 * _scaled(part.pixels[:, -1])).astype(int) for part in (train, test)]
        pixels = [level @ 17 ** np.arange(level.shape[1]) for level in levels]  # one integer each
        labels = train.labels, test.labels
        contexts = {"most frequent class": [0 * p for p in pixels], "last pixel alone": pixels}
        return {name: frequency_scores(zip(parts, labels, strict=True), CLASSES)
                for name, parts in contexts.items()}  # fmt: skip


def _batch(images: Images, chosen: np.ndarray | slice) -> Batch:
    """Inputs (steps, chosen, channels), float32 in [0, 1], and targets (1, chosen)."""
    inputs = np.ascontiguousarray(_scaled(images.pixels[chosen]).swapaxes(0, 1))
    return Batch(inputs, images.labels[chosen][None])


def _scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels / np.float32(255) if pixels.dtype == np.uint8 else pixels


@functools.lru_cache(maxsize=4)
def _splits(data: str, path: str | None, permute: bool) -> dict[Stream, Images]:
    splits = _digits() if path is None else _files(data, path)
    if not permute:
        return splits
    order = bit_reversal(splits[Stream.TRAIN].pixels.shape[1])
    return {key: Images(part.pixels[:, order], part.labels) for key, part in splits.items()}


def _digits() -> dict[Stream, Images]:
    """The digits, split by the rank of each image within its class."""
    from sklearn.datasets import load_digits  # takes a second to import

    data, labels = load_digits(return_X_y=True)
    pixels, rank = (data[..., None] / 16).astype(np.float32), np.empty_like(labels)
    for label in np.unique(labels):
        rank[labels == label] = np.arange(np.sum(labels == label)) % 20
    stream = np.select([rank < 3, rank < 6], [Stream.TEST, Stream.VALIDATION], Stream.TRAIN)
    return {key: Images(pixels[stream == key], labels[stream == key]) for key in Stream}


@functools.lru_cache(maxsize=4)
def _digest(data: str, path: str) -> str:
    return image_files.digest(data, Path(os.path.expanduser(path)))


@functools.lru_cache(maxsize=1)
def _files(data: str, path: str) -> dict[Stream, Images]:
    """The splits of MNIST or CIFAR-10."""
    folder, dataset = Path(os.path.expanduser(path)), _DATASETS[data]
    if not folder.is_dir():
        raise DataError(folder, "no such folder", f"the folder of the {data} files")
    train, test = dataset.read(folder)
    share, count = dataset.validation_share, len(train.labels)
    if not (validation := count // share):
        raise DataError(path, f"{count} training images", f"{share} or more")
    return {Stream.TRAIN: Images(*(part[:-validation] for part in train)), Stream.TEST: test,
            Stream.VALIDATION: Images(*(part[-validation:] for part in train))}  # fmt: skip


def _epochs(count: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Entries start..stop-1 of the endless sequence of shuffled epochs of ``count`` images."""
    epochs = range(start // count, (stop - 1) // count + 1)
    order = [generator(seed, Stream.TRAIN, epoch).permutation(count) for epoch in epochs]
    return np.concatenate(order)[start - epochs[0] * count : stop - epochs[0] * count]
