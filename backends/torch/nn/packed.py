"""Sequences of different lengths in one batch, and reversed time."""

import dataclasses

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

    def reverse(self, padded: Tensor) -> Tensor:
        """Each sequence in reversed order within its length. Its own inverse."""
        index = torch.where(self.valid(), self.index - 1 - self.steps, self.steps)
        if padded.dim() == 3:
            index = index.unsqueeze(-1).expand_as(padded)
        return padded.gather(0, index)

    def last(self, padded: Tensor) -> Tensor:
        """The values (1, batch, width) at each sequence's last step."""
        index = (self.index - 1).view(1, -1, 1).expand(1, *padded.shape[1:])
        return padded.gather(0, index)


def reverse(x: Tensor, lengths: Lengths | None) -> Tensor:
    """x (time, batch, ...) in reversed time; the sequences' lengths are None if all are equal."""
    return x.flip(0) if lengths is None else lengths.reverse(x)


def reverse_resets(resets: Tensor, lengths: Lengths | None) -> Tensor:
    """Resets of the reversed direction: those before step t come after it in reversed time."""
    end = torch.zeros_like(resets[:1])
    reversed_ = reverse(torch.cat([resets[1:], end]), lengths)
    return torch.cat([end, reversed_[1:]])
