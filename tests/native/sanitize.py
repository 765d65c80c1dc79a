"""Builds the native library for checkers of memory, threads aside, and runs every cell under them.

Address and undefined-behaviour sanitizers, for each instruction set that this processor has, and
valgrind on the portable one where it is installed. Without GCC or Clang there is nothing to do.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "backends" / "native" / "src"
COMMON = ["-std=c++17", "-O1", "-g1", "-ffp-contract=fast", "-pthread"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
UNITS = {"thread_pool": "", "library": "", "portable": ""}
if platform.machine() in ("x86_64", "AMD64"):
    UNITS["avx2"] = "-mavx2 -mfma"
    UNITS["avx512"] = "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mavx2 -mfma"
elif platform.machine() in ("aarch64", "arm64"):
    UNITS["neon"] = ""


def build(compiler, folder, options):
    """The program tests/native/exercise.cpp with the library in it."""
    files = {SOURCES / f"{unit}.cpp": flags.split() for unit, flags in UNITS.items()}
    files[ROOT / "tests" / "native" / "exercise.cpp"] = [f"-I{SOURCES}"]

    def compiled(file):
        target = folder / f"{file.stem}.o"
        command = [compiler, *COMMON, *options, *files[file], "-c", file, "-o", target]
        subprocess.run(command, check=True)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, reversed(files)))
    program = folder / "exercise"
    subprocess.run([compiler, *COMMON, *options, *objects, "-o", program], check=True)
    return program


def main():
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if not compiler:
        print("no C++ compiler: nothing was checked")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = build(compiler, folder, SANITIZERS)
        for instruction_set in range(len(UNITS) - 2):
            done = subprocess.run([program, str(instruction_set)], check=False)
            if done.returncode == 2:
                print("not on this processor: instruction set", instruction_set)
            elif done.returncode:
                sys.exit(f"the sanitizers object: instruction set {instruction_set}")
        if valgrind := shutil.which("valgrind"):
            program = build(compiler, folder, [])
            quiet = [valgrind, "-q", "--error-exitcode=1", program, "0", "quick"]
            subprocess.run(quiet, check=True)


if __name__ == "__main__":
    main()
