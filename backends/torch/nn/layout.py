"""The layouts of a layer's input, and the conversions to (time, batch, features) and back.

``Dense`` and ``Packed`` have the same attributes and methods:

data : Tensor
    The input as torch's checks take it.
x : Tensor (time, batch, features)
batch_sizes : Tensor or None
    Those of a packed sequence.
lengths : Lengths or None
    None where all sequences have the same length.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatecore.backends.torch.nn.packed import Lengths

Tensors = tuple[Tensor, ...]


class Dense:
    """A tensor (time, batch, features), (batch, time, features) or (time, features)."""

    batch_sizes = lengths = None

    def __init__(self, input: Tensor, batch_first: bool) -> None:
        self._batched, self._batch_first = input.dim() == 3, batch_first
        self.data = input if self._batched else input.unsqueeze(0 if batch_first else 1)
        self.x = self.time_first(input)

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
        """Initial states as (layers, batch, width).

        Raises
        ------
        RuntimeError
            They have a batch axis and the input has none, or the reverse; in torch's words.
        """
        expected, kind = (3, "batched") if self._batched else (2, "unbatched")
        dims = [f"{part.dim()}-D" for part in parts]
        if any(part.dim() != expected for part in parts):
            pair = len(parts) > 1
            raise RuntimeError(
                f"For {kind} {expected}-D input, {'hx and cx' if pair else 'hx'} should also be "
                f"{expected}-D but got "
                + (f"({', '.join(dims)}) tensors" if pair else f"{dims[0]} tensor")
            )
        return parts if self._batched else tuple(part.unsqueeze(1) for part in parts)

    def restore_states(self, parts: Tensors) -> Tensors:
        """The inverse of :meth:`states`."""
        return parts if self._batched else tuple(part.squeeze(1) for part in parts)


class Packed:
    """A PackedSequence, padded; along the batch the longest sequence is the first."""

    def __init__(self, input: PackedSequence) -> None:
        self._input = input
        self.data, self.batch_sizes = input.data, input.batch_sizes
        self.x, self.lengths = Lengths.unpack(input)

    def time_first(self, packed: PackedSequence) -> Tensor:
        """Another sequence packed in the same way as (time, batch, ...)."""
        return Lengths.unpack(packed)[0]

    def restore(self, padded: Tensor) -> PackedSequence:
        """The inverse of :meth:`time_first`."""
        return self.lengths.pack(padded, self._input)

    def resets(self, resets: Tensor) -> Tensor:
        """Resets (time, batch), in the batch's order before packing, in the order of ``x``."""
        shape = tuple(self.x.shape[:2])
        return _permute(_checked_resets(resets, shape), self._input.sorted_indices)

    def states(self, parts: Tensors) -> Tensors:
        """States (layers, batch, width) in the order of ``x``."""
        return tuple(_permute(part, self._input.sorted_indices) for part in parts)

    def restore_states(self, parts: Tensors) -> Tensors:
        """The inverse of :meth:`states`."""
        return tuple(_permute(part, self._input.unsorted_indices) for part in parts)


def _permute(tensor: Tensor, order: Tensor | None) -> Tensor:
    return tensor if order is None else tensor.index_select(1, order)


def _checked_resets(resets: Tensor, shape: tuple[int, ...]) -> Tensor:
    if resets.dtype != torch.bool or tuple(resets.shape) != shape:
        raise ValueError(
            f"resets must be torch.bool of shape {shape}, got {resets.dtype} of shape "
            f"{tuple(resets.shape)}: lay it out as the input, and convert it with resets.bool()"
        )
    return resets
