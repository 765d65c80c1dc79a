"""Packed sequences as padded ones, and reversed directions."""

import dataclasses

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The lengths of the sequences in a padded batch (time, batch, ...), longest first."""

    lengths: Tensor  # (batch,) on the CPU, as torch packs them
    index: Tensor  # (batch,) the same where the data are
    steps: Tensor  # (time, 1)

    @classmethod
    def unpack(cls, packed: PackedSequence) -> tuple[Tensor, "Lengths"]:
        """Padded data in the order in which they are sorted, and their lengths."""
        padded, lengths = pad_packed_sequence(PackedSequence(packed.data, packed.batch_sizes))
        steps = torch.arange(len(packed.batch_sizes), device=padded.device).unsqueeze(1)
        return padded, cls(lengths, lengths.to(padded.device), steps)

    def pack(self, padded: Tensor, like: PackedSequence) -> PackedSequence:
        """The inverse, with the sorting of ``like``."""
        data = pack_padded_sequence(padded, self.lengths).data
        return PackedSequence(data, like.batch_sizes, like.sorted_indices, like.unsorted_indices)

    def reverse(self, padded: Tensor) -> Tensor:
        """Each sequence backwards within its length; its own inverse."""
        index = torch.where(self.steps < self.index, self.index - 1 - self.steps, self.steps)
        if padded.dim() == 3:
            index = index.unsqueeze(-1).expand_as(padded)
        return padded.gather(0, index)

    def last(self, padded: Tensor) -> Tensor:
        """The values (1, batch, width) at each sequence's last step."""
        index = (self.index - 1).view(1, -1, 1).expand(1, *padded.shape[1:])
        return padded.gather(0, index)


def reverse(x: Tensor, lengths: Lengths | None) -> Tensor:
    """Time backwards."""
    return x.flip(0) if lengths is None else lengths.reverse(x)


def reverse_resets(resets: Tensor, lengths: Lengths | None) -> Tensor:
    """Resets for the reversed direction: a boundary before step t lies behind step t going back."""
    end = torch.zeros_like(resets[:1])
    backwards = reverse(torch.cat([resets[1:], end]), lengths)
    return torch.cat([end, backwards[1:]])
