"""Installing without a compiler succeeds, reports it, and layers run without the library."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gatecore.backends.native.call import ArgumentsStruct, LayerStruct
from tests.packaging.layout import FOLDERS, ROOT

SOURCES = FOLDERS["gatecore.backends"] / "native" / "src"
USE = """
import numpy as np
from gatecore.backends import load
from gatecore.backends.native import library
import gatecore

print(library.unsupported())
params = gatecore.cells.LSTM(2, 4, mechanism="UR").init(rng=0)
single = {name: value.astype(np.float32) for name, value in params.items()}
_, _, pullback = load("numpy").lstm(single, np.ones((3, 2, 2), np.float32), mechanism="UR")
print(pullback.impl)
"""


@pytest.fixture
def copy(tmp_path):
    """The repository's sources without anything built."""
    ignored = shutil.ignore_patterns("_native.*", "__pycache__")
    for name in ("gatecore", "backends", "analysis", "tasks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(folder, **environment):
    command = [sys.executable, "setup.py", "-q", "build"]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


def built(folder):
    (lib,) = (folder / "build").glob("lib*")
    return lib


def test_without_a_compiler_it_says_so_and_layers_run_without(copy):
    pytest.importorskip("setuptools", minversion="77")
    nothing = {"CC": "/bin/false", "CXX": "/bin/false", "GATECORE_NATIVE": ""}
    done = build(copy, **nothing)
    assert done.returncode == 0, done.stderr
    assert "the native CPU library was not built" in done.stderr
    assert "C++17 compiler" in done.stderr
    lib = built(copy)
    assert not list(lib.rglob("_native*"))
    sources = [*lib.rglob("*.cpp"), *lib.rglob("*.h")]
    assert [path.name for path in sources] == ["formulas.h"]  # compiled for CUDA at run time
    used = subprocess.run(
        [sys.executable, "-c", USE], cwd=lib, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(lib)},
    )  # fmt: skip
    missing, impl = used.stdout.splitlines()
    assert "it was not built" in missing
    assert impl == "reference"


def test_a_failed_build_in_the_checkout_removes_a_library_of_other_sources(copy):
    pytest.importorskip("setuptools", minversion="77")
    old = copy / "backends" / "native" / "_native.so"
    old.touch()
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    compilers = {"CC": "/bin/false", "CXX": "/bin/false", "GATECORE_NATIVE": ""}
    subprocess.run(
        command, cwd=copy, env=os.environ | compilers, capture_output=True, check=True, timeout=120
    )
    assert not old.exists()


def test_a_required_library_that_cannot_be_built_is_an_error(copy):
    pytest.importorskip("setuptools", minversion="77")
    done = build(copy, CC="/bin/false", CXX="/bin/false", GATECORE_NATIVE="1")
    assert done.returncode != 0


def test_it_can_be_left_out(copy):
    pytest.importorskip("setuptools", minversion="77")
    done = build(copy, CC="/bin/false", CXX="/bin/false", GATECORE_NATIVE="0")
    assert done.returncode == 0, done.stderr
    assert "not built" not in done.stderr
    assert not list(built(copy).rglob("_native*"))


def test_on_windows_it_says_why_it_is_not_built(copy):
    pytest.importorskip("setuptools", minversion="77")
    target = {"_PYTHON_HOST_PLATFORM": "win-amd64"}
    done = build(copy, GATECORE_NATIVE="", **target)
    assert done.returncode == 0, done.stderr
    assert "it is not ported to Windows" in done.stderr
    assert not list(built(copy).rglob("_native*"))
    required = build(copy, GATECORE_NATIVE="1", **target)
    assert required.returncode != 0
    assert "it is not ported to Windows" in required.stderr


@pytest.mark.parametrize(
    ("platform", "units", "suffix"),
    [
        ("linux-x86_64", {"avx2", "avx512"}, "so"),
        ("linux-aarch64", {"neon"}, "so"),
        ("linux-riscv64", set(), "so"),
        ("macosx-11.0-universal2", {"avx2", "avx512", "neon"}, "dylib"),
    ],
)
def test_each_platform_has_its_instruction_sets(copy, platform, units, suffix):
    pytest.importorskip("setuptools", minversion="77")
    log, compiler = copy / "commands", copy / "compiler"
    compiler.write_text(
        f'#!/bin/sh\necho "$@" >> "{log}"\n'
        'while [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n'
    )
    compiler.chmod(0o755)
    names = {"CC": str(compiler), "CXX": str(compiler), "GATECORE_NATIVE": "1"}
    done = build(copy, _PYTHON_HOST_PLATFORM=platform, **names)
    assert done.returncode == 0, done.stderr
    assert [path.suffix for path in built(copy).rglob("_native*")] == [f".{suffix}"]
    commands = log.read_text().splitlines()
    flags = {Path(source).stem: command for command in commands
             for source in re.findall(r"-c (\S+)", command)}  # fmt: skip
    assert set(flags) - {"jax_ffi"} == {"thread_pool", "library", "portable"} | units
    for unit in units - {"neon"}:
        assert ("-Xarch_x86_64 -mavx2" in flags[unit]) == platform.startswith("macosx")
        assert "-mavx2" in flags[unit]


@pytest.mark.parametrize("struct", [LayerStruct, ArgumentsStruct])
def test_a_struct_has_the_fields_of_the_header(struct):
    text = (SOURCES / "interface.h").read_text(encoding="utf-8")
    name = {LayerStruct: "layer", ArgumentsStruct: "arguments"}[struct]
    body = re.search(rf"struct gatecore_{name} {{\n(.*?)\n}};", text, re.DOTALL)[1]
    kinds = {"int32_t": ctypes.c_int32, "float": ctypes.c_float}
    declared = [
        (field.strip("* "), ctypes.c_void_p if "*" in kind + field else kinds[kind])
        for kind, fields in re.findall(r"^  (?:const )?(\w+\*?) (.*?);", body, re.MULTILINE)
        for field in fields.split(",")
    ]
    assert declared == struct._fields_
