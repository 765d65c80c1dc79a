"""The kernels without CuPy: compiled by NVRTC for one GPU, and loaded by the driver."""

from collections.abc import Sequence
from typing import Any

from gatecore.backends.cuda import driver, nvrtc, source


class Loader:
    """Compiles and loads kernels on first request, for the current device.

    ``capability`` is the GPU's, 90 for 9.0; ``version`` that of CUDA whose compiler is preferred.
    OSError if there is no driver, or no compiler that it supports.
    """

    def __init__(self, capability: int, version: int | None = None) -> None:
        self.driver, self._capability = driver.Driver(), capability
        self._compiler = _compiler(self.driver.version(), version)
        self._functions: dict[tuple[str, ...], list[int] | Exception] = {}

    def loaded(self, names: tuple[str, ...]) -> bool:
        """Whether the functions of these names are there."""
        return isinstance(self._functions.get(names), list)

    def functions(self, names: tuple[str, ...]) -> Sequence[int]:
        """The functions of these name expressions of ``source``.

        ValueError if they do not compile, RuntimeError if they cannot be loaded: at later requests,
        too.
        """
        if names not in self._functions:
            self._functions[names] = self._load(names)
        functions = self._functions[names]
        if isinstance(functions, Exception):
            raise functions
        return functions

    def _load(self, names: tuple[str, ...]) -> list[int] | Exception:
        text, options = source.text(), source.OPTIONS
        try:
            program = nvrtc.compile(self._compiler, text, self._capability, options, names)
            return self.driver.load(program.image, program.names)
        except (ValueError, RuntimeError) as error:
            return error


def _compiler(supported: tuple[int, int], preferred: int | None) -> Any:
    """The NVRTC of the preferred version of CUDA, or the newest that the driver supports."""
    versions = [preferred] if preferred in nvrtc.VERSIONS else []
    too_new = None
    for version in (*versions, *nvrtc.VERSIONS):
        library = nvrtc.library(version)
        if library is None:
            continue
        if version <= supported[0]:
            return library
        too_new = ".".join(map(str, nvrtc.version(library)))
    if too_new:
        raise OSError(f"NVRTC {too_new} is newer than the driver, which supports CUDA "
                      f"{supported[0]}.{supported[1]}")  # fmt: skip
    raise OSError("NVRTC is missing, which compiles the kernels: pip install nvidia-cuda-nvrtc")
