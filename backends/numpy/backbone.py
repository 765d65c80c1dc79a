"""The layers of a learner's model, stacked or in residual blocks, with their pullback."""

from collections.abc import Callable, Mapping
from typing import Any

from gatecore.algebra import Gate
from gatecore.backends.numpy import feedforward
from gatecore.backends.numpy.bptt import Pullback
from gatecore.contracts.model import ModelSpec

Array = Any
Arrays = dict[str, Array]
RunLayer = Callable[[int, Array], tuple[Array, Any, Pullback]]


class Backbone:
    """The layers of ``spec`` for one x (time, batch, features): its outputs and derivative.

    ``layer(k, x)`` runs the k-th recurrent layer: output, last state and pullback.
    ``gatecore.backends.common.blocks.apply_layers`` has the same equations. ``output`` is (time,
    batch, hidden), ``states`` has the last state of each layer.
    """

    def __init__(self, xp: Any, spec: ModelSpec, parameters: Mapping[str, Array], x: Array,
                 layer: RunLayer) -> None:  # fmt: skip
        self._xp, self._spec, self._parameters = xp, spec, parameters
        self._pulls: list[tuple[str, Any]] = []  # of the layers around the recurrent ones
        self._layers: list[Pullback] = []
        self.states: list[Any] = []
        if spec.projected:
            x = self._apply(feedforward.linear, "projection", x)
        for k in range(spec.layers):
            inner = x
            if spec.residual:
                inner = self._apply(feedforward.layer_norm, f"blocks.{k}.norm", x)
            inner, state, pullback = layer(k, inner)
            self.states.append(state)
            self._layers.append(pullback)
            if spec.residual:
                inner = x + self._apply(feedforward.linear, f"blocks.{k}.linear", inner)
            x = inner
        if spec.residual:
            x = self._apply(feedforward.layer_norm, "norm", x)
        self.output = x

    def pullback(self, d: Array, wrt_x: bool) -> tuple[Arrays, Array | None]:
        """Gradients by parameter, and of x if ``wrt_x``, for the cotangent of the output."""
        spec, pulls, gradients = self._spec, [*self._pulls], dict[str, Array]()

        def back(cotangent: Array) -> Array:
            name, pull = pulls.pop()
            weight, bias, cotangent = pull(cotangent)
            gradients.update({f"{name}.weight": weight, f"{name}.bias": bias})
            return cotangent

        if spec.residual:
            d = back(d)
        for k in reversed(range(spec.layers)):
            inner = back(d) if spec.residual else d
            needed = wrt_x or spec.residual or k > 0
            layer, inner, _ = self._layers[k](inner, wrt_x=needed)
            gradients |= {f"layers.{k}.{name}": value for name, value in layer.items()}
            if spec.two_biases:
                gradients[f"layers.{k}.bias_hh"] = layer["bias"]
            d = d + back(inner) if spec.residual else inner
        return gradients, back(d) if spec.projected else d

    def gates(self, main: bool) -> list[Gate]:
        """The effective or main forget gates of each layer, (time, batch, hidden) each side."""
        return [pullback.gates(main) for pullback in self._layers]

    def _apply(self, function: Any, name: str, x: Array) -> Array:
        """The output of one layer of parameters ``name``, whose pullback is saved."""
        arrays = self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]
        x, pull = function(self._xp, *arrays, x)
        self._pulls.append((name, pull))
        return x
