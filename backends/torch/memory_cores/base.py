"""The base of the cores with an external memory: the scan over time, resets, means of the gates."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.torch.sequence.precision import no_autocast


class MemoryCore(nn.Module):
    """A recurrent core with a memory beside, or in place of, a hidden state.

    A subclass defines ``initial_state``, ``_project`` (the part of all steps that is computed at
    once) and ``_step``. Weights are in float32 or float64; autocast changes nothing.
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
            A former call's state: a tensor, or nested tuples of tensors, the batch along axis 0 of
            each. Default: that of new sequences.
        resets : bool Tensor (time, batch), optional
            Where true, the state is that of a new sequence before that step.

        Returns
        -------
        (Tensor (time, batch, ``output_size``), state)

        Raises
        ------
        ValueError
            x or resets of another shape or dtype.
        """
        with no_autocast(x.device.type):
            return self._run(x, state, resets, None)

    @torch.no_grad()
    def forget_gates(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Gate:
        """The effective forget gates, averaged over time and batch: float64 ``gate_shape``."""
        gates: list[Gate] = []
        with no_autocast(x.device.type):
            self._run(x, state, resets, gates)
        return Gate(*(torch.stack(side).mean(0) for side in zip(*gates, strict=True)))

    def initial_state(self, batch: int, like: Tensor) -> Any:
        """The state of ``batch`` new sequences, of the dtype and on the device of ``like``."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Re-initialize all parameters from torch's default generator."""
        for module in self.children():
            for part in module if isinstance(module, nn.ModuleList) else [module]:
                part.reset_parameters()  # type: ignore[operator]

    def _run(
        self, x: Tensor, state: Any, resets: Tensor | None, gates: list[Gate] | None
    ) -> tuple[Tensor, Any]:
        """The outputs and the last state; ``gates`` takes the means of each step's."""
        check(self, x, resets)
        fresh = self.initial_state(x.shape[1], x) if state is None or resets is not None else None
        state = fresh if state is None else state
        outputs, state = self._scan(self._weights(), x, state, fresh, resets, gates)
        return self._finish(torch.stack(outputs)), state

    def _scan(
        self, weights: Any, x: Tensor, state: Any, fresh: Any, resets: Tensor | None,
        gates: list[Gate] | None,
    ) -> tuple[list[Any], Any]:  # fmt: skip
        """The outputs of all steps and the last state; ``fresh`` is that of new sequences."""
        outputs, projected = [], self._project(weights, x)
        due = resets_due(resets, len(x))
        for t, inputs in enumerate(zip(*(part.unbind(0) for part in projected), strict=True)):
            if resets is not None and due[t]:
                state = reset_where(resets[t], fresh, state)
            output, state, gate = self._step(weights, inputs, state)
            outputs.append(output)
            if gates is not None:
                gates.append(Gate(*(side.double().mean(0) for side in gate)))
        return outputs, state

    def _weights(self) -> Any:
        """The weights in the form that ``_project`` and ``_step`` take."""
        return None

    def _project(self, weights: Any, x: Tensor) -> tuple[Tensor, ...]:
        """The inputs of all steps, each (time, batch, ...)."""
        raise NotImplementedError

    def _step(self, weights: Any, inputs: tuple[Tensor, ...], state: Any) -> tuple[Any, Any, Gate]:
        """One step: its output, the next state, and the forget gates (batch, *gate_shape)."""
        raise NotImplementedError

    def _finish(self, outputs: Tensor) -> Tensor:
        """The core's output from the outputs of all steps."""
        return outputs


def check(core: MemoryCore, x: Tensor, resets: Tensor | None) -> None:
    """Raise ValueError unless x and resets fit the core."""
    if x.dim() != 3 or x.shape[2] != core.input_size or not x.shape[0]:
        raise ValueError(
            f"x must have shape (time, batch, {core.input_size}) with one step or more, got "
            f"{tuple(x.shape)}"
        )
    if resets is not None and (resets.dtype != torch.bool or resets.shape != x.shape[:2]):
        raise ValueError(
            f"resets must be torch.bool of shape {tuple(x.shape[:2])}, got {resets.dtype} of "
            f"shape {tuple(resets.shape)}"
        )


def resets_due(resets: Tensor | None, steps: int) -> Sequence[bool]:
    """Whether there is any reset before each step; when traced, there always may be."""
    if resets is None or torch.compiler.is_compiling():
        return [True] * steps
    due: list[bool] = resets.any(1).tolist()
    return due


def reset_where(reset: Tensor, fresh: Any, state: Any) -> Any:
    """The state, replaced by ``fresh`` where ``reset`` (batch,) is true."""
    if isinstance(state, Tensor):
        return torch.where(reset.view(-1, *[1] * (state.dim() - 1)), fresh, state)
    return tuple(reset_where(reset, *parts) for parts in zip(fresh, state, strict=True))


def positive(**sizes: int) -> None:
    """Raise unless all are integers of at least 1."""
    for name, size in sizes.items():
        _checks.integer(name, size)
