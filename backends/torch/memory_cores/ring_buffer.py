"""Rows that are written one at a time and read at every step, without copies and out of autograd.

A memory of S rows, which starts from zeros and takes row t in place of row t mod S, is at any time
the last S rows written since the sequence began, and zeros. So the rows of many steps lie in one
buffer, in the order of writing, and each step sees those before it.
"""

import torch
from torch import Tensor
from torch.nn import functional

TINY = 1e-6  # the least length that a vector is divided by


def unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1 along the last axis; zeros stay zeros."""
    return functional.normalize(vectors, dim=-1, eps=TINY)


class Tape:
    """The rows that ``steps`` steps see and write.

    Parameters
    ----------
    memory : Tensor (batch, slots, width), optional
        What was written before, row k of a sequence in slot k mod ``slots``. Default: nothing.
    written : int Tensor (batch,), optional
        How many rows that were.
    resets : bool Tensor (steps, batch), optional
        Before these steps all rows become zeros.
    slots, width, batch, steps : int
    nearest : int
        How many of the rows that are zeros a reader may need.
    like : Tensor
        Of the rows' type and place.
    """

    def __init__(
        self, memory: Tensor | None, written: Tensor | None, resets: Tensor | None, *,
        slots: int, width: int, batch: int, steps: int, nearest: int, like: Tensor,
    ) -> None:  # fmt: skip
        self.slots, self.steps, self.nearest, self._memory = slots, steps, nearest, memory
        self._prior, self._count = 0, torch.zeros(batch, dtype=torch.int64, device=like.device)
        if memory is not None and written is not None:
            compiling = torch.compiler.is_compiling()
            self._prior = slots if compiling else min(slots, int(written.max()))
            self._count = written
        self._rows = like.new_empty(batch, self._prior + steps, width)
        self._units = torch.empty_like(self._rows)
        if memory is not None and self._prior:
            self._rows[:, : self._prior] = memory[:, : self._prior]
            self._units[:, : self._prior] = unit(memory[:, : self._prior])
        self._resets = resets is not None
        self._begun = self._last_resets(resets, batch)
        self.alive = self._alive() if self._needs_mask(resets) else None

    def before(self, t: int) -> tuple[Tensor, Tensor]:
        """The rows (batch, n, width) that were written before step t, and their directions.

        ``alive`` (steps, batch, nearest + n...) says which of ``nearest`` zeros and of these rows
        the memory holds before each step; None: all.
        """
        # `data`: later writes leave these rows as they are, so autograd need not count them
        return self._rows.data[:, : self._prior + t], self._units.data[:, : self._prior + t]

    def write(self, t: int, row: Tensor) -> None:
        """The row (batch, width) of step t."""
        row = row.detach()
        self._rows[:, self._prior + t] = row
        self._units[:, self._prior + t] = unit(row)

    def kept(self) -> tuple[Tensor, Tensor]:
        """Memory (batch, slots, width) and number of rows written after all steps."""
        begun, steps = self._begun[-1], self.steps
        count = self._written(self._begun[-1], steps)
        last = min(steps, self.slots)
        step = torch.arange(steps - last, steps, device=begun.device)
        slot = (count.unsqueeze(1) - steps + step) % self.slots
        slot = torch.where(step >= begun.unsqueeze(1), slot, self.slots)  # forgotten since
        batch, _, width = self._rows.shape
        shape = (batch, self.slots + 1, width)  # and one slot that is given up
        if self._memory is None:
            memory = self._rows.new_zeros(shape)
        else:
            memory = self._rows.new_empty(shape)
            memory[:, : self.slots] = self._memory
            if self._resets:
                memory.masked_fill_((begun >= 0).view(-1, 1, 1), 0)
        index = slot.unsqueeze(-1).expand(-1, -1, width)
        memory.scatter_(1, index, self._rows[:, self._prior + steps - last :])
        return memory[:, : self.slots], count

    def _last_resets(self, resets: Tensor | None, batch: int) -> Tensor:
        """The step (steps, batch) at which the sequence of each step began; -1: before all."""
        if resets is None:
            return self._count.new_full((self.steps, batch), -1)
        step = torch.arange(self.steps, device=resets.device).unsqueeze(1)
        return torch.where(resets, step, -1).cummax(0).values

    def _written(self, begun: Tensor, step: Tensor | int) -> Tensor:
        """How many rows of its sequence were written before a step."""
        return torch.where(begun < 0, self._count + step, step - begun)

    def _needs_mask(self, resets: Tensor | None) -> bool:
        if self._memory is not None or self.steps - 1 > self.slots - self.nearest:
            return True
        if resets is None:
            return False
        return torch.compiler.is_compiling() or bool(resets[1:].any())

    def _alive(self) -> Tensor:
        """Which rows there are before each step (steps, batch, nearest + prior + steps).

        First ``nearest`` zeros, then the prior rows, then the new ones.
        """
        index = torch.arange(max(self.slots, self.steps), device=self._count.device)
        step, begun = index[: self.steps].view(-1, 1, 1), self._begun.unsqueeze(-1)
        count = self._count.view(1, -1, 1)
        empty = self.slots - self._written(self._begun, index[: self.steps].unsqueeze(1))
        zeros = index[: self.nearest] < empty.unsqueeze(-1)
        slot = index[: self._prior]
        overwritten = (slot - count) % self.slots < step
        prior = (begun < 0) & (slot < count) & ~overwritten
        written = index[: self.steps]
        new = (written < step) & (written >= begun) & (step - written <= self.slots)
        return torch.cat([zeros, prior, new], -1)
