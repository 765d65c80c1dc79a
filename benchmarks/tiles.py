"""Tries sizes of the C++ library's tiles on this machine, and prints the best.

python benchmarks/tiles.py [--instruction-set avx2] [--rounds 3]

The present sizes and some others are compiled into ``tiles.cpp``, which measures the library's
products alone, on one core. The fields are those of ``Tiles`` in backends/native/src/tiles.h. Steps
use the first three, the weights' gradients the others; so both are printed by themselves. The
rates are of the fastest round, in percent of a loop of FMAs. The last line is the best choice: the
present sizes, unless others are more than 1 % faster in the geometric mean. It takes two minutes on
two idle cores.
"""

import argparse
import functools
import itertools
import math
import os
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gatecore.backends.native import library

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "backends" / "native" / "src"
FLAGS = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
UNITS = {
    "avx2": ["-mavx2", "-mfma", "-DVL=8", "-DISA=avx2"],
    "avx512": [
        "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma",
        "-mprefer-vector-width=512", "-DVL=16", "-DISA=avx512",
    ],
    "portable": ["-DVL=4", "-DISA=portable"],
    "neon": ["-DVL=4", "-DISA=neon", "-DREGISTERS=32"],
}  # fmt: skip
# vectors and rows of a tile that fit the registers
SHAPES = {
    "avx2": ((2, 6), (3, 4)),
    "avx512": ((4, 6), (4, 7), (3, 8)),
    "portable": ((2, 6), (3, 4)),
    "neon": ((4, 5), (3, 7), (4, 6)),
}
INNER = {"steps": (128, 256, 512), "weights": (256, 1024)}
COPIED = (1, 40, 0)  # from so many tiles on the right operand is copied; 0 is never
GAIN = 1.01  # of a choice over the present sizes: less is noise


def candidates(name: str) -> list[tuple[int, ...]]:
    """Sizes to try: all steps' beside all weights' gradients', as many as the more of them."""
    steps = [(*shape, inner) for inner in INNER["steps"] for shape in SHAPES[name]]
    weights = [
        (*shape, inner, copied)
        for copied in COPIED for inner in INNER["weights"] for shape in SHAPES[name]
    ]  # fmt: skip
    count = max(len(steps), len(weights))
    pairs = zip(itertools.cycle(steps), itertools.cycle(weights), range(count), strict=False)
    return [(*step, *weight) for step, weight, _ in pairs]


def build(compiler: str, folder: Path, name: str, sizes: tuple[int, ...] | None) -> Path:
    """The program with these sizes, or the library's own."""
    program = folder / (f"{name}-" + "-".join(map(str, sizes or ["present"])))
    tiles = [f"-DGATECORE_TILES={','.join(map(str, sizes))}"] if sizes else []
    source = ROOT / "benchmarks" / "tiles.cpp"
    command = [compiler, *FLAGS, *UNITS[name], *tiles, f"-I{SOURCES}", source, "-o", program]
    subprocess.run(command, check=True)
    return program


def rates(program: Path, best: dict[str, float]) -> None:
    """Run once; ``best`` keeps the highest rates."""
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        label, value = line.rsplit(maxsplit=1)
        best[label] = max(best.get(label, 0.0), float(value))


def peak(name: str) -> float:
    """Floating-point operations a second of a loop of FMAs, on one core."""
    chosen, seconds = library.INSTRUCTION_SETS.index(name), []
    for _ in range(20):
        start = time.perf_counter()
        operations = library.library().gatecore_multiply_adds(chosen, 10**6)
        seconds.append(time.perf_counter() - start)
    return operations / min(seconds)


def show(title: str, results: dict[str, dict[str, float]], top: float) -> tuple[str, float]:
    """Print a table, best geometric mean first; ``results`` has rates by sizes and product.

    The best sizes, and their mean rate relative to the present ones'.
    """
    labels = next(iter(results.values()))
    print(f"\n{title:20} {'mean':>6} " + " ".join(f"{label[-10:]:>10}" for label in labels))
    means = {sizes: math.prod(r.values()) ** (1 / len(r)) for sizes, r in results.items()}
    for sizes in sorted(means, key=means.__getitem__, reverse=True):
        shares = " ".join(f"{rate / top:10.1%}" for rate in results[sizes].values())
        print(f"{sizes:20} {means[sizes] / top:6.1%} {shares}", flush=True)
    best = max(means, key=means.__getitem__)
    gain = means[best] / means["present"]
    return (best, gain) if gain > GAIN else ("present", 1.0)


def main() -> None:
    """Compile all, measure them in turns, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--instruction-set", choices=library.INSTRUCTION_SETS, default=library.instruction_set()
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    name = options.instruction_set
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++"))))
    tried = [None, *candidates(name)]
    with tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            programs = list(pool.map(functools.partial(build, compiler, Path(folder), name), tried))
        best: list[dict[str, float]] = [{} for _ in tried]
        for _ in range(options.rounds):
            for program, own in zip(programs, best, strict=True):
                rates(program, own)
    choices = []
    for kind, part in (("step", slice(3)), ("weights", slice(3, None))):
        table: dict[str, dict[str, float]] = {}
        for sizes, own in zip(tried, best, strict=True):
            label = ", ".join(map(str, sizes[part])) if sizes else "present"
            row = table.setdefault(label, {})
            for key, rate in own.items():
                if key.startswith(kind):
                    row[key] = max(row.get(key, 0.0), rate)
        sizes, gain = show(f"{kind}: sizes", table, peak(name))
        choices.append(f"{kind} {sizes} (x {gain:.2f})")
    print(f"\nbest for {name}: " + ", ".join(choices))


if __name__ == "__main__":
    main()
