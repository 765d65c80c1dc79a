"""Benchmark of one recurrent layer beside ``torch.nn.LSTM``: ``make bench``.

All implementations of a shape run in one process, in alternated rounds. The result is the ratio of
times within a round: its median, with the 10 % and 90 % quantiles. Large fresh buffers cost page
faults at every call, so the benchmark runs under two settings of the memory allocator: glibc's
default, and one that reuses freed memory (for all implementations alike). Further thread counts
run with the second. Peak memory is the resident set of a fresh process for each implementation
and shape. ``--budget`` bounds the rounds, ``--parts`` selects measurements. ``--instruction-set``
limits all implementations to narrower vectors than the processor's. The results of each instruction
set and processor have a file of their own.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from implementations import (
    INFERENCE,
    REFERENCE,
    REFERENCE_GRU,
    SHAPES,
    SLOW,
    TRAINING,
    operations,
)
from report import markdown

from gatecore.backends.native import library
from gatecore.tasks.training import provenance

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ALLOCATORS = {
    "default": {},
    "kept": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8589934592"},
}
# what limits gatecore's library, oneDNN, torch, NumPy's OpenBLAS and XLA; read when they are loaded
INSTRUCTION_SETS = {
    "avx512": {},
    "avx2": {
        "GATECORE_MAX_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell", "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
}  # fmt: skip
PARTS = ("default", "threads", "inference", "memory")  # besides the main measurements
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Limits(NamedTuple):
    """The number of rounds, and the seconds after which no further one begins."""

    rounds: int
    budget: float


def measure(
    what: str, shape: str, names: list[str], limits: Limits, threads: int, setting: str
) -> dict:
    """A measurement of one shape, in a process of its own, under a setting of the allocator."""
    result = measure_shapes(what, [shape], names, limits, threads, setting)
    return result if what in ("memory", "peak") else result[shape]


def measure_shapes(
    what: str, shapes: list[str], names: list[str], limits: Limits, threads: int, setting: str
) -> dict:
    """The result of ``measure.py``; times are by shape, whose steps alternate."""
    progress(
        f"{', '.join(shapes)}: {what}, {threads} threads, allocator {setting}, "
        f"{len(names)} implementations"
    )
    command = [sys.executable, HERE / "measure.py", what, *names, "--shapes", *shapes]
    command += [f"--rounds={limits.rounds}", f"--budget={limits.budget}", f"--threads={threads}"]
    fixed = {name: str(threads) for name in THREAD_VARIABLES}
    done = subprocess.run(
        command, env={**os.environ, **fixed, **ALLOCATORS[setting]}, stdout=subprocess.PIPE,
        check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def machine() -> dict[str, object]:
    """The processor, the versions and the load, on which the numbers depend."""
    versions = {
        name: importlib.metadata.version(name)
        for name in ("numpy", "torch", "jax", "flax")
        if importlib.util.find_spec(name)
    }
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "instructions": library.instruction_set(),
        "load": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            "gatecore": provenance.distribution().version,
            **versions,
        },
    }


def _cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line for line in lines if line.startswith("model name")]
    machine = platform.processor() or platform.machine()
    return named[0].split(":", 1)[1].strip() if named else machine


def progress(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(
    shapes: list[str], names: list[str], limits: Limits, threads: list[int], parts: list[str]
) -> dict:
    """The main measurements, with the first number of threads, and these parts of the others."""
    if os.getloadavg()[0] > 0.5:
        progress("other processes are busy (load average above 0.5): the ratios will not mean much")
    first, *others = threads
    quick, infer = ([n for n in names if n not in SLOW], [n for n in names if n in INFERENCE])
    result = {**machine(), "threads": first, "rounds": limits.rounds, "reference": REFERENCE}
    result["shapes"] = {shape: SHAPES[shape]._asdict() for shape in shapes}
    result["peak"] = measure("peak", shapes[0], names[:1], limits, first, "kept")
    result["operations"] = {s: {n: operations(n, SHAPES[s]) for n in names} for s in shapes}
    result["seconds"] = {
        setting: {s: measure("seconds", s, names, limits, first, setting) for s in shapes}
        for setting in ("kept", *(part for part in parts if part in ALLOCATORS))
    }
    if "threads" in parts:
        result["other_threads"] = {
            str(n): {s: measure("seconds", s, quick, limits, n, "kept") for s in shapes}
            for n in others
        }
    if "inference" in parts:
        result["inference"] = {
            s: measure("inference", s, infer, limits, first, "kept") for s in shapes
        }
    if "memory" in parts:
        result["memory"] = {
            s: {n: measure("memory", s, [n], Limits(2, 0), first, "default") for n in names}
            for s in shapes
        }
    return result


def results_file(benchmark: str = "cpu-layers") -> Path:
    """The benchmark's file of this instruction set and processor."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(r\)|\(tm\)|cpu|processor", "", _cpu().lower()))
    return RESULTS / f"{benchmark}-{library.instruction_set()}-{'-'.join(words[:4])}.json"


def save(result: dict, tables: str, out: Path) -> None:
    """Write the result as JSON and its tables beside it, and print these."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(tables, encoding="utf-8")
    print(tables)


def main() -> None:
    """Run the benchmark, print its table, write the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument(
        "--implementations", "--contenders", nargs="+", choices=TRAINING, default=list(TRAINING)
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--budget", type=float, default=30, help="seconds after which no further round begins"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, help="at most this one")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    options = parser.parse_args()
    os.environ.update(INSTRUCTION_SETS.get(options.instruction_set, {}))  # for the measurements
    out = options.out or results_file()
    chosen = options.implementations
    references = [REFERENCE] + [REFERENCE_GRU] * any("GRU" in name for name in chosen)
    names = [*references, *(name for name in chosen if name not in references)]
    limits = Limits(options.rounds, options.budget)
    result = run(options.shapes, names, limits, options.threads, options.parts)
    save(result, markdown(result), out)


if __name__ == "__main__":
    main()
