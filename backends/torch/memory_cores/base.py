"""What the memory cores share: the walk along a sequence, resets, and means of the gates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.torch.sequence.precision import no_autocast


class MemoryCore(nn.Module):
    """A recurrent core with a memory beside, or in place of, a hidden state.

    A core says what it needs of the whole input (``_project``), how one step goes (``_step``), and
    what it begins with (``initial_state``). Weights are in float32 or float64; autocast changes
    nothing.
    """

    input_size: int
    output_size: int
    gate_shape: tuple[int, int]

    def forward(
        self, x: Tensor, state: Any = None, resets: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """All steps.

        Parameters
        ----------
        x : Tensor (time, batch, input)
        state : optional
            As it was returned: a tensor, or nested tuples of tensors, with the batch along axis 0
            of each.
        resets : bool Tensor (time, batch), optional
            Where true, the state is that of a new sequence before that step.

        Returns
        -------
        (Tensor (time, batch, ``output_size``), state)
        """
        with no_autocast(x.device.type):
            return self._walk(x, state, resets, None)

    @torch.no_grad()
    def forget_gates(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Gate:
        """The effective forget gates, averaged over time and batch: float64 ``gate_shape``."""
        seen: list[Gate] = []
        with no_autocast(x.device.type):
            self._walk(x, state, resets, seen)
        return Gate(*(torch.stack(side).mean(0) for side in zip(*seen, strict=True)))

    def initial_state(self, batch: int, like: Tensor) -> Any:
        """The state of ``batch`` new sequences, of the type of ``like`` and where it is."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all parameters again, from torch's default generator."""
        for module in self.children():
            for part in module if isinstance(module, nn.ModuleList) else [module]:
                part.reset_parameters()  # type: ignore[operator]

    def _walk(
        self, x: Tensor, state: Any, resets: Tensor | None, seen: list[Gate] | None
    ) -> tuple[Tensor, Any]:
        """The outputs and the last state; the gates of each step are added to ``seen``."""
        self._check(x, resets)
        fresh = None
        if state is None or resets is not None:
            fresh = self.initial_state(x.shape[1], x)
        state = fresh if state is None else state
        held, outputs = self._held(), []
        due = resets_due(resets, len(x))
        for t, now in enumerate(zip(*(p.unbind(0) for p in self._project(held, x)), strict=True)):
            if resets is not None and due[t]:
                state = renewed(state, fresh, resets[t])
            output, state, gate = self._step(held, now, state)
            outputs.append(output)
            if seen is not None:
                seen.append(Gate(*(side.double().mean(0) for side in gate)))
        return self._finish(torch.stack(outputs)), state

    def _held(self) -> Any:
        """Weights in the form in which steps use them."""
        return None

    def _project(self, held: Any, x: Tensor) -> tuple[Tensor, ...]:
        """What steps need of x, each (time, batch, ...)."""
        raise NotImplementedError

    def _step(self, held: Any, now: tuple[Tensor, ...], state: Any) -> tuple[Tensor, Any, Gate]:
        """One step: its output, the next state, and the forget gates (batch, *gate_shape)."""
        raise NotImplementedError

    def _finish(self, outputs: Tensor) -> Tensor:
        """The core's output of the steps' ones."""
        return outputs

    def _check(self, x: Tensor, resets: Tensor | None) -> None:
        if x.dim() != 3 or x.shape[2] != self.input_size or not x.shape[0]:
            raise ValueError(
                f"x must have shape (time, batch, {self.input_size}) with one step or more, got "
                f"{tuple(x.shape)}"
            )
        if resets is None:
            return
        if resets.dtype != torch.bool or resets.shape != x.shape[:2]:
            raise ValueError(
                f"resets must be torch.bool of shape {tuple(x.shape[:2])}, got {resets.dtype} of "
                f"shape {tuple(resets.shape)}"
            )


def resets_due(resets: Tensor | None, steps: int) -> Sequence[bool]:
    """Whether there is any reset before each step; when traced, there always may be."""
    if resets is None or torch.compiler.is_compiling():
        return [True] * steps
    found: list[bool] = resets.any(1).tolist()
    return found


def renewed(state: Any, fresh: Any, reset: Tensor) -> Any:
    """The state, and where ``reset`` (batch,) is true that of a new sequence."""
    if isinstance(state, Tensor):
        return torch.where(reset.view(-1, *[1] * (state.dim() - 1)), fresh, state)
    return tuple(renewed(mine, new, reset) for mine, new in zip(state, fresh, strict=True))


def positive(**sizes: int) -> None:
    """Raise unless all are integers of at least 1."""
    for name, size in sizes.items():
        _checks.integer(name, size)
