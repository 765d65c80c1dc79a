"""A ``ModelSpec`` trained by JAX: the NumPy learner's interface, its numbers to rounding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gatecore.backends.common import learner as common
from gatecore.backends.common.blocks import apply_layers
from gatecore.backends.common.learner import Noise, layer_parameters, single
from gatecore.backends.common.learner_checks import check_model
from gatecore.backends.jax import linear_recurrence, sequence
from gatecore.backends.jax.arguments import checked
from gatecore.backends.jax.implementation import Call
from gatecore.backends.jax.linear_recurrence import PARALLEL
from gatecore.backends.jax.reference import REFERENCE
from gatecore.contracts.model import Batch
from gatecore.normalization import layer_norm

Array = jax.Array
Arrays = dict[str, Array]
_CONFIG: Any = jax.config  # its options are attributes that type checkers do not see


class Learner(common.LearnerBase):
    """Trains a ``ModelSpec`` with optax's Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Equal seeds give the initial weights and the noise of the NumPy learner, and so its first
    losses; states interchange. A step is compiled once for each shape of batch. Products are
    float32 throughout, unless JAX's ``jax_default_matmul_precision`` says otherwise. ValueError or
    TypeError for a setting out of its range, and for a model or an ``impl`` that is not supported.

    Keywords are ``seed``, at least 0; Adam's ``betas`` in [0, 1), by default (0.9, 0.999), and
    ``eps`` above 0, by default 1e-8; ``dtype``, "float32" or "float64", which needs JAX's
    ``jax_enable_x64``; and ``impl``, "auto", "native" or "reference", the implementation of the
    layers, as :func:`lstm` takes it; :meth:`gates` uses the scan.

    >>> from gatecore import Batch, ModelSpec
    >>> spec = ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=8)
    >>> learner = Learner(spec, seed=0)
    >>> tokens = np.array([[0, 1], [2, 3], [1, 0]])
    >>> metrics = learner.step(Batch(tokens, tokens), learning_rate=1e-3)
    >>> sorted(metrics)
    ['accuracy', 'gradient_norm', 'loss']
    """

    def _build(self, initial: dict[str, np.ndarray]) -> None:
        check_model(self.spec)
        self.adam = optax.scale_by_adam(*self.betas, self.eps)
        self.dtype = jnp.dtype(self.dtype)
        if self.dtype.itemsize == 8 and not _CONFIG.jax_enable_x64:
            raise ValueError('dtype="float64" needs jax.config.update("jax_enable_x64", True), or '
                             "JAX_ENABLE_X64=1 in the environment")  # fmt: skip
        recurrent = self.spec.cells()[0].recurrent
        call = Call(self.dtype, recurrent=recurrent, layer_norm=self.spec.layer_norm)
        sequence.choose(self.impl, call)  # raises if it is unsupported
        self.parameters = {k: jnp.asarray(v, self.dtype) for k, v in initial.items()}
        self._moments = self.adam.init(self.parameters)
        self._first, self._second = self._moments.mu, self._moments.nu
        self._carried = {k: jnp.zeros(v, self.dtype) for k, v in self.spec.carried().items()}
        self._update, self._evaluate = jax.jit(self._updated), jax.jit(self._loss)
        self._average = jax.jit(self._averages, static_argnums=2)

    def _copied(self, value: Any) -> np.ndarray:
        return np.array(value)

    def _assign(self, arrays: Arrays, name: str, value: Any) -> None:
        arrays[name] = jnp.array(np.asarray(value))

    def _train(self, batch: Batch, noise: Noise, learning_rate: float,
               clip_norm: float | None) -> dict[str, Any] | None:  # fmt: skip
        clip_norm = np.inf if clip_norm is None else clip_norm
        rate, clip = (np.asarray(v, self.dtype) for v in (learning_rate, clip_norm))
        count = np.asarray(self.steps, np.int32)
        moments = self._moments._replace(count=count, mu=self._first, nu=self._second)
        with _precision():
            parameters, moments, finite, metrics, carried = self._update(
                self.parameters, moments, self._inputs(batch, noise), self._carried, rate, clip
            )
        if not bool(finite):
            return None
        self.parameters, self._first, self._second = parameters, moments.mu, moments.nu
        self._carried.update(carried)
        return metrics

    def _measure(self, batch: Batch, noise: Noise, carried: Arrays | None) -> Any:
        with _precision():
            return self._evaluate(self.parameters, self._inputs(batch, noise), carried)[1]

    def _forget_gates(self, batch: Batch, noise: Noise, main: bool) -> tuple[Array, Array]:
        with _precision():
            return self._average(self.parameters, self._inputs(batch, noise), main)

    def _inputs(self, batch: Batch, noise: Noise) -> dict[str, Any]:
        """A batch and its noise, of the types that a step is compiled for."""
        real = {"dense": self.dtype}.get(self.spec.input, np.int32)
        scored = self.dtype if self.spec.loss == "squared_error" else np.int32
        return {
            "inputs": np.asarray(batch.inputs).astype(real),
            "targets": np.asarray(batch.targets).astype(scored),
            "resets": None if batch.resets is None else np.asarray(batch.resets),
            "zoneout": [p and single(np.asarray(a, self.dtype) for a in p) for p in noise.zoneout],
            "dropout": noise.dropout,
            "embedding": noise.embedding,
        }

    def _updated(
        self, parameters: Arrays, moments: Any, batch: dict[str, Any], carried: Arrays, rate: Array,
        clip: Array,
    ) -> tuple[Arrays, Any, Array, dict[str, Array], Arrays]:  # fmt: skip
        """Parameters, moments, whether the former were finite before, metrics, carried state."""
        differentiated = jax.value_and_grad(self._loss, has_aux=True)
        (loss, (metrics, final)), gradients = differentiated(parameters, batch, carried or None)
        norm = optax.tree.norm(gradients)
        scale = jnp.minimum(1, clip / (norm + 1e-6))
        updates, new = self.adam.update(jax.tree.map(lambda g: g * scale, gradients), moments)
        moved = {k: v - rate * updates[k] for k, v in parameters.items()}
        usable = jnp.isfinite(loss) & jnp.isfinite(norm)
        after, before = ((moved, new.mu, new.nu, final),
                         (parameters, moments.mu, moments.nu, carried))  # fmt: skip
        moved, mu, nu, final = jax.tree.map(lambda a, b: jnp.where(usable, a, b), after, before)
        finite = jnp.stack([jnp.isfinite(p).all() for p in parameters.values()]).all()
        return moved, new._replace(mu=mu, nu=nu), finite, {**metrics, "gradient_norm": norm}, final

    def _loss(self, parameters: Arrays, batch: dict[str, Any],
              carried: Arrays | None) -> tuple[Array, tuple[dict[str, Array], Arrays]]:  # fmt: skip
        """The loss; the metrics with their count of scored elements, and the carried state."""
        x, initial = self._features(parameters, batch), common.layer_states(self.spec, carried)
        states: list[Any] = []

        def layer(k: int, x: Array) -> Array:
            x, state = getattr(sequence, self.spec.core)(
                layer_parameters(parameters, k), x, initial and initial[k], self.spec.mechanism,
                resets=batch["resets"], zoneout=batch["zoneout"][k], impl=self.impl,
                **self.spec.cell_fields,
            )  # fmt: skip
            states.append(state)
            return x

        x = self._apply_layers(parameters, x, layer)
        final = common.carried_states(self.spec, states)
        x = x if self.spec.read is None else x[-self.spec.read :]
        predicted, targets = self._head(parameters, x, batch["dropout"]), batch["targets"]
        if self.spec.loss == "squared_error":
            loss = jnp.square(predicted - targets).mean()
            return loss, ({"loss": loss, "count": jnp.asarray(targets.size)}, final)
        scored = targets >= 0
        count = jnp.maximum(scored.sum(), 1)
        labels = jnp.where(scored, targets, jnp.zeros_like(targets))
        each = optax.softmax_cross_entropy_with_integer_labels(predicted, labels)
        loss = jnp.where(scored, each, jnp.zeros_like(each)).sum() / count.astype(each.dtype)
        right = (predicted.argmax(-1).astype(targets.dtype) == targets) & scored
        accuracy = right.sum().astype(each.dtype) / count.astype(each.dtype)
        return loss, ({"loss": loss, "accuracy": accuracy, "count": count}, final)

    def _features(self, parameters: Arrays, batch: dict[str, Any]) -> Array:
        """The first layer's input."""
        if self.spec.input == "dense":
            return batch["inputs"]
        if self.spec.input == "one_hot":  # jax gives zeros for -1
            return jax.nn.one_hot(batch["inputs"], self.spec.input_size, dtype=self.dtype)
        rows = parameters["embedding.weight"][batch["inputs"]]
        return _dropped(rows, self.spec.embedding_dropout, batch["embedding"])

    def _apply_layers(self, parameters: Arrays, x: Array, layer: Any) -> Array:
        sizes = self.spec.layers, self.spec.residual
        return apply_layers(parameters, *sizes, x, layer, _linear, layer_norm)

    def _head(self, parameters: Arrays, x: Array, mask: list[Array]) -> Array:
        """ReLU layers with dropout, and the output layer."""
        for k, (weight, bias) in enumerate(self.spec.head_names()):
            x = _linear(x, parameters[weight], parameters[bias])
            if k < len(self.spec.head):
                x = _dropped(jax.nn.relu(x), self.spec.dropout, mask[k] if mask else None)
        return x

    def _averages(self, parameters: Arrays, batch: dict[str, Any],
                  main: bool) -> tuple[Array, Array]:  # fmt: skip
        """Both sides of the effective or main forget gate, (layers, hidden), averaged."""
        means = []

        def layer(k: int, x: Array) -> Array:
            cell, arguments = checked(
                self.spec.core, layer_parameters(parameters, k), x, None, self.spec.mechanism,
                batch["resets"], batch["zoneout"][k], **self.spec.cell_fields,
            )  # fmt: skip
            if cell.recurrent:
                (x,), _, (_, packed, *_) = REFERENCE.forward(cell, 1, True, arguments)
                logits = cell.split(packed)
            else:
                (x,), *_ = PARALLEL.forward(cell, 1, False, arguments)
                logits = linear_recurrence.logits_of(cell, arguments)
            gates = cell.mechanism.activate(logits)
            forget = gates["forget"] if main else cell.mechanism.combine(gates)[0]
            means.append([side.mean((0, 1)) for side in forget])
            return x

        self._apply_layers(parameters, self._features(parameters, batch), layer)
        value, complement = (jnp.stack(side) for side in zip(*means, strict=True))
        return value, complement


def _linear(x: Array, weight: Array, bias: Array) -> Array:
    return x @ weight.T + bias[None, None]


def _dropped(x: Array, rate: float, mask: Array | None) -> Array:
    """``x`` with dropout where ``mask`` is false."""
    return x if mask is None else jnp.where(mask, x / (1 - rate), jnp.zeros_like(x))


def _precision() -> Any:
    return jax.default_matmul_precision(_CONFIG.jax_default_matmul_precision or "float32")
