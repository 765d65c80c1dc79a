"""Builds the native library for 64-bit ARM and runs its tests under user-mode emulation.

On Linux with Debian's packages ``PACKAGES``, which root gets by apt-get where they are missing.
Where they cannot be had there is nothing to do, and the reason is printed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "backends" / "native" / "src"
PACKAGES = ("g++-aarch64-linux-gnu", "qemu-user")
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]  # where Debian has ARM's C library
# by 30 spinning threads, which emulation is slow at; exercise.cpp does it by two
THREADS = "test_threads_and_split_change_at_most_the_order_of_sums_that_threads_share"


def missing():
    """What is not installed, in words; None if all is."""
    lacking = [name for name in (COMPILER, EMULATOR[0]) if not shutil.which(name)]
    return f"lacking {' and '.join(lacking)}" if lacking else None


def install():
    """Debian's packages, where this process may install them."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("installing", *PACKAGES, flush=True)
        for command in (["update"], ["install", "-y", *PACKAGES]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(
                ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            if done.returncode:
                return print("apt-get:", done.stderr.strip()[-500:])


def build(folder):
    """The library as setup.py builds it for ARM; ``folder`` and the test programs beside it."""
    compilers = {"CC": COMPILER.replace("g++", "gcc"), "CXX": COMPILER}
    target = {"_PYTHON_HOST_PLATFORM": "linux-aarch64", "GATECORE_NATIVE": "1"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "-b", folder, "-t", folder],
        cwd=ROOT, env=os.environ | compilers | target, check=True,
    )  # fmt: skip
    (library,) = folder.rglob("_native.so")

    def compiled(program):
        source = ROOT / "tests" / "native" / f"{program}.cpp"
        command = [COMPILER, "-std=c++17", "-O1", "-Wall", "-pthread", f"-I{SOURCES}", source,
                   library, f"-Wl,-rpath,{library.parent}", "-o", folder / program]  # fmt: skip
        subprocess.run(command, check=True)
        return [*EMULATOR, str(folder / program)]

    with ThreadPoolExecutor() as pool:
        return list(pool.map(compiled, ("exercise", "served")))


def main():
    if missing():
        install()
    if reason := missing():
        print(f"nothing was run for 64-bit ARM: {reason}. On Debian, as root:",
              "apt-get install", *PACKAGES)  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as name:
        exercise, served = build(Path(name))
        for instruction_set in ("0", "1"):  # portable, neon
            subprocess.run([*exercise, instruction_set, "quick"], check=True)
        tests = [
            f"tests/native/test_{part}.py" for part in ("sequences", "accuracy", "instruction_sets")
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *tests,
                   "--deselect", f"{tests[0]}::{THREADS}", *sys.argv[1:]]  # fmt: skip
        environment = os.environ | {"GATECORE_SERVED_BY": " ".join(served)}
        sys.exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
