"""Implementations of one recurrent layer: a training step, forward and backward, of each.

To add one, write a function that takes a :class:`Shape` and returns a function without arguments
that runs one step in float32, and register it in ``TRAINING``. All get the same inputs and the same
cotangent of the output, and compute the gradients of the parameters, and that of the input where
it is wide enough to be the output of another layer. ``INFERENCE`` holds forward passes without
gradients, in the same form.
"""

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gatecore.cells import CELLS
from gatecore.mechanisms import Mechanism, mechanism


class Shape(NamedTuple):
    """Sizes of a sequence and of the layer it goes through."""

    time: int
    batch: int
    input: int
    hidden: int

    @property
    def wrt_input(self) -> bool:
        """Whether the input's gradient is computed: for another layer's output, not for data."""
        return self.input > 100


SHAPES = {
    "copy": Shape(520, 32, 10, 256),
    "pixel": Shape(784, 50, 1, 512),
    "lm": Shape(128, 32, 512, 1024),
    "tiny": Shape(200, 16, 8, 64),
    "digits": Shape(64, 64, 1, 128),
}
SINGLE_SHAPES = {f"H={units}": Shape(256, 1, units, units) for units in (128, 256, 512, 1024)}
CELL_STEPS = 16  # of those, by a cell, or by a layer that is called for each
LENGTHS = (1024, 2048, 4096, 16384, 65536)
LONG_SHAPES = {f"T={time}": Shape(time, 16, 64, 256) for time in LENGTHS}
REFERENCE, REFERENCE_GRU = "torch.nn.LSTM", "torch.nn.GRU"
Step = Callable[[], object]


def operations(name: str, shape: Shape) -> int:
    """Floating-point operations of the products of a training step, by the words of the name."""
    core = next((core for core in ("GRU", "Minimal") if core in name), "LSTM").lower()
    gates = next((gates for gates in ("UR", "OM", "UM") if f" {gates}" in name), "standard")
    chosen = mechanism(gates, downsize=16 if "C = 16" in name else 1)
    rows = CELLS[core](shape.input, shape.hidden, chosen).rows
    inputs, hidden = shape.input, shape.hidden
    columns = 2 * (inputs + hidden) + hidden + inputs * shape.wrt_input
    return 2 * shape.time * shape.batch * rows * columns


def data(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (time, batch, input) and the output's cotangent (time, batch, hidden), float32."""
    rng = np.random.default_rng(0)
    time, batch, *widths = shape
    x, cotangent = (rng.standard_normal((time, batch, width), np.float32) for width in widths)
    return x, cotangent


def torch_layer(make: Callable[[Shape], object], shape: Shape, training: bool = True) -> Step:
    """A step of a torch module that is called as ``torch.nn.LSTM`` is."""
    import torch

    x, cotangent = map(torch.from_numpy, data(shape))
    x.requires_grad_(shape.wrt_input)
    torch.manual_seed(0)
    layer = make(shape)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x)[0].backward(cotangent)

    def infer() -> None:
        with torch.no_grad():
            layer(x)

    return step if training else infer


def torch_steps(make: Callable[[Shape], object], shape: Shape, training: bool = False,
                layer: bool = False) -> Step:  # fmt: skip
    """CELL_STEPS calls of a torch cell, or of a layer for one step each, carrying the state.

    The backward pass, from the last hidden state, follows after all of them.
    """
    import torch

    x, cotangent = (torch.from_numpy(array[:CELL_STEPS]) for array in data(shape))
    x.requires_grad_(training and shape.wrt_input)
    torch.manual_seed(0)
    module = make(shape)

    def steps() -> torch.Tensor:
        state = None
        for step in x.split(1) if layer else x:
            result = module(step, state)
            state = result[1] if layer else result
        return state[0] if isinstance(state, tuple) else state

    def train() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        steps().backward(cotangent[-1])

    def infer() -> None:
        with torch.no_grad():
            steps()

    return train if training else infer


def torch_own(kind: str, shape: Shape) -> object:
    """A layer of torch: by oneDNN on a CPU for the LSTM."""
    import torch

    return getattr(torch.nn, kind)(shape.input, shape.hidden)


