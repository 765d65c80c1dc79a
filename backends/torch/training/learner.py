"""A ``ModelSpec`` trained by torch: the NumPy learner's interface, its numbers to rounding."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from gatecore._checks import choice, integer, number, probability
from gatecore.algebra import Gate
from gatecore.backends.common.carried_state import check_streams
from gatecore.backends.common.learner_checks import (
    check_inputs,
    check_settings,
    check_state,
    check_targets,
)
from gatecore.backends.torch.training import distributed
from gatecore.backends.torch.training.adam import Adam
from gatecore.backends.torch.training.backbone import body, leaves, shaped
from gatecore.contracts.model import Batch, ModelSpec

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Learner:
    """Trains a ``ModelSpec`` with Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Initial weights, draws, and so the first losses are those of the NumPy learner of equal seed;
    states interchange. Under ``torchrun`` the processes share every batch.

    Parameters
    ----------
    spec : ModelSpec
    seed : int
    betas, eps : Adam's
    dtype : {"float32", "float64"}
    device : torch.device, optional
        Default: torch's default device.
    impl : {"auto", "native", "reference", "fused", "graph", "plain", "scan"}
        By what the layers' sequences are computed, as the layers' own ``impl``; what can't be had
        raises. A core with a memory goes step by step: "auto" or "plain".

    Examples
    --------
    >>> from gatecore import Batch, ModelSpec
    >>> learner = Learner(
    ...     ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=8), seed=0
    ... )
    >>> tokens = np.array([[0, 1], [2, 3], [1, 0]])
    >>> metrics = learner.step(Batch(tokens, tokens), learning_rate=1e-3)
    >>> sorted(metrics)
    ['accuracy', 'gradient_norm', 'loss']
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: str = "float32",
        device: Any = None,
        impl: str = "auto",
    ) -> None:
        distributed.join()
        self.spec, self.seed = spec, integer("seed", seed, at_least=0)
        first, second = (probability("betas", beta, below_one=True) for beta in betas)
        self.dtype = _DTYPES[choice("dtype", dtype, _DTYPES)]
        self.device = distributed.device() if device is None else torch.device(device)
        self.parameters = {
            name: torch.tensor(value, dtype=self.dtype, device=self.device)
            for name, value in spec.initial(seed).items()
        }
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        self._body = body(spec, seed, impl, like)
        self.parameters |= self._body.parameters
        for value in self.parameters.values():
            value.requires_grad_()
        self._adam = Adam(self.parameters, (first, second), number("eps", eps))
        self._softmax = _adaptive(spec)
        self._carried: dict[str, Tensor] = {}
        if spec.streams:
            start = leaves(self._body.state(spec.streams, like))
            named = zip(self._body.carried, start, strict=True)
            self._carried = {name: leaf.clone() for name, leaf in named}
        self.steps = 0

    def step(
        self, batch: Batch, *, learning_rate: float, clip_norm: float | None = None
    ) -> dict[str, float]:
        """One step of Adam on one batch; as the NumPy learner's.

        Returns
        -------
        dict
            ``loss`` and, for the cross-entropy, ``accuracy`` before the step; ``gradient_norm``
            before clipping. If loss or norm is not finite, the parameters stay as they were.
        """
        check_settings(learning_rate, clip_norm)
        check_streams(self.spec, batch.inputs.shape[1], self.spec.streams)
        if not all(bool(p.isfinite().all()) for p in self.parameters.values()):
            return {"loss": float("nan"), "gradient_norm": float("nan")}
        rng = np.random.default_rng([self.seed, self.steps])
        start = list(self._carried.values()) if self.spec.streams else None
        loss, metrics, final = self._loss(batch, rng, start)
        found = torch.autograd.grad(
            loss, list(self.parameters.values()), allow_unused=True, materialize_grads=True
        )
        gradients = [g.contiguous() for g in found]
        distributed.total(gradients)
        norm = float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
        self.steps += 1
        if np.isfinite(metrics["loss"]) and np.isfinite(norm):
            scale = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
            self._adam.step(gradients, self.steps, learning_rate, scale)
            self._carried.update(zip(self._carried, final, strict=True))
        del metrics["count"]
        return {**metrics, "gradient_norm": norm}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over all batches' scored elements; no dropout, zoneout in expectation.

        A model that carries its state starts from zeros, and does so from batch to batch.
        """
        totals: dict[str, float] = {}
        state, streams = None, None
        for batch in batches:
            check_streams(self.spec, batch.inputs.shape[1], streams)
            _, metrics, final = self._loss(batch, None, state)
            if self.spec.streams:
                state, streams = final, batch.inputs.shape[1]
            count = metrics.pop("count")
            for name, value in {**metrics, "count": 1.0}.items():
                totals[name] = totals.get(name, 0.0) + value * count
        count = totals.pop("count", 0.0)
        if not count:
            raise ValueError("batches must hold at least one scored element")
        return {name: total / count for name, total in totals.items()}

    @torch.no_grad()
    def gates(self, batch: Batch) -> Gate:
        """The effective forget gate and its complement, each averaged over time and batch.

        Float64 NumPy arrays of ``spec.gate_shape``, (layers, hidden) for layers; 1/complement is a
        timescale in steps.
        """
        x, resets = self._features(batch), self._resets(batch)
        zoneout = [self._zoneout(x.shape[:2], None)] * self.spec.layers
        gate = self._body.gates(self.parameters, x, resets, zoneout)
        return Gate(*(side.cpu().numpy() for side in gate))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that a resumed run needs, as NumPy arrays by flat name."""
        state = {"steps": np.asarray(self.steps)}
        for prefix, tensors in self._tensors().items():
            for name, value in tensors.items():
                state[f"{prefix}.{name}"] = value.detach().cpu().numpy().copy()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, after checking all of it.

        Raises
        ------
        ValueError
            An entry missing, unknown, or of another shape or dtype.
        """
        check_state(self.state_dict(), state)
        self.steps = int(state["steps"])
        for prefix, tensors in self._tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(torch.tensor(np.asarray(state[f"{prefix}.{name}"])))

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "parameters": self.parameters,
            "first": self._adam.first,
            "second": self._adam.second,
            "carried": self._carried,
        }

    def _loss(
        self, batch: Batch, rng: np.random.Generator | None, state: Any = None
    ) -> tuple[Tensor, dict[str, float], Any]:
        """This process's share of the loss; metrics and last state of the whole batch."""
        size = batch.inputs.shape[1]
        mine = distributed.share(size)
        own = distributed.part(batch, mine)
        x = self._features(batch)[:, mine]
        read, final = self._recur(x, own, rng, state, size, mine)
        predicted = self._head(read, rng, size, mine)
        wanted = (predicted.shape[0], size, self.spec.output_size)
        check_targets(self.spec, batch.targets, wanted)
        targets = torch.as_tensor(own.targets, device=self.device)
        if self.spec.loss == "squared_error":
            count = int(np.prod(wanted))
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
        """What the first layer receives."""
        check_inputs(self.spec, np.asarray(batch.inputs))
        inputs = torch.as_tensor(batch.inputs, device=self.device)
        if self.spec.input == "dense":
            return inputs.to(self.dtype)
        if self.spec.input == "one_hot":
            size = self.spec.input_size  # and a last row of zeros, for -1
            rows = torch.eye(size + 1, size, dtype=self.dtype, device=self.device)
            return rows[inputs.long()]
        return functional.embedding(inputs.long(), self.parameters["embedding.weight"])

    def _resets(self, batch: Batch) -> Tensor | None:
        return None if batch.resets is None else torch.as_tensor(batch.resets, device=self.device)

    def _recur(
        self, x: Tensor, batch: Batch, rng: np.random.Generator | None, state: Any, size: int,
        mine: slice,
    ) -> tuple[Tensor, Any]:  # fmt: skip
        """What the head reads of the last layer, and the last state's tensors if it is carried.

        Every process draws for the whole batch, and takes its part.
        """
        zoneout = [self._zoneout((x.shape[0], size), rng, mine) for _ in range(self.spec.layers)]
        start = self._body.state(x.shape[1], x)
        if state is not None:
            start = shaped([part[mine] for part in state], start)
        x, last = self._body.run(self.parameters, x, start, self._resets(batch), zoneout)
        final = self._whole(leaves(last), size, mine) if self.spec.streams else []
        return x if self.spec.read is None else x[-self.spec.read :], final

    def _whole(self, states: list[Tensor], size: int, mine: slice) -> list[Tensor]:
        """A state's tensors from the parts of all processes."""
        whole = [s.new_zeros(size, *s.shape[1:]) for s in states]
        for full, part in zip(whole, states, strict=True):
            full[mine] = part.detach()
        distributed.total(whole)
        return whole

    def _zoneout(
        self, steps: Any, rng: np.random.Generator | None, mine: slice = slice(None)
    ) -> tuple[Any, ...] | None:
        """Draws while training, the probabilities themselves at evaluation."""
        shape = (*steps, self.spec.hidden_size)
        amounts = self.spec.zoneout if self.spec.core == "lstm" else self.spec.zoneout[1:]
        if not any(amounts):
            return None
        return tuple(
            p if rng is None or p == 0 else self._drawn(rng.random(shape) < p, mine)
            for p in amounts
        )

    def _drawn(self, draws: np.ndarray, mine: slice) -> Tensor:
        chosen = torch.from_numpy(np.ascontiguousarray(draws[:, mine]))
        return chosen.to(self.device, self.dtype)

    def _head(self, x: Tensor, rng: np.random.Generator | None, size: int, mine: slice) -> Tensor:
        """ReLU layers with dropout, and the output layer."""
        for k, (weight, bias) in enumerate(self.spec.head_names()):
            x = functional.linear(x, self.parameters[weight], self.parameters[bias])
            if k < len(self.spec.head):
                x = x.relu()
                if rng is not None and self.spec.dropout:
                    shape = (x.shape[0], size, x.shape[2])
                    kept = self._drawn(rng.random(shape) >= self.spec.dropout, mine)
                    x = x * (kept / (1 - self.spec.dropout))
        return x


def _adaptive(spec: ModelSpec) -> nn.Module | None:
    """The adaptive softmax's computation; its matrices are among the learner's parameters."""
    if spec.adaptive is None:
        return None
    width = [spec.recurrent.output_size, *spec.head][-1]
    ends = list(spec.adaptive)
    return nn.AdaptiveLogSoftmaxWithLoss(width, spec.output_size, ends, device="meta")
