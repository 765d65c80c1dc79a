"""Adam as every learner applies it: its state, and one step."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def gradients(loss: Tensor, parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of all parameters; zeros where the loss does not depend on one."""
    found = torch.autograd.grad(loss, list(parameters), allow_unused=True, materialize_grads=True)
    return list(found)


def norm(gradients: Iterable[Tensor]) -> float:
    """The global norm, its squares summed in float64."""
    return float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())


def copied(value: Tensor) -> np.ndarray:
    """A NumPy copy of a tensor."""
    return value.detach().cpu().numpy().copy()


@torch.no_grad()
def assign(arrays: Mapping[str, Tensor], name: str, value: Any) -> None:
    """Replace the values of one of the tensors."""
    arrays[name].copy_(torch.tensor(np.asarray(value)))


class Adam:
    """Kingma & Ba's optimiser over named parameters, in place.

    Parameters
    ----------
    parameters : mapping of name to Tensor
    betas, eps : floats
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], betas: tuple[float, float], eps: float
    ) -> None:
        self._parameters, self._betas, self._eps = parameters, betas, eps
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}

    @torch.no_grad()
    def step(
        self, gradients: Sequence[Tensor], count: int, learning_rate: float, scale: float
    ) -> None:
        """Step number ``count``, from 1; the gradients are multiplied by ``scale``."""
        beta1, beta2 = self._betas
        rate = learning_rate / (1 - beta1**count)
        root = float((1 - beta2**count) ** 0.5)
        values, first = list(self._parameters.values()), list(self.first.values())
        second, each = list(self.second.values()), torch._foreach_mul(list(gradients), scale)
        torch._foreach_lerp_(first, each, 1 - beta1)
        torch._foreach_lerp_(second, torch._foreach_mul(each, each), 1 - beta2)
        below = torch._foreach_sqrt(second)
        torch._foreach_div_(below, root)
        torch._foreach_add_(below, self._eps)
        torch._foreach_addcdiv_(values, first, below, value=-rate)
