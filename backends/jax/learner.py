"""A ``ModelSpec`` trained by JAX: the NumPy learner's interface, its numbers to rounding."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
from gatecore.backends.jax import scan, sequence
from gatecore.contracts.model import Batch, ModelSpec

Array = jax.Array
Arrays = dict[str, Array]
_CONFIG: Any = jax.config  # its options are attributes that type checkers do not see


class Learner:
    """Trains a ``ModelSpec`` with optax's Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Initial weights, draws, and so the first losses are those of the NumPy learner of equal seed;
    states interchange. A step is compiled once for each shape of batch. Products are float32
    throughout, unless JAX's ``jax_default_matmul_precision`` says otherwise.

    Parameters
    ----------
    spec : ModelSpec
    seed : int
    betas, eps : Adam's
    dtype : {"float32", "float64"}
        The latter needs JAX's ``jax_enable_x64``.
    impl : {"auto", "native", "reference"}
        What runs the layers, as in :func:`lstm`; :meth:`gates` takes the scan.

    Raises
    ------
    ValueError
        A setting out of its range, or an ``impl`` that can't be taken, with the reason.

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
        impl: str = "auto",
    ) -> None:
        self.spec, self.seed = spec, integer("seed", seed, at_least=0)
        check_model(spec)
        first, second = (probability("betas", beta, below_one=True) for beta in betas)
        self.adam = optax.scale_by_adam(first, second, number("eps", eps))
        self.dtype = jnp.dtype(choice("dtype", dtype, ("float32", "float64")))
        if self.dtype.itemsize == 8 and not _CONFIG.jax_enable_x64:
            raise ValueError(
                'dtype="float64" needs jax.config.update("jax_enable_x64", True), or '
                "JAX_ENABLE_X64=1 in the environment"
            )
        sequence.implementation(self.dtype, impl=impl)  # or it can't be taken
        self.impl = impl
        self.parameters = {k: jnp.asarray(v, self.dtype) for k, v in spec.initial(seed).items()}
        self._moments = self.adam.init(self.parameters)
        self._carried = {k: jnp.zeros(v, self.dtype) for k, v in spec.carried().items()}
        self.steps = 0
        self._update, self._measure, self._average = (
            jax.jit(function) for function in (self._stepped, self._loss, self._gates)
        )

    def step(
        self, batch: Batch, *, learning_rate: float, clip_norm: float | None = None
    ) -> dict[str, float]:
        """One step of Adam on one batch; as the NumPy learner's.

        Returns
        -------
        dict
            ``loss`` and, for the cross-entropy, ``accuracy`` before the step; ``gradient_norm``
            before clipping. If loss or norm is not finite, the parameters stay as they were; if
            the parameters themselves have overflowed, both are NaN.
        """
        check_settings(learning_rate, clip_norm)
        check_streams(self.spec, batch.inputs.shape[1], self.spec.streams)
        rng = np.random.default_rng([self.seed, self.steps])
        rate, clip = (
            np.asarray(np.inf if v is None else v, self.dtype) for v in (learning_rate, clip_norm)
        )
        count = np.asarray(self.steps, np.int32)
        moments = self._moments._replace(count=count)
        with _precision():
            start = by_layer(self.spec, self._carried) if self.spec.streams else None
            parameters, moments, sound, metrics, final = self._update(
                self.parameters, moments, self._arrays(batch, rng), start, rate, clip
            )
        if not bool(sound):
            return {"loss": float("nan"), "gradient_norm": float("nan")}
        self.parameters, self._moments = parameters, moments
        if self.spec.streams:
            self._carried = by_name(self.spec, final)
        self.steps += 1
        return {name: float(value) for name, value in metrics.items() if name != "count"}

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Means over all batches' scored elements; no dropout, zoneout in expectation.

        A model that carries its state starts from zeros, and does so from batch to batch.
        """
        totals: dict[str, float] = {}
        state, streams = None, None
        for batch in batches:
            check_streams(self.spec, batch.inputs.shape[1], streams)
            with _precision():
                _, (metrics, final) = self._measure(
                    self.parameters, self._arrays(batch, None), state
                )
            if self.spec.streams:
                state, streams = final, batch.inputs.shape[1]
            count = float(metrics["count"])
            for name, value in {**metrics, "count": 1.0}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * count
        count = totals.pop("count", 0.0)
        if not count:
            raise ValueError("batches must hold at least one scored element")
        return {name: total / count for name, total in totals.items()}

    def gates(self, batch: Batch) -> Gate:
        """The effective forget gate and its complement, each averaged over time and batch.

        Float64 NumPy arrays (layers, hidden); 1/complement is a timescale in steps.
        """
        with _precision():
            means = self._average(self.parameters, self._arrays(batch, None))
        return Gate(*(np.asarray(side, np.float64) for side in means))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that a resumed run needs, as NumPy arrays by flat name."""
        state = {"steps": np.asarray(self.steps)}
        for prefix, arrays in self._named_arrays().items():
            state |= {f"{prefix}.{name}": np.array(value) for name, value in arrays.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, after checking all of it.

        Raises
        ------
        ValueError
            An entry missing, unknown, or of another shape or dtype.
        """
        check_state(self.state_dict(), state)
        self.steps = int(state["steps"])
        for prefix, arrays in self._named_arrays().items():
            for name in arrays:
                arrays[name] = jnp.array(np.asarray(state[f"{prefix}.{name}"]))

    def _named_arrays(self) -> dict[str, Arrays]:
        return {
            "parameters": self.parameters,
            "first": self._moments.mu,
            "second": self._moments.nu,
            "carried": self._carried,
        }

    def _arrays(self, batch: Batch, rng: np.random.Generator | None) -> dict[str, Any]:
        """A batch, checked, with the draws of zoneout and dropout: what a step is compiled for."""
        spec, inputs = self.spec, np.asarray(batch.inputs)
        check_inputs(spec, inputs)
        time, size = inputs.shape[:2]
        read = time if spec.read is None else min(spec.read, time)
        check_targets(spec, np.asarray(batch.targets), (read, size, spec.output_size))
        zoneout = [self._zoneout((time, size), rng) for _ in range(spec.layers)]
        dropout = []
        if rng is not None and spec.dropout:
            dropout = [rng.random((read, size, w)) >= spec.dropout for w in spec.head]
        real = {"dense": self.dtype}.get(spec.input, np.int32)
        scored = self.dtype if spec.loss == "squared_error" else np.int32
        return {
            "inputs": inputs.astype(real),
            "targets": np.asarray(batch.targets).astype(scored),
            "resets": None if batch.resets is None else np.asarray(batch.resets),
            "zoneout": zoneout,
            "dropout": dropout,
        }

    def _zoneout(self, steps: tuple[int, int], rng: np.random.Generator | None) -> Any:
        """Draws while training, the probabilities themselves at evaluation."""
        lstm = self.spec.core == "lstm"
        probabilities = self.spec.zoneout if lstm else self.spec.zoneout[1:]
        if not any(probabilities):
            return None
        shape = (*steps, self.spec.hidden_size)
        amounts = tuple(
            np.asarray(p if rng is None or p == 0 else rng.random(shape) < p, self.dtype)
            for p in probabilities
        )
        return amounts if lstm else amounts[0]

    def _stepped(
        self, parameters: Arrays, moments: Any, batch: dict[str, Any], start: Any, rate: Array,
        clip: Array,
    ) -> tuple[Arrays, Any, Array, dict[str, Array], Any]:  # fmt: skip
        """Parameters, moments, whether the former were finite before, metrics, the last state."""
        (loss, (metrics, final)), gradients = jax.value_and_grad(self._loss, has_aux=True)(
            parameters, batch, start
        )
        norm = optax.tree.norm(gradients)
        scale = jnp.minimum(1, clip / (norm + 1e-6))
        updates, new = self.adam.update(jax.tree.map(lambda g: g * scale, gradients), moments)
        moved = {k: v - rate * updates[k] for k, v in parameters.items()}
        usable = jnp.isfinite(loss) & jnp.isfinite(norm)
        parameters_and_moments = jax.tree.map(
            lambda after, before: jnp.where(usable, after, before),
            (moved, new.mu, new.nu),
            (parameters, moments.mu, moments.nu),
        )
        moved, mu, nu = parameters_and_moments
        sound = jnp.stack([jnp.isfinite(p).all() for p in parameters.values()]).all()
        metrics["gradient_norm"] = norm
        if start is not None:
            final = jax.tree.map(lambda new, old: jnp.where(usable, new, old), final, start)
        return moved, new._replace(mu=mu, nu=nu), sound, metrics, final

    def _loss(
        self, parameters: Arrays, batch: dict[str, Any], start: Any
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """The loss; the metrics with their count of scored elements, and the last state."""
        x = self._features(parameters, batch)
        x, final = getattr(sequence, self.spec.core)(
            self._layers(parameters),
            x,
            start,
            self.spec.mechanism,
            resets=batch["resets"],
            zoneout=batch["zoneout"],
            impl=self.impl,
        )
        x = x if self.spec.read is None else x[-self.spec.read :]
        predicted, targets = self._head(parameters, x, batch["dropout"]), batch["targets"]
        if self.spec.loss == "squared_error":
            loss = jnp.square(predicted - targets).mean()
            return loss, ({"loss": loss, "count": jnp.asarray(targets.size)}, final)
        scored = targets >= 0
        count = jnp.maximum(scored.sum(), 1)
        each = optax.softmax_cross_entropy_with_integer_labels(
            predicted, jnp.where(scored, targets, jnp.zeros_like(targets))
        )
        loss = jnp.where(scored, each, jnp.zeros_like(each)).sum() / count.astype(each.dtype)
        right = (predicted.argmax(-1).astype(targets.dtype) == targets) & scored
        accuracy = right.sum().astype(each.dtype) / count.astype(each.dtype)
        return loss, ({"loss": loss, "accuracy": accuracy, "count": count}, final)

    def _features(self, parameters: Arrays, batch: dict[str, Any]) -> Array:
        """What the first layer receives."""
        if self.spec.input == "dense":
            return batch["inputs"]
        if self.spec.input == "one_hot":  # jax gives zeros for -1
            return jax.nn.one_hot(batch["inputs"], self.spec.input_size, dtype=self.dtype)
        return parameters["embedding.weight"][batch["inputs"]]

    def _layers(self, parameters: Arrays) -> list[Arrays]:
        prefixes = [f"layers.{k}." for k in range(self.spec.layers)]
        return [
            {k.removeprefix(p): v for k, v in parameters.items() if k.startswith(p)}
            for p in prefixes
        ]

    def _head(self, parameters: Arrays, x: Array, kept: list[Array]) -> Array:
        """ReLU layers with dropout, and the output layer."""
        for k, (weight, bias) in enumerate(self.spec.head_names()):
            x = x @ parameters[weight].T + parameters[bias][None, None]
            if k < len(self.spec.head):
                x = jax.nn.relu(x)
                if kept:
                    x = jnp.where(kept[k], x / (1 - self.spec.dropout), jnp.zeros_like(x))
        return x

    def _gates(self, parameters: Arrays, batch: dict[str, Any]) -> tuple[Array, Array]:
        """Both sides of the effective forget gate, (layers, hidden), averaged."""
        x, means = self._features(parameters, batch), []
        for params, zoneout in zip(self._layers(parameters), batch["zoneout"], strict=True):
            layer, matrix, bias, start, steps = sequence.prepared(
                self.spec.core, params, x, None, self.spec.mechanism, batch["resets"], zoneout
            )
            (x, *_), _, (_, logits) = scan.forward(layer, matrix, bias, start, steps)
            forget, _ = layer.mechanism.gates(layer.split(logits))
            means.append([side.mean((0, 1)) for side in forget])
        value, complement = (jnp.stack(side) for side in zip(*means, strict=True))
        return value, complement


def _precision() -> Any:
    return jax.default_matmul_precision(_CONFIG.jax_default_matmul_precision or "float32")
