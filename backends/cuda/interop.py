"""The kernels for another framework's arrays: without copies, on that framework's stream.

    with interop.on_stream(torch.cuda.current_stream().cuda_stream, x.device.index) as engine:
        call = Call(engine, cell, params, (time, batch), np.float32, resets, zoneout)
        layer = FusedLayer(call, acquire)
        outputs, final = layer.forward(interop.view(engine, x.detach()), states)
        result = torch.from_dlpack(outputs[0])

Here params, resets, zoneout and states are views too, and ``acquire`` returns views of the
framework's memory, of the shapes ``saved_shapes``: a later layer on it can run the backward pass.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from gatecore.backends.cuda import launch, support
from gatecore.backends.cuda.steps import KernelEngine, saved_shapes
from gatecore.cells import Cell

Array = Any

__all__ = ["on_stream", "saved_shapes", "unsupported", "view"]


def unsupported(cell: Cell, steps: tuple[int, int], dtype: Any, device: int = 0) -> str | None:
    """Why the kernels cannot run this cell over (time, batch) steps, or at all; None if they can.

    ``dtype`` is a name, "float32", or NumPy's type.
    """
    try:
        engine = launch.engine(device)
    except ImportError as error:
        return str(error)
    return engine.device_unsupported or support.unsupported(cell, steps, dtype)


@contextlib.contextmanager
def on_stream(stream: int, device: int) -> Iterator[KernelEngine]:
    """An engine of manual BPTT that works on a stream of a GPU; ImportError without CuPy or a GPU.

    ``stream`` is a ``cudaStream_t`` as a number; 0 is the default stream.
    """
    cuda = launch.launcher().xp.cuda
    with (
        cuda.Device(device),
        cuda.Stream.from_external(_Stream(stream)) if stream else cuda.Stream.null,
    ):
        yield launch.engine(device)


class _Stream:
    """A stream by its pointer, in the protocol by which CuPy takes others' streams."""

    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer  # the protocol's version first


def view(engine: KernelEngine, array: Any) -> Array:
    """An array of another framework (detached from any gradient) as CuPy's, on the same memory."""
    return engine.xp.from_dlpack(array)
