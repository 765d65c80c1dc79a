"""The kernels for another framework's arrays: no copy, and in the order of its own stream.

A framework that allocates on the GPU hands its stream over and views its arrays through DLPack:

    with interop.on_stream(torch.cuda.current_stream().cuda_stream, x.device.index) as engine:
        call = Call(engine, cell, params, (time, batch), np.float32, resets, zoneout)
        layer = FusedLayer(call, acquire)
        outputs, final = layer.forward(interop.view(engine, x.detach()), states)
        result = torch.from_dlpack(outputs[0])

where params, resets, zoneout and states are views too, and ``acquire`` returns views of the
framework's own memory: what a backward pass needs can so be tensors of the shapes that
``saved_shapes`` tells beforehand, and ``Layer`` says how it is made again from them.
"""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import launch, support
from gatecore.backends.cuda.engine import KernelEngine
from gatecore.backends.cuda.steps import KernelSteps
from gatecore.cells import Cell

Array = Any


def unsupported(cell: Cell, steps: tuple[int, int], dtype: Any, device: int = 0) -> str | None:
    """Why the kernels cannot run this cell over (time, batch) steps, or at all; None if they can.

    ``dtype`` is a name, "float32", or NumPy's type.
    """
    try:
        engine = launch.engine(device)
    except ImportError as error:
        return str(error)
    return engine.device_unsupported or support.unsupported(cell, steps, dtype)


reason = unsupported  # its former name


@contextlib.contextmanager
def on_stream(stream: int, device: int) -> Iterator[KernelEngine]:
    """An engine of manual BPTT whose work goes to that stream of that GPU.

    Parameters
    ----------
    stream : int
        A ``cudaStream_t`` as a number; 0 is the default stream.
    device : int

    Raises
    ------
    ImportError
        Without CuPy or a GPU.
    """
    cupy = launch.launcher().xp
    there = cupy.cuda.ExternalStream(stream, device) if stream else cupy.cuda.Stream.null
    with cupy.cuda.Device(device), there:
        yield launch.engine(device)


def view(engine: KernelEngine, array: Any) -> Array:
    """An array of another framework (detached from any gradient) as CuPy's, on the same memory."""
    return engine.xp.from_dlpack(array)


def saved_shapes(cell: Cell, steps: tuple[int, int]) -> list[tuple[int, int, int]]:
    """The shapes that a ``FusedLayer`` acquires for (time, batch) steps, in order."""
    (time, batch), layout = steps, layout_of(cell)
    shapes = [(time, batch, cell.input_size + 1), (time, batch, layout.width)]

    def acquire(width: int, steps: bool = True, extra: int = 0) -> Any:
        shapes.append((time + extra, batch, width))
        return np.empty((1 + extra, 1, width))

    nowhere = SimpleNamespace(launcher=None, xp=np)
    KernelSteps(nowhere, layout, np.empty((1, 1, layout.width)), acquire)
    return shapes
