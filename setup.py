"""Builds the native CPU library where there is a C++ compiler; the rest is in pyproject.toml.

The environment variable GATECORE_NATIVE: 0 leaves the library out, 1 makes a failure an error.
For another processor, name its platform and its compiler: _PYTHON_HOST_PLATFORM=linux-aarch64,
CC and CXX.
"""

import hashlib
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError, PlatformError

SOURCE = Path("backends/native/src")
FORMULAS = "backends/common/formulas.h"  # which CUDA's kernels include too
TARGET = Path("backends/native")  # where the built library lies
BUILT = Path("build/native")  # libraries, named by what they were built from
MODE = os.environ.get("GATECORE_NATIVE", "")

# No -march=native: what is built here may run elsewhere. No -ffast-math: a NaN must stay one. The
# third line undoes flags that an interpreter may add; the last warning is about GCC's headers, and
# Clang does not know it.
FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden",
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
    "-g0", "-fno-wrapv", "-fno-lto", "-Wno-unknown-warning-option", "-Wno-maybe-uninitialized",
]  # fmt: skip
UNITS: dict[str, list[str]] = {"thread_pool": [], "library": [], "portable": []}
# XLA calls the library where JAX's header is installed; an isolated build finds it on sys.path
for site in dict.fromkeys(
    [sysconfig.get_path("platlib"), sysconfig.get_path("purelib"), *sys.path]
):
    if Path(site, "jaxlib", "include", "xla", "ffi", "api", "ffi.h").is_file():
        UNITS["jax_ffi"] = ["-isystem", str(Path(site, "jaxlib", "include"))]
        break
PLATFORM = sysconfig.get_platform()  # for which is built: "linux-x86_64", "macosx-11.0-arm64", ...
MACOS = PLATFORM.startswith("macosx")
if PLATFORM.endswith("aarch64") or MACOS:
    UNITS["neon"] = []
if PLATFORM.endswith("x86_64") or MACOS:
    UNITS["avx2"] = ["-mavx2", "-mfma"]
    UNITS["avx512"] = [
        "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma",
        "-mprefer-vector-width=512",
    ]  # fmt: skip
if MACOS:  # one command may compile for both processors: each unit is empty for the other's
    FLAGS.append("-Wno-unused-command-line-argument")
    for unit in ("avx2", "avx512"):
        UNITS[unit] = [part for flag in UNITS[unit] for part in ("-Xarch_x86_64", flag)]


class BuildNative(build_ext):
    """Compiles each unit for its instruction set, in parallel; a failure leaves the library out."""

    def run(self):
        self.in_checkout = self.inplace or self.editable_mode  # setuptools clears it in the run
        super().run()

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part = target.with_name(f".{target.name}.part")
            shutil.copy(self.library(ext), part)
            part.replace(target)  # never written over: a process may run on the old one
        except (CCompilerError, BaseError, OSError) as error:
            if MODE == "1":
                raise
            if self.in_checkout:  # the present library may be of other sources
                for old in TARGET.glob("_native.*"):
                    old.unlink()
            print(
                f"gatecore: the native CPU library was not built: {error}\n"
                "gatecore works without it, but slower on a CPU, by the reference implementations. "
                "It needs Linux or macOS and a C++17 compiler, GCC or Clang: install one, or name "
                "it by CXX, and install gatecore again.",
                file=sys.stderr,
            )

    def library(self, ext):
        """The library; it is compiled unless equal commands compiled equal sources before."""
        if PLATFORM.startswith("win"):
            raise PlatformError("it is not ported to Windows, whose `long` is too short for it")
        suffix = Path(self.get_ext_filename(ext.name)).suffix
        cached = BUILT / f"{self.fingerprint(ext)}{suffix}"
        if not cached.is_file():
            BUILT.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=BUILT) as folder:
                self.compile_and_link(Path(folder)).replace(cached)
        return cached

    def fingerprint(self, ext):
        """A digest of the sources and of the commands."""
        executables = [getattr(self.compiler, name, None) for name in self.compiler.executables]
        commands = executables, FLAGS, UNITS, platform.platform()
        digest = hashlib.sha256(repr(commands).encode())
        for file in sorted([*ext.sources, *ext.depends]):
            digest.update(Path(file).read_bytes())
        return digest.hexdigest()[:16]

    def compile_and_link(self, folder):
        """The library, in ``folder``."""

        def compiled(unit):
            source, flags = str(SOURCE / f"{unit}.cpp"), FLAGS + UNITS[unit]
            return self.compiler.compile([source], output_dir=str(folder), extra_postargs=flags)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # the slowest first
            objects = [file for files in pool.map(compiled, reversed(UNITS)) for file in files]
        library = folder / "_native"
        self.compiler.link_shared_object(
            objects, str(library), extra_postargs=["-pthread"], target_lang="c++"
        )
        return library

    def get_ext_filename(self, fullname):
        """Without the interpreter's tag: the library does not depend on Python."""
        return os.path.join(*fullname.split(".")) + (".dylib" if MACOS else ".so")


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on this platform."""

    def get_tag(self):
        return self.python_tag, "none", super().get_tag()[2]


native = Extension(
    "gatecore.backends.native._native",
    sources=[str(SOURCE / f"{unit}.cpp") for unit in UNITS],
    depends=[*sorted(map(str, SOURCE.glob("*.h"))), FORMULAS, "setup.py"],
    language="c++",
    optional=MODE != "1",
)
setup(
    ext_modules=[] if MODE == "0" else [native],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel},
)
