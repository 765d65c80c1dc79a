"""The learners' common base: their contract, checks and noise, and the state that resumes a run."""

import abc
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gatecore._checks import LARGEST_SEED, choice, entries, integer, number, probability
from gatecore._namespace import Array
from gatecore.algebra import Gate
from gatecore.backends.common import learner_checks as checks
from gatecore.contracts.model import Batch, ModelSpec

Metrics = dict[str, float]
Named = dict[str, Array]


class Noise(NamedTuple):
    """The draws of one training step; at evaluation their expectations.

    ``zoneout`` has for each layer the probabilities that its cell and hidden state (of an LSTM) or
    its hidden state stay, or bool arrays (time, batch, hidden) of draws; None: all are zero.
    ``dropout`` has for each ReLU layer which outputs (steps read, batch, width) stay; empty: all.
    ``embedding`` says which outputs (time, or 1 if locked, batch, width) of it stay; None: all.
    """

    zoneout: list[tuple[Any, ...] | None]
    dropout: list[np.ndarray]
    embedding: np.ndarray | None = None


class Trainable(abc.ABC):
    """Parameters that Adam trains, and a state that resumes a run bit for bit.

    A backend defines ``_gates``, ``_copied`` and ``_assign``. ``_first`` and ``_second`` are Adam's
    moments of the trained parameters, ``_carried`` is the hidden state that a model carries.
    """

    parameters: dict[str, Any]
    _first: Named
    _second: Named
    _carried: Named

    def __init__(self, spec: Any, seed: int, betas: tuple[float, float], eps: float,
                 dtype: str) -> None:  # fmt: skip
        self.spec, self.steps, self._carried = spec, 0, {}
        self.seed = integer("seed", seed, 0, LARGEST_SEED)
        both = entries("betas", betas, length=2)
        first, second = (probability("betas", beta, below_one=True) for beta in both)
        self.betas, self.eps = (first, second), number("eps", eps)
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.dtype: Any = choice("dtype", dtype, ("float32", "float64"))

    def gates(self, batch: Any) -> Gate:
        """The effective forget gate and its complement, each averaged over time and batch.

        Float64 arrays of ``spec.gate_shape``, (layers, hidden) for layers; 1/complement is a
        timescale in steps.
        """
        return self._averaged(self._gates(batch))

    def _averaged(self, sides: tuple[Array, Array]) -> Gate:
        return Gate(*(self._copied(side).astype(np.float64, copy=False) for side in sides))

    def state_dict(self) -> Named:
        """Copies of all that a resumed run needs, by flat name."""
        state = {"steps": np.asarray(self.steps)}
        for prefix, arrays in self._arrays().items():
            state |= {f"{prefix}.{name}": self._copied(value) for name, value in arrays.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned, after checking all of it.

        ValueError if an entry is missing, unknown, or of another shape or dtype.
        """
        checks.check_state(self.state_dict(), state)
        self._load(state)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.steps = int(state["steps"])
        for prefix, arrays in self._arrays().items():
            for name in arrays:
                self._assign(arrays, name, state[f"{prefix}.{name}"])

    def _arrays(self) -> dict[str, Named]:
        return {"parameters": self.parameters, "first": self._first, "second": self._second,
                "carried": self._carried}  # fmt: skip

    @abc.abstractmethod
    def _gates(self, batch: Any) -> tuple[Array, Array]:
        """Both sides of the effective forget gate, averaged over time and batch."""

    @abc.abstractmethod
    def _copied(self, value: Array) -> Array:
        """A copy of an array, as ``state_dict`` returns it."""

    @abc.abstractmethod
    def _assign(self, arrays: Named, name: str, value: Any) -> None:
        """Replace the values of one of ``arrays``."""


class LearnerBase(Trainable):
    """Trains a ``ModelSpec`` with Adam, and evaluates it.

    Equal seeds give equal initial weights on every backend. Zoneout and dropout depend on nothing
    but the seed and the number of the step, so the state that resumes a run is the parameters,
    Adam's moments, that number, and the hidden state of a model that carries it.
    """

    def __init__(
        self, spec: ModelSpec, *, seed: int = 0, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, dtype: str = "float32", impl: str = "auto",
    ) -> None:  # fmt: skip
        super().__init__(spec, seed, betas, eps, dtype)
        self.impl = impl
        self._build(spec.initial(self.seed))

    def step(self, batch: Batch, *, learning_rate: float,
             clip_norm: float | None = None) -> Metrics:  # fmt: skip
        """One step of Adam on one batch, with the gradient's global norm clipped to ``clip_norm``.

        Returns ``loss`` and, for the cross-entropy, ``accuracy`` before the step; ``gradient_norm``
        before clipping. If loss or norm is not finite, the parameters stay as they were; if the
        parameters themselves have overflowed, both are NaN. ValueError or TypeError for a batch
        that does not fit the model, or a setting out of its range.
        """
        learning_rate, clip_norm = checks.check_settings(learning_rate, clip_norm)
        batch = checks.check_batch(self.spec, batch, self.spec.streams)
        noise = draw(self.spec, batch, np.random.default_rng([self.seed, self.steps]))
        metrics = self._train(batch, noise, learning_rate, clip_norm)
        if metrics is None:
            return {"loss": float("nan"), "gradient_norm": float("nan")}
        self.steps += 1
        return {name: float(value) for name, value in metrics.items() if name != "count"}

    def evaluate(self, batches: Iterable[Batch]) -> Metrics:
        """Means over all batches' scored elements; no dropout, zoneout in expectation.

        A model that carries its state starts from zeros, and does so from batch to batch.
        ValueError or TypeError for no scored element, or a batch that does not fit the model.
        """
        totals: dict[str, float] = {}
        total_count, carried, streams = 0.0, None, None
        for batch in batches:
            batch = checks.check_batch(self.spec, batch, streams)
            with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the loss
                metrics, final = self._measure(batch, draw(self.spec, batch), carried)
            if self.spec.streams:
                carried, streams = final, batch.inputs.shape[1]
            count = float(metrics.pop("count"))
            total_count += count
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0.0) + float(value) * count
        if not total_count:
            raise ValueError("batches must hold at least one scored element")
        return {name: total / total_count for name, total in totals.items()}

    def main_gates(self, batch: Batch) -> Gate:
        """As :meth:`gates` the forget gates f themselves, before a refine or master gate.

        ValueError for a core with a memory.
        """
        if self.spec.memory is not None:
            raise ValueError(f"main gates are of layers: core={self.spec.core!r} has none")
        return self._averaged(self._gates(batch, main=True))

    def _gates(self, batch: Batch, main: bool = False) -> tuple[Array, Array]:
        checks.check_inputs(self.spec, batch.inputs)
        checks.unmasked("batch.resets", batch.resets)
        return self._forget_gates(batch, draw(self.spec, batch), main)

    @abc.abstractmethod
    def _build(self, initial: dict[str, np.ndarray]) -> None:
        """Make the parameters, their moments and the carried state."""

    @abc.abstractmethod
    def _measure(self, batch: Batch, noise: Noise, carried: Named | None) -> tuple[Metrics, Named]:
        """Metrics, with the ``count`` of scored elements, and the carried state after a batch."""

    @abc.abstractmethod
    def _forget_gates(self, batch: Batch, noise: "Noise", main: bool) -> tuple[Array, Array]:
        """Both sides of the effective forget gates, averaged over time and batch."""

    @abc.abstractmethod
    def _train(self, batch: Batch, noise: Noise, learning_rate: float,
               clip_norm: float | None) -> Metrics | None:  # fmt: skip
        """One step of Adam: the metrics, or None if the parameters have overflowed."""


class GradientLearner(LearnerBase):
    """A learner that computes the gradients first, and then steps."""

    def _train(self, batch: Batch, noise: Noise, learning_rate: float,
               clip_norm: float | None) -> Metrics | None:  # fmt: skip
        if not self._finite():
            return None
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the norms
            metrics, gradients, final = self._gradients(batch, noise, self._carried or None)
            norm = metrics["gradient_norm"]
            if np.isfinite(metrics["loss"]) and np.isfinite(norm):
                self._adam(gradients, self.steps + 1, learning_rate, clip_scale(norm, clip_norm))
                self._carried.update(final)
        return metrics

    @abc.abstractmethod
    def _finite(self) -> bool:
        """Whether all parameters are finite."""

    @abc.abstractmethod
    def _gradients(self, batch: Batch, noise: Noise,
                   carried: Named | None) -> tuple[Metrics, Any, Named]:  # fmt: skip
        """Metrics with the gradient's norm, all gradients, and the carried state afterwards."""

    @abc.abstractmethod
    def _adam(self, gradients: Any, count: int, learning_rate: float, scale: float) -> None:
        """Step number ``count`` of Adam, from 1, on ``scale`` times the gradients."""


def draw(spec: ModelSpec, batch: Batch, rng: np.random.Generator | None = None) -> Noise:
    """The noise of a training step; without ``rng`` that of an evaluation."""
    shape = (*batch.inputs.shape[:2], spec.hidden_size)
    zoneout: list[tuple[Any, ...] | None] = [None] * spec.layers
    if any(spec.state_zoneout):
        zoneout = [tuple(p if rng is None or p == 0 else rng.random(shape) < p
                         for p in spec.state_zoneout) for _ in zoneout]  # fmt: skip
    if rng is None:
        return Noise(zoneout, [])
    (time, size), steps = batch.inputs.shape[:2], batch.targets.shape[:2]
    widths = spec.head if spec.dropout else ()
    dropout = [rng.random((*steps, width)) >= spec.dropout for width in widths]
    if not (rate := spec.embedding_dropout):
        return Noise(zoneout, dropout)
    outputs = (1 if spec.locked_dropout else time, size, spec.features)
    return Noise(zoneout, dropout, rng.random(outputs) >= rate)


def clip_scale(norm: float, clip_norm: float | None) -> float:
    """The factor that clips gradients of this global norm."""
    return 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))


def layer_states(spec: ModelSpec, carried: Mapping[str, Array] | None) -> list[Any] | None:
    """The carried state as whole-sequence layers take it: (h, c) or h of each layer."""
    if carried is None:
        return None
    names = [[f"{k}.{name}" for name in spec.state_names] for k in range(spec.layers)]
    return [single(carried[name] for name in layer) for layer in names]


def layer_parameters(parameters: Mapping[str, Array], k: int) -> Named:
    """The parameters of recurrent layer k, by their names in the layer; two biases as their sum."""
    prefix = f"layers.{k}."
    layer = {n.removeprefix(prefix): p for n, p in parameters.items() if n.startswith(prefix)}
    if "bias_hh" in layer:
        layer["bias"] = layer["bias"] + layer.pop("bias_hh")
    return layer


def single(parts: Iterable[Any]) -> Any:
    """A tuple of several parts; one part alone as it is."""
    first, *others = parts
    return (first, *others) if others else first


def carried_states(spec: ModelSpec, states: list[Any]) -> Named:
    """The states of all layers by the names of :meth:`ModelSpec.carried`."""
    parts = [p for s in states for p in (s if isinstance(s, tuple) else (s,))]
    return dict(zip(spec.carried(), parts, strict=False))
