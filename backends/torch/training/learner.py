"""A ``ModelSpec`` trained by torch: the NumPy learner's interface, its numbers to rounding."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from gatecore.backends.common.learner import GradientLearner, Noise
from gatecore.backends.torch.training import distributed
from gatecore.backends.torch.training.backbone import backbone, leaves, shaped
from gatecore.backends.torch.training.trainable import TorchTrainable, norm
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.model import Batch, ModelSpec

Tensors = dict[str, Tensor]
Carried = Tensors | None  # tensors of the state
Metrics = dict[str, float]


class Learner(TorchTrainable, GradientLearner):
    """Trains a ``ModelSpec`` with Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Equal seeds give the initial weights and the noise of the NumPy learner, and so its first
    losses; states interchange. Under ``torchrun`` the processes share every batch.

    Keywords are ``seed``, at least 0; Adam's ``betas`` in [0, 1), by default (0.9, 0.999), and
    ``eps`` above 0, by default 1e-8; ``dtype``, "float32" or "float64"; ``device``, by default
    torch's; and ``impl``, the implementation of the layers, as they take it. A core with a memory
    runs step by step: "auto" or "plain". ValueError or TypeError names a setting out of its range,
    or an ``impl`` that does not support the model.

    >>> from gatecore import Batch, ModelSpec
    >>> spec = ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=8)
    >>> learner = Learner(spec, seed=0)
    >>> tokens = np.array([[0, 1], [2, 3], [1, 0]])
    >>> metrics = learner.step(Batch(tokens, tokens), learning_rate=1e-3)
    >>> sorted(metrics)
    ['accuracy', 'gradient_norm', 'loss']
    """

    def __init__(self, spec: ModelSpec, *, device: Any = None, **settings: Any) -> None:
        distributed.join()
        self.device = distributed.device() if device is None else torch.device(device)
        super().__init__(spec, **settings)

    def _build(self, initial: dict[str, np.ndarray]) -> None:
        spec, self.dtype = self.spec, getattr(torch, self.dtype)
        factory: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        like = torch.empty(0, **factory)
        self._backbone = backbone(spec, self.seed, self.impl, like)
        parameters = {name: torch.tensor(value, **factory) for name, value in initial.items()}
        parameters |= self._backbone.parameters
        for value in parameters.values():
            value.requires_grad_()
        self._set_parameters(parameters)
        self._softmax: nn.Module | None = None
        if spec.adaptive is not None:  # its matrices are among the learner's parameters
            sizes = spec.last_width, spec.output_size, list(spec.adaptive)
            self._softmax = nn.AdaptiveLogSoftmaxWithLoss(*sizes, device="meta")
        start = leaves(self._backbone.state(spec.streams, like)) if spec.streams else []
        named = zip(self._backbone.carried, start, strict=True)
        self._carried = {name: leaf.clone() for name, leaf in named}

    def _finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters.values())

    def _gradients(self, batch: Batch, noise: Noise,
                   carried: Carried) -> tuple[Metrics, list[Tensor], Tensors]:  # fmt: skip
        loss, metrics, final = self._loss(batch, noise, carried)
        gradients = [g.contiguous() for g in self._backward(loss)]
        distributed.total(gradients)
        return {**metrics, "gradient_norm": norm(gradients)}, gradients, final

    @torch.no_grad()
    def _measure(self, batch: Batch, noise: Noise, carried: Carried) -> tuple[Metrics, Tensors]:
        return self._loss(batch, noise, carried)[1:]

    @torch.no_grad()
    def _forget_gates(self, batch: Batch, noise: Noise, main: bool) -> Any:
        inputs = self._features(batch), self._resets(batch)
        return self._backbone.gates(self.parameters, *inputs, noise.zoneout, main)

    def _loss(self, batch: Batch, noise: Noise,
              carried: Carried) -> tuple[Tensor, Metrics, Tensors]:  # fmt: skip
        """This process's share of the loss; metrics and carried state of the whole batch."""
        size, spec = batch.inputs.shape[1], self.spec
        part, local = distributed.share(batch)
        x = self._features(part)
        if noise.embedding is not None:
            x = _dropped(x, self.spec.embedding_dropout, self._share_of(noise.embedding, local))
        start = self._backbone.state(x.shape[1], x)
        if carried is not None:
            start = shaped([leaf[local] for leaf in carried.values()], start)
        zoneout = [p and tuple(self._share_of(a, local) for a in p) for p in noise.zoneout]
        x, last = self._backbone.run(self.parameters, x, start, self._resets(part), zoneout)
        whole = self._whole(leaves(last), size, local) if spec.streams else []
        final = dict(zip(self._carried, whole, strict=True))
        x = x if spec.read is None else x[-spec.read :]
        predicted = self._head(x, [self._share_of(mask, local) for mask in noise.dropout])
        targets = torch.as_tensor(part.targets, device=self.device)
        if spec.loss == "squared_error":
            count = batch.targets.size
            loss = (predicted - targets.to(self.dtype)).square().sum() / count
            return loss, {"loss": self._sum(loss), "count": count}, final
        count = max(int((batch.targets >= 0).sum()), 1)
        flat, scored = predicted.flatten(0, 1), targets.clamp(min=-1).flatten().long()
        if self._softmax is not None:
            loss = self._adaptive_loss(self._softmax, flat[scored >= 0], scored[scored >= 0])
            return loss / count, {"loss": self._sum(loss / count), "count": count}, final
        loss = functional.cross_entropy(flat, scored, ignore_index=-1, reduction="sum") / count
        right = (flat.argmax(-1) == scored).sum().double() / count
        metrics = {"loss": self._sum(loss), "accuracy": self._sum(right), "count": count}
        return loss, metrics, final

    def _adaptive_loss(self, softmax: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
        """The sum over targets (n,) of the adaptive softmax's losses."""
        if not len(targets):
            return hidden.sum() * 0
        matrices = {name: self.parameters[f"adaptive.{name}"] for name in softmax.state_dict()}
        return -functional_call(softmax, matrices, (hidden, targets)).output.sum()

    def _sum(self, value: Tensor) -> float:
        whole = value.detach().double()
        distributed.total([whole])
        return float(whole)

    def _features(self, batch: Batch) -> Tensor:
        inputs = torch.as_tensor(batch.inputs, device=self.device)
        if self.spec.input == "dense":
            return inputs.to(self.dtype)
        if self.spec.input == "one_hot":
            size = self.spec.input_size  # and a last row of zeros, for -1
            return torch.eye(size + 1, size, dtype=self.dtype, device=self.device)[inputs.long()]
        return functional.embedding(inputs.long(), self.parameters["embedding.weight"])

    def _resets(self, batch: Batch) -> Tensor | None:
        return None if batch.resets is None else torch.as_tensor(batch.resets, device=self.device)

    def _whole(self, states: list[Tensor], size: int, local: slice) -> list[Tensor]:
        """A state's tensors from the parts of all processes."""
        whole = [s.new_zeros(size, *s.shape[1:]) for s in states]
        for full, part in zip(whole, states, strict=True):
            full[local] = part.detach()
        distributed.total(whole)
        return whole

    def _share_of(self, draws: Any, local: slice) -> Any:
        """This process's part of the draws; a probability as it is."""
        if not isinstance(draws, np.ndarray):
            return draws
        part = np.ascontiguousarray(draws[:, local])
        return torch.from_numpy(part).to(self.device, self.dtype)

    def _head(self, x: Tensor, mask: list[Tensor]) -> Tensor:
        """ReLU layers with dropout, and the output layer."""
        for k, (weight, bias) in enumerate(self.spec.head_names()):
            x = functional.linear(x, self.parameters[weight], self.parameters[bias])
            x = x.relu() if k < len(self.spec.head) else x
            if mask and k < len(self.spec.head):
                x = _dropped(x, self.spec.dropout, mask[k])
        return x


def _dropped(x: Tensor, rate: float, mask: Tensor) -> Tensor:
    """``x`` with dropout where ``mask`` is 0."""
    return x * (mask / (1 - rate))


def unsupported(spec: ModelSpec | AgentSpec) -> str | None:
    """Why torch cannot train the model: None, since it trains all."""
    return None
