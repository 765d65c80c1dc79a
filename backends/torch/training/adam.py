"""Adam as every learner applies it: its state, and one step."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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
