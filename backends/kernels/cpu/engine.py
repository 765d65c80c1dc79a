"""The explicit driver's engine on a CPU: layers by the native library where it serves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gatecore.backends.explicit.sequence import Engine, Layer
from gatecore.backends.kernels.cpu.layer import NativeLayer, obstacle


class NativeEngine(Engine):
    """NumPy's arrays; ``threads`` tells at each call how many threads the library may use."""

    def __init__(self, threads: Callable[[], int]) -> None:
        super().__init__(np)
        self.threads = threads

    def layer(self, impl: str, *arguments: Any) -> NativeLayer | Layer:
        """The native layer, or the driver's own.

        Raises
        ------
        ValueError
            The native one was asked for and cannot run this.
        """
        given: tuple[Any, ...] = arguments[:-1]  # the last says whether it must save
        reason = obstacle(given[-1])
        if impl == "native" and reason:
            raise ValueError(
                f"impl='native' can't be taken: {reason}; use impl='auto' or 'reference'"
            )
        if impl == "reference" or reason:
            return Layer(self, *given)
        return NativeLayer(*given, threads=self.threads(), saves=arguments[-1])
