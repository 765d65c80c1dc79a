"""The base of torch's learner and agent: gradients, Adam, and the state in NumPy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.common.learner import Trainable

LARGEST_RATE = torch.finfo(torch.float32).max  # beyond it torch raises


class TorchTrainable(Trainable):
    """Torch parameters, those with ``requires_grad`` trained by Adam (Kingma & Ba 2015)."""

    def _set_parameters(self, parameters: Mapping[str, Tensor]) -> None:
        """Take over the parameters, with moments of zero."""
        self.parameters = dict(parameters)
        trained = {name: value for name, value in parameters.items() if value.requires_grad}
        self._first = {name: torch.zeros_like(value) for name, value in trained.items()}
        self._second = {name: torch.zeros_like(value) for name, value in trained.items()}

    def _copied(self, value: Tensor) -> np.ndarray:
        return value.detach().cpu().numpy().copy()

    @torch.no_grad()
    def _assign(self, arrays: Mapping[str, Tensor], name: str, value: Any) -> None:
        arrays[name].copy_(torch.tensor(np.asarray(value)))

    def _backward(self, loss: Tensor) -> Sequence[Tensor]:
        """The gradients of the trained parameters; zeros where the loss does not depend on one."""
        trained = [self.parameters[name] for name in self._first]
        return torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)

    @torch.no_grad()
    def _adam(self, gradients: Sequence[Tensor], count: int, rate: float, scale: float) -> None:
        """Step number ``count`` of Adam, from 1, on ``scale`` times the gradients."""
        beta1, beta2 = self.betas
        rate = min(rate / (1 - beta1**count), LARGEST_RATE)
        root = float((1 - beta2**count) ** 0.5)
        values, first = [self.parameters[name] for name in self._first], list(self._first.values())
        second, each = list(self._second.values()), torch._foreach_mul(list(gradients), scale)
        torch._foreach_lerp_(first, each, 1 - beta1)
        torch._foreach_lerp_(second, torch._foreach_mul(each, each), 1 - beta2)
        below = torch._foreach_sqrt(second)
        torch._foreach_div_(below, root)
        torch._foreach_add_(below, self.eps)
        torch._foreach_addcdiv_(values, first, below, value=-rate)


def norm(gradients: Sequence[Tensor]) -> float:
    """The global norm, its squares summed in float64."""
    return float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
