"""The layouts of a layer's input, and the conversions to (time, batch, features) and back.

``Dense`` and ``Packed`` have the same methods, and the attributes

data : Tensor
    The input as torch's checks take it.
x : Tensor (time, batch, features)
batch_sizes, lengths
    Those of packed sequences, else None.
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
            raise RuntimeError(
                f"For {kind} {expected}-D input, {names} should also be {expected}-D but got {got}"
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
        raise ValueError(
            f"resets must be torch.bool of shape {shape}, got {resets.dtype} of shape "
            f"{tuple(resets.shape)}: lay it out as the input, and convert it with resets.bool()"
        )
    return resets
