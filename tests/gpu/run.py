"""`make gpu`: all backends on a CUDA device, with the packages that this interpreter already has.

Nothing is installed, and the core is imported from the repository's root: NumPy, array-api-compat,
CuPy and torch are all that is needed. Checks first, at each precision in a process of its own, then
the benchmark; `--help` lists what can be left out. The exit status is 0 only if checks passed, none
failed, and, where the driver shows a device, none was skipped.
"""

import argparse
import ctypes
import importlib.util
import os
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numpy", "array_api_compat")
FRAMEWORKS = ("torch", "cupy")
PRECISIONS = ("float32", "tf32")


def missing():
    """The packages that this interpreter lacks."""
    absent = [name for name in (*NEEDED, *FRAMEWORKS) if importlib.util.find_spec(name) is None]
    if set(FRAMEWORKS) <= set(absent):
        return [*(name for name in absent if name in NEEDED), " or ".join(FRAMEWORKS)]
    return [name for name in absent if name in NEEDED]


def importable():
    """Make `gatecore`, `gatecore.backends` and `tests` the folders of this repository."""
    sys.path.insert(0, str(ROOT))
    tests = sys.modules["tests"] = types.ModuleType("tests")  # an installed package would win
    tests.__path__ = [str(ROOT / "tests")]
    import gatecore

    if importlib.util.find_spec("gatecore.backends") is None:
        folder = ROOT / "backends"
        spec = importlib.util.spec_from_file_location(
            "gatecore.backends", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        gatecore.backends = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(gatecore.backends)


def allow_tf32(allowed):
    """torch's switches; CuPy's is in the environment already."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed


def run_checks(precision, only):
    """Run the checks of one precision; how many passed, failed and were skipped."""
    from tests.gpu.arrays import Absent
    from tests.gpu.checks import checks

    counts, absences = {"passed": 0, "failed": 0, "skipped": 0}, set()
    for name, make, check in checks(precision):
        if only not in name:
            continue
        try:
            check(make())
        except Absent as absent:
            counts["skipped"] += 1
            absences.add(str(absent))
        except Exception:  # noqa: BLE001 - a check may fail in any way, and the others still run
            counts["failed"] += 1
            print(f"FAILED {precision}: {name}\n{traceback.format_exc(limit=-3)}", flush=True)
        else:
            counts["passed"] += 1
    for absence in sorted(absences):
        print(f"skipped: {absence}")
    print(f"{precision}: " + ", ".join(f"{n} {what}" for what, n in counts.items()), flush=True)
    return counts


def devices():
    """How many CUDA devices the driver shows, whatever the frameworks find."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    lacking = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if lacking else count.value


def shortfall(counts, devices):
    """Why these counts are no success on a machine with so many devices; None if they are."""
    if counts["failed"]:
        return f"{counts['failed']} checks failed"
    if not counts["passed"]:
        return "no check passed"
    if counts["skipped"] and devices:
        return f"{counts['skipped']} checks were skipped although a CUDA device is visible"
    return None


def process(precision, *arguments):
    """This script again, for one precision: CuPy reads its switch once."""
    environment = {**os.environ, "CUPY_TF32": "1" if precision == "tf32" else "0"}
    command = [sys.executable, __file__, "--precision", precision, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", choices=PRECISIONS, help="run the checks of one, here")
    parser.add_argument("--only", default="", help="checks whose names hold this text")
    parser.add_argument("--no-benchmark", action="store_true")
    parser.add_argument("--no-checks", action="store_true")
    return parser.parse_args()


def main():
    options = parsed()
    if absent := missing():
        sys.exit(f"Not run: {sys.executable} has no {', no '.join(absent)}.")
    if options.precision:
        importable()
        allow_tf32(options.precision == "tf32")
        sys.exit(shortfall(run_checks(options.precision, options.only), devices()))
    start, failed = time.time(), 0
    if not options.no_checks:
        failed = sum(process(precision, "--only", options.only) != 0 for precision in PRECISIONS)
    if not options.no_benchmark:
        benchmark = str(Path(__file__).with_name("benchmark.py"))
        failed += subprocess.run([sys.executable, benchmark], cwd=ROOT, check=False).returncode != 0
    print(f"{time.time() - start:.0f} s")
    sys.exit(failed)


if __name__ == "__main__":
    main()
