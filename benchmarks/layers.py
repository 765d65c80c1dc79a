"""Race one recurrent layer beside ``torch.nn.LSTM``: ``make bench``.

All contenders of a shape run in one process, in alternated rounds, and what is reported is the
ratio of times within a round: its median, with the 10 % and 90 % quantiles. The race is run under
two settings of the memory allocator, because large fresh buffers cost page faults on every call,
and whoever pays them loses: glibc's default, and freed buffers kept by the process (for all
contenders alike). Peak memory is the resident set of a fresh process for each contender and shape.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from contenders import CONTENDERS, INFERENCE, REFERENCE, REFERENCE_GRU, SHAPES
from report import markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ALLOCATORS = {
    "default": {},
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"},
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def measure(what: str, shape: str, names: list[str], rounds: int, threads: int, env: dict) -> dict:
    """Run ``measure.py`` in a process of its own."""
    command = [sys.executable, HERE / "measure.py", what, shape, *names]
    command += [f"--rounds={rounds}", f"--threads={threads}"]
    fixed = {name: str(threads) for name in THREAD_VARIABLES}
    done = subprocess.run(
        command, env={**os.environ, **fixed, **env}, stdout=subprocess.PIPE, check=True
    )
    return json.loads(done.stdout)


def machine() -> dict[str, object]:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":", 1)[1].strip() if named else cpu
    versions = {
        name: importlib.metadata.version(name)
        for name in ("gatecore", "numpy", "torch", "jax", "flax")
        if importlib.util.find_spec(name)
    }
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "instructions": _widest(info),
        "load": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **versions},
    }


def _widest(info: Path) -> str:
    flags = info.read_text().split() if info.exists() else []
    return next((name for name in ("avx512f", "avx2", "avx") if name in flags), "unknown")


def progress(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def race(shapes: list[str], names: list[str], rounds: int, threads: int) -> dict:
    """All measurements."""
    if os.getloadavg()[0] > 0.5:
        progress("other processes are busy (load average above 0.5): the ratios will not mean much")
    result = {**machine(), "threads": threads, "rounds": rounds, "reference": REFERENCE}
    result["shapes"] = {shape: SHAPES[shape]._asdict() for shape in shapes}
    result["seconds"] = {setting: {} for setting in ALLOCATORS}
    result["inference"], result["memory"] = {}, {shape: {} for shape in shapes}
    for shape in shapes:
        for setting, env in ALLOCATORS.items():
            progress(f"{shape}: speed, allocator {setting}")
            result["seconds"][setting][shape] = measure(
                "seconds", shape, names, rounds, threads, env
            )
        progress(f"{shape}: inference")
        infer = [name for name in names if name in INFERENCE]
        result["inference"][shape] = measure(
            "inference", shape, infer, rounds, threads, ALLOCATORS["kept"]
        )
        for name in names:
            progress(f"{shape}: memory, {name}")
            result["memory"][shape][name] = measure("memory", shape, [name], 3, threads, {})
    return result


def main() -> None:
    """Race, print the table, keep it and its JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu-layers.json")
    given = parser.parse_args()
    own = [REFERENCE] + [REFERENCE_GRU] * any("GRU" in name for name in given.contenders)
    names = [*own, *(name for name in given.contenders if name not in own)]
    result = race(given.shapes, names, given.rounds, given.threads)
    table = markdown(result)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    given.out.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
