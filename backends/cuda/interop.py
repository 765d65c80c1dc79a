"""The kernels for another framework's arrays: no copy, and in the order of its own stream.

A framework that allocates on the GPU hands its stream over and views its arrays through DLPack:

    with bridge.on_stream(torch.cuda.current_stream().cuda_stream, x.device.index) as engine:
        layer = Layer(engine, cell, params, take, resets, zoneout, (time, batch), np.float32)
        outputs, final = layer.forward(bridge.view(engine, x.detach()), state)
        result = torch.from_dlpack(outputs)

where params, resets, zoneout and state are views too, and ``take`` hands out views of the
framework's own memory: what a backward pass needs can so be tensors of the shapes that
``saved_shapes`` tells beforehand, and ``Layer`` says how it is made again from them.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from gatecore.backends.common.layout import plan
from gatecore.backends.cuda import launch as cuda
from gatecore.backends.cuda import support
from gatecore.backends.cuda.engine import KernelEngine
from gatecore.backends.cuda.steps import KernelSteps
from gatecore.cells import Cell

Array = Any


def missing() -> str | None:
    """Why no kernel can run here at all, such as CuPy not being installed; None where they can."""
    try:
        cuda.launcher()
    except ImportError as error:
        return str(error)
    return None


def reason(cell: Cell, steps: tuple[int, int], dtype: Any, device: int = 0) -> str | None:
    """Why the kernels can't run this cell over (time, batch) steps; None where they can.

    ``dtype`` is a name, "float32", or NumPy's type.
    """
    if (why := missing()) is not None:
        return why
    return cuda.engine(device).unfit or support.reason(plan(cell), steps, dtype)


@contextlib.contextmanager
def on_stream(stream: int, device: int, kernels: str = "auto") -> Iterator[KernelEngine]:
    """An engine of the explicit driver whose work goes to that stream of that GPU.

    Parameters
    ----------
    stream : int
        A ``cudaStream_t`` as a number; 0 is the default stream.
    device : int
    kernels : {"auto", "fused", "none"}
        See :class:`gatecore.backends.cuda.engine.KernelEngine`.

    Raises
    ------
    ImportError
        Without CuPy or a GPU.
    """
    cupy = cuda.launcher().xp
    there = cupy.cuda.ExternalStream(stream, device) if stream else cupy.cuda.Stream.null
    with cupy.cuda.Device(device), there:
        yield cuda.engine(device, kernels)


def view(engine: KernelEngine, array: Any) -> Array:
    """An array of another framework (detached from any gradient) as CuPy's, on the same memory."""
    return engine.xp.from_dlpack(array)


def saved_shapes(cell: Cell, steps: tuple[int, int]) -> list[tuple[int, int, int]]:
    """The shapes that a ``Layer`` on the fused kernels takes for (time, batch) steps, in order."""
    (time, batch), layout = steps, plan(cell)
    taken = [(time, batch, cell.input_size + 1), (time, batch, layout.width)]

    def take(width: int, steps: bool = True, extra: int = 0) -> Any:
        taken.append((time + extra, batch, width))
        return np.empty((1 + extra, 1, width))

    KernelSteps(None, np, layout, np.empty((1, 1, layout.width)), take)
    return taken