def gatecore_layer(kind: str, mechanism: Mechanism, impl: str, shape: Shape) -> object:
    """A torch layer of gatecore."""
    from gatecore.backends import torch as adapter

    layer = getattr(adapter, kind)
    options = {} if kind.endswith("Cell") else {"impl": impl}
    return layer(shape.input, shape.hidden, mechanism=mechanism, **options)


def naive_layer(shape: Shape) -> object:
    """A UR-LSTM in plain torch: two linear maps and a loop over time, equations (12)-(15)."""
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


def initial(core: str, mechanism: str, shape: Shape) -> dict[str, np.ndarray]:
    """Initial parameters of a layer, float32."""
    from gatecore import cells

    cell = cells.CELLS[core](shape.input, shape.hidden, mechanism)
    return {name: value.astype(np.float32) for name, value in cell.init(0).items()}


def mingru_pytorch(shape: Shape) -> Step:
    """A step of the package minGRU-pytorch, which scans logarithms; its arrays are batch first."""
    import torch
    from minGRU_pytorch import minGRU

    x, cotangent = (torch.from_numpy(a).transpose(0, 1).contiguous() for a in data(shape))
    x.requires_grad_(shape.wrt_input)
    layer = minGRU(shape.input, shape.hidden / shape.input, proj_out=False)

    def step() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        layer(x).backward(cotangent)

    return step


def numpy_layer(core: str, mechanism: str, impl: str, shape: Shape) -> Step:
    """A step of the NumPy backend's function and its pullback."""
    from gatecore.backends import load

    x, cotangent = data(shape)
    params, layer = initial(core, mechanism, shape), getattr(load("numpy"), core)

    def step() -> object:
        _, _, pullback = layer(params, x, mechanism=mechanism, impl=impl)
        return pullback(cotangent, wrt_x=shape.wrt_input)

    return step


def jax_layer(core: str, mechanism: str, impl: str, shape: Shape) -> Step:
    """A compiled step of the JAX backend's function and its gradient."""
    import jax.numpy as jnp

    from gatecore.backends import jax as adapter

    params = {k: jnp.asarray(v) for k, v in initial(core, mechanism, shape).items()}
    layer = getattr(adapter, core)

    def forward(params: object, x: object) -> object:
        return layer(params, x, mechanism=mechanism, impl=impl)[0]

    return _jax_step(forward, params, shape)


