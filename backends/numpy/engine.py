"""The explicit driver's engine on a CPU: layers by the native library where it serves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gatecore.backends.native import library
from gatecore.backends.native.layer import NativeLayer
from gatecore.backends.numpy.bptt import Engine, Layer


class NativeEngine(Engine):
    """NumPy's arrays; ``threads`` tells at each call how many threads the library may use."""

    def __init__(self, threads: Callable[[], int]) -> None:
        super().__init__(np)
        self.threads = threads

    def obstacle(self, dtype: Any) -> str | None:
        """Why the library can't run layers of this dtype; None if it can."""
        return library.unsupported(np.dtype(dtype).name)

    def layer(self, impl: str, *arguments: Any) -> NativeLayer | Layer:
        """The native layer where it serves, or the driver's own."""
        given: tuple[Any, ...] = arguments[:-1]  # the last says whether it must save
        if impl == "reference" or self.obstacle(given[-1]):
            return Layer(self, *given)
        return NativeLayer(*given, threads=self.threads(), saves=arguments[-1])
