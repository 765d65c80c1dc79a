"""A model that trains: recurrent layers with their head, gradients, clipping and Adam."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gatecore._checks import choice, integer, number, probability
from gatecore.algebra import Gate
from gatecore.backends.common.carried_state import by_layer, by_name, check_streams
from gatecore.backends.common.learner_checks import (
    check_inputs,
    check_model,
    check_settings,
    check_state,
    check_targets,
)
from gatecore.backends.numpy.bptt import Engine, run
from gatecore.backends.numpy.feedforward import (
    LOSSES,
    embedding,
    linear,
    one_hot,
    relu_dropout,
)
from gatecore.contracts.model import Batch, ModelSpec

Array = Any


class ExplicitLearner:
    """Trains a ``ModelSpec`` with Adam, and tells how it does.

    Equal seeds give equal initial weights on every backend, and the draws of zoneout and dropout
    depend on nothing but the seed and the number of the step, so the state that resumes a run is
    the parameters, Adam's moments, that number, and the hidden state of a model that carries it.

    Parameters
    ----------
    spec : ModelSpec
    seed : int
    betas, eps : Adam's
    dtype : {"float32", "float64"}
    impl : {"auto", "native", "reference"}
        What runs the layers: the native library, array operations, or the library wherever it
        serves.

    Raises
    ------
    ValueError
        A setting out of its range, or an ``impl`` that can't be taken, with the reason.
    """

    def __init__(
        self,
        engine: Engine,
        spec: ModelSpec,
        *,
        seed: int = 0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        dtype: str = "float32",
        impl: str = "auto",
    ) -> None:
        xp = engine.xp
        self.engine, self.spec, self.seed = engine, spec, integer("seed", seed, at_least=0)
        check_model(spec)
        self.betas = tuple(probability("betas", beta, below_one=True) for beta in betas)
        self.eps = number("eps", eps)
        if self.eps <= 0:
            raise ValueError(f"eps must be positive, got {eps}")
        self.dtype = xp.dtype(choice("dtype", dtype, ("float32", "float64")))
        engine.check_impl(impl, self.dtype)
        self.impl = impl
        initial = spec.initial(seed)
        self.parameters = {k: xp.asarray(v, dtype=self.dtype) for k, v in initial.items()}
        self._first = {k: xp.zeros_like(v) for k, v in self.parameters.items()}
        self._second = {k: xp.zeros_like(v) for k, v in self.parameters.items()}
        self._carried = {k: xp.zeros(v, dtype=self.dtype) for k, v in spec.carried().items()}
        self.steps = 0

    def step(
        self, batch: Batch, *, learning_rate: float, clip_norm: float | None = None
    ) -> dict[str, float]:
        """One step of Adam on one batch.

        Parameters
        ----------
        batch : Batch
        learning_rate : float
        clip_norm : float, optional
            The gradient's global norm is clipped to it.

        Returns
        -------
        dict
            ``loss`` and, for the cross-entropy, ``accuracy`` before the step; ``gradient_norm``
            before clipping. If loss or norm is not finite, the parameters stay as they were; if
            the parameters themselves have overflowed, both are NaN.
        """
        check_settings(learning_rate, clip_norm)
        check_streams(self.spec, batch.inputs.shape[1], self.spec.streams)
        if not all(self.engine.xp.isfinite(p).all() for p in self.parameters.values()):
            return {"loss": float("nan"), "gradient_norm": float("nan")}
        rng = np.random.default_rng([self.seed, self.steps])
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows shows in the norm
            metrics, gradients, final = self._gradients(batch, rng)
            norm = self._norm(gradients)
        self.steps += 1
        if np.isfinite(metrics["loss"]) and np.isfinite(norm):
            scale = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
            self._adam(gradients, learning_rate, scale)
            if self.spec.streams:
                self._carried.update(by_name(self.spec, final))
        del metrics["count"]
        return {**metrics, "gradient_norm": norm}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over all batches' scored elements; no dropout, zoneout in expectation.

        A model that carries its state starts from zeros, and does so from batch to batch.
        """
        totals: dict[str, float] = {}
        state, streams = None, None
        for batch in batches:
            check_streams(self.spec, batch.inputs.shape[1], streams)
            with np.errstate(over="ignore", invalid="ignore"):  # it shows in the loss
                metrics, _, _, final = self._forward(batch, None, state)
            if self.spec.streams:
                state, streams = final, batch.inputs.shape[1]
            count = metrics.pop("count")
            for name, value in {**metrics, "count": 1.0}.items():
                totals[name] = totals.get(name, 0.0) + value * count
        count = totals.pop("count", 0.0)
        if not count:
            raise ValueError("batches must hold at least one scored element")
        return {name: total / count for name, total in totals.items()}

    def gates(self, batch: Batch) -> Gate:
        """The effective forget gate and its complement, each averaged over time and batch.

        Float64 arrays (layers, hidden): one value a unit; 1/complement is a timescale in steps.
        """
        _, _, pullback = self._recur(self._features(batch)[0], batch, None)
        means = [[side.mean((0, 1), dtype=np.float64) for side in g] for g in pullback.gates()]
        return Gate(*(np.stack(side) for side in zip(*means, strict=True)))

    def state_dict(self) -> dict[str, Array]:
        """Copies of all that a resumed run needs, by flat name."""
        state = {"steps": np.asarray(self.steps)}
        for prefix, arrays in self._arrays().items():
            state |= {f"{prefix}.{name}": value.copy() for name, value in arrays.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over what :meth:`state_dict` returned, after checking all of it.

        Raises
        ------
        ValueError
            An entry missing, unknown, or of another shape or dtype.
        """
        check_state(self.state_dict(), state)
        self.steps = int(state["steps"])
        for prefix, arrays in self._arrays().items():
            for name, value in arrays.items():
                value[...] = self.engine.xp.asarray(state[f"{prefix}.{name}"])

    def _arrays(self) -> dict[str, dict[str, Array]]:
        return {
            "parameters": self.parameters,
            "first": self._first,
            "second": self._second,
            "carried": self._carried,
        }

    def _gradients(
        self, batch: Batch, rng: np.random.Generator
    ) -> tuple[dict[str, float], dict[str, Array], Any]:
        """The loss, the gradient of every parameter, and the last state."""
        start = by_layer(self.spec, self._carried) if self.spec.streams else None
        metrics, d_predicted, pulls, final = self._forward(batch, rng, start)
        pull_input, pull_core, pull_head, shape = pulls
        gradients, d_read = pull_head(d_predicted())
        d_output = self.engine.xp.zeros(shape, dtype=self.dtype)
        d_output[-d_read.shape[0] :] = d_read
        d_layers, d_x, _ = pull_core(d_output, wrt_x=pull_input is not None)
        for k, layer in enumerate(d_layers):
            gradients |= {f"layers.{k}.{name}": value for name, value in layer.items()}
        if pull_input is not None:
            own = gradients.get("embedding.weight", 0)  # of the output layer, where it is tied
            gradients["embedding.weight"] = pull_input(d_x) + own
        return metrics, gradients, final

    def _forward(
        self, batch: Batch, rng: np.random.Generator | None, state: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Metrics, the loss's pullback, those of input, core and head, and the last state."""
        xp = self.engine.xp
        x, pull_input = self._features(batch)
        training = rng is not None
        output, final, pull_core = self._recur(x, batch, rng, state, saves=training)
        read = output if self.spec.read is None else output[-self.spec.read :]
        predicted, pull_head = self._head(read, rng)
        check_targets(self.spec, batch.targets, predicted.shape)
        metrics, d_predicted = LOSSES[self.spec.loss](xp, predicted, xp.asarray(batch.targets))
        return metrics, d_predicted, (pull_input, pull_core, pull_head, output.shape), final

    def _features(self, batch: Batch) -> tuple[Array, Any]:
        """What the first layer receives, and the embedding's pullback."""
        xp, spec = self.engine.xp, self.spec
        inputs = xp.asarray(batch.inputs)
        check_inputs(spec, inputs)
        if spec.input == "dense":
            return xp.asarray(inputs, dtype=self.dtype), None
        if spec.input == "one_hot":
            return one_hot(xp, inputs, spec.input_size, self.dtype), None
        return embedding(xp, self.parameters["embedding.weight"], inputs)

    def _recur(
        self,
        x: Array,
        batch: Batch,
        rng: np.random.Generator | None,
        state: Any = None,
        saves: bool = True,
    ) -> Any:
        spec = self.spec
        layers = [self._named(f"layers.{k}.") for k in range(spec.layers)]
        zoneout = [self._zoneout(x.shape[:2], rng) for _ in layers]
        resets = None if batch.resets is None else self.engine.xp.asarray(batch.resets)
        return run(
            self.engine, spec.core, layers, x, state, spec.mechanism, resets, zoneout,
            impl=self.impl, saves=saves,
        )  # fmt: skip

    def _named(self, prefix: str) -> dict[str, Array]:
        return {k[len(prefix) :]: v for k, v in self.parameters.items() if k.startswith(prefix)}

    def _zoneout(self, steps: tuple[int, int], rng: np.random.Generator | None) -> Any:
        """Draws while training, the probabilities themselves at evaluation."""
        shape = (*steps, self.spec.hidden_size)
        amounts = tuple(
            p
            if rng is None or p == 0
            else self.engine.xp.asarray(rng.random(shape) < p, dtype=self.dtype)
            for p in (self.spec.zoneout if self.spec.core == "lstm" else self.spec.zoneout[1:])
        )
        return amounts if self.spec.core == "lstm" else amounts[0]

    def _head(self, x: Array, rng: np.random.Generator | None) -> tuple[Array, Any]:
        """ReLU layers and the output layer; the pullback returns (gradients, d_x)."""
        xp, pulls, names = self.engine.xp, [], self.spec.head_names()
        for k, (weight, bias) in enumerate(names):
            x, pull_linear = linear(xp, self.parameters[weight], self.parameters[bias], x)
            pull_relu = None
            if k < len(self.spec.head):
                x, pull_relu = relu_dropout(xp, x, self.spec.dropout, rng)
            pulls.append((k, pull_linear, pull_relu))

        def pullback(d_out: Array) -> tuple[dict[str, Array], Array]:
            gradients = {}
            for k, pull_linear, pull_relu in reversed(pulls):
                d_out = d_out if pull_relu is None else pull_relu(d_out)
                weight, bias = names[k]
                gradients[weight], gradients[bias], d_out = pull_linear(d_out)
            return gradients, d_out

        return x, pullback

    def _norm(self, gradients: Mapping[str, Array]) -> float:
        """The global norm, its squares summed in float64."""
        squares = [float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()]
        return float(np.sqrt(sum(squares)))

    def _adam(self, gradients: Mapping[str, Array], learning_rate: float, scale: float) -> None:
        xp, (beta1, beta2) = self.engine.xp, self.betas
        rate = learning_rate / (1 - beta1**self.steps)
        root = np.sqrt(1 - beta2**self.steps)
        for name, value in self.parameters.items():
            gradient = gradients[name] * self.dtype.type(scale)
            first, second = self._first[name], self._second[name]
            first += (1 - beta1) * (gradient - first)
            second += (1 - beta2) * (gradient * gradient - second)
            value -= rate * first / (xp.sqrt(second) / root + self.eps)
