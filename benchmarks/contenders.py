"""What is raced: one recurrent layer, one training step (forward and backward of a whole sequence).

To add a contender, write a function that takes a :class:`Shape` and returns a function of no
arguments that does one step in float32, and name it in ``CONTENDERS``. All are given the same
inputs and the same cotangent of the output, and compute the gradients of the parameters; that of
the input only where it is wide enough to be the output of another layer.
"""

import functools
import importlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Sizes of a sequence and of the layer it goes through."""

    time: int
    batch: int
    input: int
    hidden: int

    @property
    def wrt_input(self) -> bool:
        """Whether the input's gradient is wanted: not for data, only for another layer's output."""
        return self.input > 100


SHAPES = {
    "copy": Shape(520, 32, 10, 256),
    "pixel": Shape(784, 50, 1, 512),
    "lm": Shape(128, 32, 512, 1024),
    "tiny": Shape(200, 16, 8, 64),
    "digits": Shape(64, 64, 1, 128),
}
REFERENCE = "torch.nn.LSTM"
Step = Callable[[], object]


def data(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (time, batch, input) and the output's cotangent (time, batch, hidden), float32."""
    rng = np.random.default_rng(0)
    time, batch, *widths = shape
    x, cotangent = (rng.standard_normal((time, batch, width), np.float32) for width in widths)
    return x, cotangent


def torch_layer(make: Callable[[Shape], object], shape: Shape) -> Step:
    """A torch module with the calls of ``torch.nn.LSTM``."""
    import torch

    x, cotangent = map(torch.from_numpy, data(shape))
    x.requires_grad_(shape.wrt_input)
    torch.manual_seed(0)
    layer = make(shape)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x)[0].backward(cotangent)

    return step


def torch_lstm(shape: Shape) -> object:
    """torch's own layer: oneDNN on a CPU."""
    import torch

    return torch.nn.LSTM(shape.input, shape.hidden)


def gatecore_layer(mechanism: str, shape: Shape) -> object:
    """gatecore's layer with the parameters of its other backends."""
    from gatecore.backends.torch import LSTM

    return LSTM(shape.input, shape.hidden, mechanism=mechanism)


def naive_layer(shape: Shape) -> object:
    """A UR-LSTM as people write it: two linear maps, a loop over time, equations (12)-(15)."""
    import torch
    from torch import nn

    class Naive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input = nn.Linear(shape.input, 4 * shape.hidden)
            self.state = nn.Linear(shape.hidden, 4 * shape.hidden)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = c = x.new_zeros(x.shape[1], shape.hidden)
            outputs = []
            for step in x:
                r, f, u, o = (self.input(step) + self.state(h)).chunk(4, dim=1)
                r, f, o = r.sigmoid(), f.sigmoid(), o.sigmoid()
                g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
                c = g * c + (1 - g) * u.tanh()
                h = o * c.tanh()
                outputs.append(h)
            return torch.stack(outputs), c

    return Naive()


def explicit_lstm(backend: str, mechanism: str, shape: Shape) -> Step:
    """A backend with explicit backpropagation through time."""
    from gatecore import cells
    from gatecore.backends import load

    x, cotangent = data(shape)
    params = {
        name: value.astype(np.float32)
        for name, value in cells.LSTM(shape.input, shape.hidden, mechanism).init(0).items()
    }
    lstm = load(backend).lstm

    def step() -> object:
        _, _, pullback = lstm(params, x, mechanism=mechanism)
        return pullback(cotangent, wrt_x=shape.wrt_input)

    return step


def jax_lstm(mechanism: str, shape: Shape) -> Step:
    """The JAX backend's function, and the gradient of it, compiled."""
    import jax.numpy as jnp

    from gatecore import cells
    from gatecore.backends.jax import lstm

    drawn = cells.LSTM(shape.input, shape.hidden, mechanism).init(0)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in drawn.items()}
    return _jax_step(lambda params, x: lstm(params, x, mechanism=mechanism)[0], params, shape)


def flax_lstm(shape: Shape) -> Step:
    """``lax.scan`` of a standard LSTM written the usual way: flax's cell in its ``nnx.RNN``.

    Of flax's two cells this is the one whose four products are one, the faster one on most shapes.
    """
    import jax.numpy as jnp
    from flax import nnx

    cell = nnx.OptimizedLSTMCell(shape.input, shape.hidden, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(nnx.RNN(cell, time_major=True))

    def forward(weights: object, x: object) -> object:
        zeros = jnp.zeros((shape.batch, shape.hidden), jnp.float32)
        return nnx.merge(graph, weights)(x, initial_carry=(zeros, zeros))

    return _jax_step(forward, nnx.as_pure(weights), shape)


def _jax_step(forward: Callable[..., object], params: object, shape: Shape) -> Step:
    import jax

    x, cotangent = map(jax.numpy.asarray, data(shape))

    @jax.jit
    def gradients(params: object, x: object, cotangent: object) -> object:
        if shape.wrt_input:
            return jax.vjp(forward, params, x)[1](cotangent)
        return jax.vjp(lambda params: forward(params, x), params)[1](cotangent)

    return lambda: jax.block_until_ready(gradients(params, x, cotangent))


CONTENDERS: dict[str, Callable[[Shape], Step]] = {
    REFERENCE: functools.partial(torch_layer, torch_lstm),
    "torch UR": functools.partial(torch_layer, functools.partial(gatecore_layer, "UR")),
    "torch standard": functools.partial(torch_layer, functools.partial(gatecore_layer, "standard")),
    "naive Python loop": functools.partial(torch_layer, naive_layer),
    "NumPy UR": functools.partial(explicit_lstm, "numpy", "UR"),
    "NumPy standard": functools.partial(explicit_lstm, "numpy", "standard"),
    "JAX UR": functools.partial(jax_lstm, "UR"),
    "JAX standard": functools.partial(jax_lstm, "standard"),
    "flax.nnx.OptimizedLSTMCell": flax_lstm,
}


def use_threads(count: int, contenders: list[str]) -> None:
    """Give each contender that many threads; NumPy's come from the environment, before import.

    XLA takes the cores that the process may run on.
    """
    if REFERENCE in contenders:
        importlib.import_module("torch").set_num_threads(count)