def flax_lstm(shape: Shape) -> Step:
    """A compiled step of flax's ``OptimizedLSTMCell`` in its ``nnx.RNN``.

    Of flax's two LSTM cells this is the one that computes the four products as one.
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


def _torch(
    kind: str, name: str, impl: str = "auto", training: bool = True, **overrides: int
) -> Any:
    make = functools.partial(gatecore_layer, kind, mechanism(name, **overrides), impl)
    return functools.partial(torch_layer, make, training=training)


def _steps(kind: str, name: str = "", **options: bool) -> Any:
    make = (
        functools.partial(gatecore_layer, kind, mechanism(name), "auto")
        if name
        else functools.partial(torch_own, kind)
    )
    return functools.partial(torch_steps, make, **options)


def _torch_own(kind: str, training: bool = True) -> Any:
    make = functools.partial(torch_own, kind)
    return functools.partial(torch_layer, make, training=training)


TRAINING: dict[str, Callable[[Shape], Step]] = {
    REFERENCE: _torch_own("LSTM"),
    "torch UR": _torch("LSTM", "UR"),
    "torch standard": _torch("LSTM", "standard"),
    "torch OM": _torch("LSTM", "OM"),
    "torch OM, C = 16": _torch("LSTM", "OM", downsize=16),
    "torch UM, C = 16": _torch("LSTM", "UM", downsize=16),
    "torch UR, reference": _torch("LSTM", "UR", "reference"),
    "naive Python loop": functools.partial(torch_layer, naive_layer),
    "NumPy UR": functools.partial(numpy_layer, "lstm", "UR", "auto"),
    "NumPy standard": functools.partial(numpy_layer, "lstm", "standard", "auto"),
    "NumPy OM": functools.partial(numpy_layer, "lstm", "OM", "auto"),
    "NumPy UR, reference": functools.partial(numpy_layer, "lstm", "UR", "reference"),
    "JAX UR": functools.partial(jax_layer, "lstm", "UR", "auto"),
    "JAX standard": functools.partial(jax_layer, "lstm", "standard", "auto"),
    "JAX OM": functools.partial(jax_layer, "lstm", "OM", "auto"),
    "JAX UR, reference": functools.partial(jax_layer, "lstm", "UR", "reference"),
    "flax.nnx.OptimizedLSTMCell": flax_lstm,
    REFERENCE_GRU: _torch_own("GRU"),
    "torch GRU UR": _torch("GRU", "UR"),
    "torch Minimal UR": _torch("Minimal", "UR"),
    "NumPy GRU UR": functools.partial(numpy_layer, "gru", "UR", "auto"),
    "JAX GRU UR": functools.partial(jax_layer, "gru", "UR", "auto"),
}
PEER = "minGRU-pytorch"
LINEAR: dict[str, Callable[[Shape], Step]] = {
    "torch MinGRU UR": _torch("MinGRU", "UR"),
    "torch MinGRU standard": _torch("MinGRU", "standard"),
    "torch MinGRU OM": _torch("MinGRU", "OM"),
    "NumPy MinGRU UR": functools.partial(numpy_layer, "mingru", "UR", "auto"),
    "JAX MinGRU UR": functools.partial(jax_layer, "mingru", "UR", "auto"),
    PEER: mingru_pytorch,
}
# three rounds of these suffice: they are several times slower than the others
SLOW = {"torch UR, reference", "NumPy UR, reference", "naive Python loop"}
INFERENCE: dict[str, Callable[[Shape], Step]] = {
    REFERENCE: _torch_own("LSTM", training=False),
    "torch UR": _torch("LSTM", "UR", training=False),
    "torch OM": _torch("LSTM", "OM", training=False),
    "torch OM, C = 16": _torch("LSTM", "OM", training=False, downsize=16),
    "torch Minimal UR": _torch("Minimal", "UR", training=False),
    REFERENCE_GRU: _torch_own("GRU", training=False),
    "torch GRU UR": _torch("GRU", "UR", training=False),
}
# single sequences: by the cell and by the layer, step by step, and by the layer at once
_CELLS = {
    "torch.nn.LSTMCell": ("LSTMCell",),
    "torch LSTMCell UR": ("LSTMCell", "UR"),
    "torch LSTMCell standard": ("LSTMCell", "standard"),
    "torch MinimalCell UR": ("MinimalCell", "UR"),
    "torch.nn.GRUCell": ("GRUCell",),
    "torch GRUCell UR": ("GRUCell", "UR"),
    "torch MinGRUCell UR": ("MinGRUCell", "UR"),
}
_LAYERS = {
    "torch.nn.LSTM": ("LSTM",),
    "torch LSTM UR": ("LSTM", "UR"),
    "torch.nn.GRU": ("GRU",),
    "torch GRU UR": ("GRU", "UR"),
}


def _layer(kind: str, name: str = "", training: bool = False) -> Any:
    return _torch(kind, name, training=training) if name else _torch_own(kind, training)


SINGLE: dict[str, dict[str, Callable[[Shape], Step]]] = {
    "cell": {name: _steps(*kind) for name, kind in _CELLS.items()},
    "cell-training": {name: _steps(*kind, training=True) for name, kind in _CELLS.items()},
    "layer-steps": {name: _steps(*kind, layer=True) for name, kind in _LAYERS.items()},
    "sequence": {name: _layer(*kind) for name, kind in _LAYERS.items()},
    "sequence-training": {name: _layer(*kind, training=True) for name, kind in _LAYERS.items()},
}


def use_threads(count: int, names: list[str]) -> None:
    """Limit each implementation to that many threads, before any of them is made.

    NumPy reads the environment on import. XLA uses the cores that the process may run on: so the
    process is bound to as many, where the system can do that.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    if any(name.startswith("torch") for name in names):
        importlib.import_module("torch").set_num_threads(count)
