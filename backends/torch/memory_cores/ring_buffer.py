"""A ring buffer that is written and read at every step, without copies and out of autograd.

Row t replaces row t mod S, so a memory of S rows holds the last S rows of the sequence, and zeros.
The rows of many steps lie in one array, in the order of writing; each step reads those before it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; zeros stay zeros."""
    return functional.normalize(vectors, dim=-1, eps=1e-6)


class RingBuffer:
    """The rows that are read and written in a number of steps, of ``like``'s dtype and device.

    ``memory`` (batch, slots, width) holds the ``written`` (batch,) former rows, row k of a sequence
    in slot k mod ``slots``; None: there are none. Before ``resets`` (steps, batch) all rows become
    zeros. A read needs ``nearest`` zero rows at most.
    """

    def __init__(self, memory: Tensor | None, written: Tensor | None, resets: Tensor | None, *,
                 slots: int, width: int, batch: int, steps: int, nearest: int,
                 like: Tensor) -> None:  # fmt: skip
        self.slots, self.steps, self.nearest, self._memory = slots, steps, nearest, memory
        self._prior, self._count = 0, torch.zeros(batch, dtype=torch.int64, device=like.device)
        if memory is not None and written is not None:
            compiling = torch.compiler.is_compiling()
            self._prior = slots if compiling else min(slots, int(written.max()))
            self._count = written
        self._rows = like.new_empty(batch, self._prior + steps, width)
        self._units = torch.empty_like(self._rows)
        self._next = 0
        if memory is not None and self._prior:
            self._rows[:, : self._prior] = memory[:, : self._prior]
            self._units[:, : self._prior] = unit(memory[:, : self._prior])
        self._resets = resets is not None
        # the step (steps, batch) at which the sequence of each step started; -1: before all
        self._start = self._count.new_full((steps, batch), -1)
        if resets is not None:
            step = torch.arange(steps, device=resets.device).unsqueeze(1)
            self._start = torch.where(resets, step, -1).cummax(0).values
        needs_mask = memory is not None or steps - 1 > slots - nearest
        if not needs_mask and resets is not None:
            needs_mask = torch.compiler.is_compiling() or bool(resets[1:].any())
        self._mask = self._alive() if needs_mask else None

    def read(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The rows before the next step: (batch, n, width), their directions, and a mask.

        (batch, nearest + n), it is true of the zero and n rows that the memory holds; None: all.
        """
        count, mask = self._prior + self._next, None
        if self._mask is not None:
            mask = self._mask[self._next, :, : self.nearest + count]
        # `data`: later writes leave these rows as they are, so autograd need not count them
        return self._rows.data[:, :count], self._units.data[:, :count], mask

    def write(self, row: Tensor) -> None:
        """Append the row (batch, width) of the next step."""
        row = row.detach()
        self._rows[:, self._prior + self._next] = row
        self._units[:, self._prior + self._next] = unit(row)
        self._next += 1

    def contents(self) -> tuple[Tensor, Tensor]:
        """Memory (batch, slots, width) and number of rows written, after all steps."""
        start, steps = self._start[-1], self.steps
        count = self._written(start, steps)
        last = min(steps, self.slots)
        step = torch.arange(steps - last, steps, device=start.device)
        slot = (count.unsqueeze(1) - steps + step) % self.slots
        slot = torch.where(step >= start.unsqueeze(1), slot, self.slots)  # reset since
        batch, _, width = self._rows.shape
        memory = self._rows.new_zeros(batch, self.slots + 1, width)  # a last slot is dropped
        if self._memory is not None:
            memory[:, : self.slots] = self._memory
            if self._resets:
                memory.masked_fill_((start >= 0).view(-1, 1, 1), 0)
        index = slot.unsqueeze(-1).expand(-1, -1, width)
        memory.scatter_(1, index, self._rows[:, self._prior + steps - last :])
        return memory[:, : self.slots], count

    def _written(self, start: Tensor, step: Tensor | int) -> Tensor:
        """The number of rows of its sequence before a step."""
        return torch.where(start < 0, self._count + step, step - start)

    def _alive(self) -> Tensor:
        """Which zero, former and new rows there are before each step (steps, batch, rows)."""
        index = torch.arange(max(self.slots, self.steps), device=self._count.device)
        step, start = index[: self.steps].view(-1, 1, 1), self._start.unsqueeze(-1)
        count = self._count.view(1, -1, 1)
        empty = self.slots - self._written(self._start, index[: self.steps].unsqueeze(1))
        zeros = index[: self.nearest] < empty.unsqueeze(-1)
        slot, written = index[: self._prior], index[: self.steps]
        overwritten = (slot - count) % self.slots < step
        former = (start < 0) & (slot < count) & ~overwritten
        new = (written < step) & (written >= start) & (step - written <= self.slots)
        return torch.cat([zeros, former, new], -1)
