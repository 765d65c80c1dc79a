"""The fused kernels as an implementation of manual BPTT, and the engine that has it."""

from typing import Any

from gatecore.backends.common.buffer_pool import BufferPool
from gatecore.backends.cuda import support
from gatecore.backends.cuda.steps import KernelSteps, Launcher
from gatecore.backends.numpy.bptt import Call, Engine, Layer


class FusedLayer(Layer):
    """One layer over one sequence, a time step being one product and one kernel."""

    name = "fused"

    @staticmethod
    def unsupported(call: Call, /) -> str | None:
        engine: Any = call.engine  # a KernelEngine
        return engine.device_unsupported or support.unsupported(call.cell, call.steps, call.dtype)

    def _steps(self, acquire: Any) -> KernelSteps:
        return KernelSteps(self.engine, self.layout, self.logits, acquire, self.call.zoneout)


class KernelEngine(Engine):
    """The arrays and implementations of a GPU: the fused kernels, and array operations.

    ``device_unsupported`` is the reason why the kernels cannot run on this device at all, or None.
    """

    def __init__(self, launcher: Launcher, device_unsupported: str | None = None) -> None:
        super().__init__(launcher.xp, (FusedLayer, Layer))
        self.launcher, self.device_unsupported = launcher, device_unsupported
        # CuPy's pool keeps freed memory in the order of each stream; BufferPool knows no streams
        self.pool = BufferPool(launcher.xp, capacity=0)
