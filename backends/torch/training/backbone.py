"""The recurrent part of a learner's model: layers as functions, or a core with a memory."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.common.blocks import apply_layers
from gatecore.backends.common.learner import layer_parameters
from gatecore.backends.torch.memory_cores.factory import recurrent_core
from gatecore.backends.torch.memory_cores.layers import layer_norm
from gatecore.backends.torch.nn.parameters import forget_gates
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.run import run
from gatecore.contracts.model import ModelSpec

Tensors = dict[str, Tensor]
Resets = Tensor | None
PREFIX = "core."  # of the names of a memory core's parameters and carried tensors


def backbone(spec: ModelSpec, seed: int, impl: str, like: Tensor) -> Any:
    """The recurrent part of ``spec``; ValueError if ``impl`` does not support it."""
    dispatch.checked(impl)
    return (MemoryBackbone if spec.memory else LayerBackbone)(spec, seed, impl, like)


class LayerBackbone:
    """Layers of LSTM, GRU or minimal cells, whose parameters the learner has from the spec."""

    def __init__(self, spec: ModelSpec, seed: int, impl: str, like: Tensor) -> None:
        self._spec, self._cells, self._impl = spec, spec.cells(), impl
        for cell in self._cells:
            dispatch.choose(impl, Call(cell, like.new_empty(1, 1, cell.input_size), {}))
        self.parameters: Tensors = {}
        self.carried = tuple(spec.carried())

    def state(self, size: int, like: Tensor) -> Any:
        """The state of new sequences: of each layer (h,) or (h, c), all (size, hidden)."""
        zeros = (like.new_zeros(size, cell.hidden_size) for cell in self._cells)
        return tuple((z,) * len(c.state_names) for z, c in zip(zeros, self._cells, strict=True))

    def run(self, parameters: Tensors, x: Tensor, state: Any, resets: Resets, zoneout: list[Any],
            means: list[Any] | None = None, main: bool = False) -> tuple[Tensor, Any]:  # fmt: skip
        """Outputs of the last layer and all last states; ``means`` takes those of the gates."""
        last = []

        def layer(k: int, x: Tensor) -> Tensor:
            cell, params = self._cells[k], layer_parameters(parameters, k)
            result = run(cell, params, x, state[k], resets, zoneout[k], impl=self._impl)
            hidden = result.outputs[0]
            if means is not None:
                gate = forget_gates(cell, params, x, state[k][0], hidden, resets, main)
                means.append([side.double().mean((0, 1)) for side in gate])
            last.append(tuple(part.squeeze(0) for part in result.states))
            return hidden

        sizes = self._spec.layers, self._spec.residual
        x = apply_layers(parameters, *sizes, x, layer, functional.linear, layer_norm)
        return x, tuple(last)

    def gates(self, parameters: Tensors, x: Tensor, resets: Resets, zoneout: list[Any],
              main: bool = False) -> Gate:  # fmt: skip
        """Effective forget gates (layers, hidden), averaged over time and batch."""
        means: list[Any] = []
        self.run(parameters, x, self.state(x.shape[1], x), resets, zoneout, means, main)
        return Gate(*(torch.stack(side) for side in zip(*means, strict=True)))


class MemoryBackbone:
    """A core with a memory; the learner's parameters are the module's."""

    def __init__(self, spec: ModelSpec, seed: int, impl: str, like: Tensor) -> None:
        if impl not in ("auto", "plain"):
            raise ValueError(f"impl={impl!r} is not available: core={spec.core!r} goes step by "
                             "step; use impl='auto' or 'plain'")  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            core = recurrent_core(spec, spec.features, dtype=torch.float64)
        self._core = core.to(like.device, like.dtype)
        self.state = self._core.initial_state
        named = self._core.named_parameters()
        self.parameters = {f"{PREFIX}{k}": v for k, v in named if v.requires_grad}
        count = len(leaves(self.state(1, like))) if spec.streams else 0
        self.carried = tuple(f"{PREFIX}{k}" for k in range(count))

    def run(self, parameters: Tensors, x: Tensor, state: Any, resets: Resets, zoneout: Any) -> Any:
        return self._core(x, state, resets)

    def gates(self, parameters: Tensors, x: Tensor, resets: Resets, zoneout: list[Any],
              main: bool = False) -> Gate:  # fmt: skip
        """Effective forget gates of the core's gate shape, averaged over time and batch."""
        return self._core.forget_gates(x, None, resets)


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a state, which is a tensor, None, or nested tuples of them, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state or () for leaf in leaves(part)]


def shaped(leaves: Iterable[Tensor], like: Any) -> Any:
    """The state of these tensors, nested as ``like``."""
    leaves = iter(leaves)
    if isinstance(like, Tensor):
        return next(leaves)
    return tuple(shaped(leaves, part) for part in like)
