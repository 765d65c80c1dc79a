"""The sequences of a batch: their lengths, the resets between them, and reversed time."""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


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
    """Where the sequences of a batch (time, batch, ...) begin and end.

    resets : bool (time, batch), or None; new sequences begin before these steps
    lengths : Lengths, or None where all are as long as the batch
    """

    resets: Tensor | None = None
    lengths: Lengths | None = None

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
