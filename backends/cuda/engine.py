"""An engine of the explicit driver whose steps are the fused kernels, where they serve."""

import functools
from typing import Any

from gatecore import _checks
from gatecore.backends.common.buffer_pool import Workspace
from gatecore.backends.common.layout import Plan
from gatecore.backends.cuda import support
from gatecore.backends.cuda.steps import KernelSteps, Launcher
from gatecore.backends.numpy.bptt import Engine
from gatecore.backends.numpy.loop import Loop
from gatecore.backends.numpy.steps import STEPS

KERNELS = ("auto", "fused", "none")

Array = Any


class KernelEngine(Engine):
    """The kernels by ``launcher``, or array operations where they do not serve.

    Parameters
    ----------
    launcher : Launcher
    kernels : {"auto", "fused", "none"}
        "auto" falls back to array operations; "fused" raises instead; "none" never uses kernels.
    unfit : str, optional
        Why the kernels can't run on this device at all.
    """

    def __init__(self, launcher: Launcher, kernels: str = "auto", unfit: str | None = None) -> None:
        self.launcher, self.unfit = launcher, unfit
        self.kernels = _checks.choice("kernels", kernels, KERNELS)
        steps = {core: functools.partial(self._steps, core) for core in STEPS}
        super().__init__(launcher.xp, steps)
        # CuPy's own pool keeps what is freed, in the order of each stream; ours knows no streams
        self.workspace = Workspace(launcher.xp, capacity=0)

    def _steps(
        self, core: str, xp: Any, plan: Plan, logits: Array, take: Any, zoneout: Any = None
    ) -> Loop:
        why_not = self.reason(plan, logits.shape[:2], logits.dtype)
        if why_not is None:
            return KernelSteps(self.launcher, xp, plan, logits, take, zoneout)
        if self.kernels == "fused":
            raise ValueError(f"kernels='fused' cannot be met: {why_not}; 'auto' falls back")
        return STEPS[core](xp, plan, logits, take, zoneout)

    def reason(self, plan: Plan, steps: tuple[int, int], dtype: Any) -> str | None:
        """Why the kernels do not run a sequence of (time, batch) steps; None where they do."""
        if self.kernels == "none":
            return "kernels='none' was asked for"
        return self.unfit or support.reason(plan, steps, dtype)
