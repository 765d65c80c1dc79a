"""The layouts of a layer's input: the conversions to (time, batch, features) and back.

``Dense`` and ``Packed`` have the same methods, and the attributes ``data``, the input as torch's
checks take it, ``x`` (time, batch, features), and ``batch_sizes`` and ``lengths``, None if dense.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gatecore.backends.torch.sequence.implementation import check_memory

Tensors = tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The lengths of the sequences of a padded batch (time, batch, ...), longest first."""

    cpu: Tensor  # (batch,), on the CPU, as torch packs them
    index: Tensor  # (batch,), the same on the device of the data
    steps: Tensor  # (time, 1), the number of each step

    @classmethod
    def unpack(cls, packed: PackedSequence) -> tuple[Tensor, "Lengths"]:
        """The padded data, sorted by length, and the lengths."""
        padded, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
        steps = torch.arange(len(packed.batch_sizes), device=padded.device).unsqueeze(1)
        return padded, cls(lengths, lengths.to(padded.device), steps)

    def pack(self, padded: Tensor, like: PackedSequence) -> PackedSequence:
        """The inverse of :meth:`unpack`, with the sorting of ``like``."""
        data = pack_padded_sequence(padded, self.cpu).data
        return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)

    def valid(self) -> Tensor:
        """Boolean (time, batch): whether a step is within its sequence."""
        return self.steps < self.index

    def last(self, padded: Tensor) -> Tensor:
        """The values (1, batch, width) at each sequence's last step."""
        index = (self.index - 1).view(1, -1, 1).expand(1, *padded.shape[1:])
        return padded.gather(0, index)


class Sequences(NamedTuple):
    """Where the sequences of a batch (time, batch, ...) begin and end."""

    resets: Tensor | None = None  # bool (time, batch): before these steps new sequences begin
    lengths: Lengths | None = None  # None where all are as long as the batch

    def reverse(self, x: Tensor) -> Tensor:
        """Each sequence in reversed time within its length. Its own inverse."""
        if self.lengths is None:
            return x.flip(0)
        steps, lengths = self.lengths.steps, self.lengths.index
        index = torch.where(self.lengths.valid(), lengths - 1 - steps, steps)
        return x.gather(0, index.unsqueeze(-1).expand_as(x) if x.dim() == 3 else index)

    def reversed(self) -> "Sequences":
        """The same in reversed time, where a reset before step t comes after it."""
        if self.resets is None:
            return self
        end = torch.zeros_like(self.resets[:1])
        after = self.reverse(torch.cat([self.resets[1:], end]))
        return self._replace(resets=torch.cat([end, after[1:]]))


class Dense:
    """A tensor (time, batch, features), (batch, time, features) or (time, features)."""

    batch_sizes = lengths = None

    def __init__(self, input: Tensor, batch_first: bool) -> None:
        self._batched, self._batch_first = input.dim() == 3, batch_first
        self.data = input if self._batched else input.unsqueeze(0 if batch_first else 1)
        self.x = self.data.transpose(0, 1) if batch_first else self.data

    def time_first(self, tensor: Tensor) -> Tensor:
        """A tensor in this layout as (time, batch, ...)."""
        if not self._batched:
            return tensor.unsqueeze(1)
        return tensor.transpose(0, 1) if self._batch_first else tensor

    def restore(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`time_first`."""
        if not self._batched:
            return tensor.squeeze(1)
        return tensor.transpose(0, 1) if self._batch_first else tensor

    def resets(self, resets: Tensor) -> Tensor:
        """Resets in this layout as (time, batch)."""
        shape = self.data.shape[:2] if self._batched else self.x.shape[:1]
        return self.time_first(_checked_resets(resets, tuple(shape)))

    def states(self, parts: Tensors) -> Tensors:
        """Initial states as (layers, batch, width), or torch's error for other axes."""
        expected, kind = (3, "batched") if self._batched else (2, "unbatched")
        dims = [f"{part.dim()}-D" for part in parts]
        if dims.count(f"{expected}-D") != len(dims):
            names, got = "hx", f"{dims[0]} tensor"
            if len(dims) > 1:
                names, got = "hx and cx", f"({', '.join(dims)}) tensors"
            raise RuntimeError(f"For {kind} {expected}-D input, {names} should also be "
                               f"{expected}-D but got {got}")  # fmt: skip
        return parts if self._batched else tuple(part.unsqueeze(1) for part in parts)

    def restore_states(self, parts: Tensors) -> Tensors:
        """The inverse of :meth:`states`."""
        return parts if self._batched else tuple(part.squeeze(1) for part in parts)


class Packed:
    """A PackedSequence, padded; along the batch the longest sequence is the first."""

    def __init__(self, input: PackedSequence) -> None:
        self._input = input
        check_memory(input=(input.data,))
        self.data, self.batch_sizes = input.data, input.batch_sizes
        self.x, self.lengths = Lengths.unpack(input)

    def time_first(self, packed: PackedSequence) -> Tensor:
        return Lengths.unpack(packed)[0]

    def restore(self, padded: Tensor) -> PackedSequence:
        return self.lengths.pack(padded, self._input)

    def resets(self, resets: Tensor) -> Tensor:
        """Resets (time, batch), in the batch's order before packing, in the order of ``x``."""
        checked = _checked_resets(resets, tuple(self.x.shape[:2]))
        return _permute(checked, self._input.sorted_indices)

    def states(self, parts: Tensors) -> Tensors:
        return tuple(_permute(part, self._input.sorted_indices) for part in parts)

    def restore_states(self, parts: Tensors) -> Tensors:
        return tuple(_permute(part, self._input.unsorted_indices) for part in parts)


def _permute(tensor: Tensor, order: Tensor | None) -> Tensor:
    return tensor if order is None else tensor.index_select(1, order)


def _checked_resets(resets: Tensor, shape: tuple[int, ...]) -> Tensor:
    if resets.dtype != torch.bool or tuple(resets.shape) != shape:
        raise ValueError(f"resets must be torch.bool of shape {shape}, got {resets.dtype} of shape "
                         f"{tuple(resets.shape)}: lay it out as the input, and convert it with "
                         "resets.bool()")  # fmt: skip
    return resets
