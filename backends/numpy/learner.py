"""A model trained by manual BPTT: recurrent layers with their head, gradients and Adam."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gatecore.backends.common import learner as common
from gatecore.backends.common.implementation import choose
from gatecore.backends.common.learner import Noise, layer_parameters, layer_states, single
from gatecore.backends.common.learner_checks import check_model
from gatecore.backends.numpy import feedforward
from gatecore.backends.numpy.backbone import Backbone
from gatecore.backends.numpy.bptt import Call, Engine, run
from gatecore.contracts.model import Batch, ModelSpec

Array = Any
Arrays = dict[str, Array]


class ExplicitLearner(common.GradientLearner):
    """Trains a ``ModelSpec`` by manual backpropagation through time on an engine's arrays."""

    def __init__(self, engine: Engine, spec: ModelSpec, **settings: Any) -> None:
        self.engine = engine
        super().__init__(spec, **settings)

    def _build(self, initial: dict[str, np.ndarray]) -> None:
        check_model(self.spec)
        engine, xp = self.engine, self.engine.xp
        self.dtype = xp.dtype(self.dtype)
        cell = self.spec.cells()[0]
        choose(engine.implementations, self.impl, Call(engine, cell, {}, (1, 1), self.dtype))
        self.parameters = {k: xp.asarray(v, dtype=self.dtype) for k, v in initial.items()}
        self._first = {k: xp.zeros_like(v) for k, v in self.parameters.items()}
        self._second = {k: xp.zeros_like(v) for k, v in self.parameters.items()}
        self._carried = {k: xp.zeros(v, dtype=self.dtype) for k, v in self.spec.carried().items()}

    def _copied(self, value: Array) -> Array:
        return value.copy()

    def _assign(self, arrays: Arrays, name: str, value: Any) -> None:
        arrays[name][...] = self.engine.xp.asarray(value)

    def _finite(self) -> bool:
        return all(self.engine.xp.isfinite(p).all() for p in self.parameters.values())

    def _measure(self, batch: Batch, noise: Noise,
                 carried: Arrays | None) -> tuple[dict[str, float], Arrays]:  # fmt: skip
        metrics, _, _, final = self._forward(batch, noise, carried, save_for_backward=False)
        return metrics, final

    def _forget_gates(self, batch: Batch, noise: Noise, main: bool) -> tuple[Array, Array]:
        gates = self._layers(self._features(batch, noise)[0], batch, noise).gates(main)
        value, complement = (np.stack([side.mean((0, 1), dtype=np.float64) for side in sides])
                             for sides in zip(*gates, strict=True))  # fmt: skip
        return value, complement

    def _gradients(self, batch: Batch, noise: Noise,
                   carried: Arrays | None) -> tuple[dict[str, float], Arrays, Arrays]:  # fmt: skip
        metrics, d_predicted, pulls, final = self._forward(batch, noise, carried)
        pull_input, layers, pull_head = pulls
        gradients, d_read = pull_head(d_predicted())
        d_output = self.engine.xp.zeros(layers.output.shape, dtype=self.dtype)
        d_output[-d_read.shape[0] :] = d_read
        d_layers, d_x = layers.pullback(d_output, wrt_x=pull_input is not None)
        gradients |= d_layers
        if pull_input is not None:
            tied = gradients.get("embedding.weight", 0)  # the output layer's, if it is shared
            gradients["embedding.weight"] = pull_input(d_x) + tied
        squares = sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values())
        return {**metrics, "gradient_norm": float(np.sqrt(squares))}, gradients, final

    def _forward(self, batch: Batch, noise: Noise, carried: Arrays | None,
                 save_for_backward: bool = True) -> tuple[Any, Any, Any, Arrays]:  # fmt: skip
        """Metrics, pullbacks (of the loss; of input, layers and head), and the carried state."""
        xp, spec = self.engine.xp, self.spec
        x, pull_input = self._features(batch, noise)
        layers = self._layers(x, batch, noise, carried, save_for_backward)
        read = layers.output if spec.read is None else layers.output[-spec.read :]
        predicted, pull_head = self._head(read, noise)
        loss = feedforward.LOSSES[spec.loss]
        metrics, d_predicted = loss(xp, predicted, xp.asarray(batch.targets))
        final = common.carried_states(spec, layers.states)
        return metrics, d_predicted, (pull_input, layers, pull_head), final

    def _features(self, batch: Batch, noise: Noise) -> tuple[Array, Any]:
        """The first layer's input, and the embedding's pullback."""
        xp, spec = self.engine.xp, self.spec
        inputs = xp.asarray(batch.inputs)
        if spec.input == "dense":
            return xp.asarray(inputs, dtype=self.dtype), None
        if spec.input == "one_hot":
            return feedforward.one_hot(xp, inputs, spec.input_size, self.dtype), None
        weight, rate = self.parameters["embedding.weight"], spec.embedding_dropout
        return feedforward.embedding(xp, weight, inputs, rate, noise.embedding)

    def _layers(self, x: Array, batch: Batch, noise: Noise, carried: Arrays | None = None,
                save_for_backward: bool = True) -> Backbone:  # fmt: skip
        """The layers, run on x."""
        spec, xp = self.spec, self.engine.xp

        def amount(value: Any) -> Any:  # a probability as it is, draws in the learner's dtype
            return xp.asarray(value, dtype=self.dtype) if isinstance(value, np.ndarray) else value

        zoneout = [p and single(map(amount, p)) for p in noise.zoneout]
        resets = None if batch.resets is None else xp.asarray(batch.resets)
        states = layer_states(spec, carried)

        def layer(k: int, x: Array) -> Any:
            return run(
                self.engine, spec.core, layer_parameters(self.parameters, k), x,
                states and states[k], spec.mechanism, resets=resets, zoneout=zoneout[k],
                impl=self.impl, save_for_backward=save_for_backward, **spec.cell_fields,
            )  # fmt: skip

        return Backbone(xp, spec, self.parameters, x, layer)

    def _head(self, x: Array, noise: Noise) -> tuple[Array, Any]:
        """ReLU layers and the output layer; the pullback returns (gradients, d_x)."""
        xp, pulls, names = self.engine.xp, [], self.spec.head_names()
        for k, (weight, bias) in enumerate(names):
            arrays = self.parameters[weight], self.parameters[bias]
            x, pull_linear = feedforward.linear(xp, *arrays, x)
            pull_relu = None
            if k < len(self.spec.head):
                mask = noise.dropout[k] if noise.dropout else None
                x, pull_relu = feedforward.relu_dropout(xp, x, self.spec.dropout, mask)
            pulls.append((k, pull_linear, pull_relu))

        def pullback(d_out: Array) -> tuple[Arrays, Array]:
            gradients = {}
            for k, pull_linear, pull_relu in reversed(pulls):
                d_out = d_out if pull_relu is None else pull_relu(d_out)
                weight, bias = names[k]
                gradients[weight], gradients[bias], d_out = pull_linear(d_out)
            return gradients, d_out

        return x, pullback

    def _adam(self, gradients: Mapping[str, Array], count: int, learning_rate: float,
              scale: float) -> None:  # fmt: skip
        xp, (beta1, beta2) = self.engine.xp, self.betas
        rate = learning_rate / (1 - beta1**count)
        root = np.sqrt(1 - beta2**count)
        for name, value in self.parameters.items():
            gradient = gradients[name] * self.dtype.type(scale)
            first, second = self._first[name], self._second[name]
            first += (1 - beta1) * (gradient - first)
            second += (1 - beta2) * (gradient * gradient - second)
            value -= rate * first / (xp.sqrt(second) / root + self.eps)
