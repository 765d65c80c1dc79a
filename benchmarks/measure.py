"""One measurement in a fresh process; its result is printed as JSON. Started by ``layers.py``."""

import argparse
import concurrent.futures
import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from implementations import (
    INFERENCE,
    LINEAR,
    LONG_SHAPES,
    SINGLE,
    SINGLE_SHAPES,
    SLOW,
    TRAINING,
    use_threads,
)
from implementations import SHAPES as SHORT_SHAPES

from gatecore.backends.native import library

FEWEST = 3  # rounds
ALL = TRAINING | LINEAR
SHAPES = SHORT_SHAPES | LONG_SHAPES | SINGLE_SHAPES
REGISTRIES = {"seconds": ALL, "inference": INFERENCE, **SINGLE}


def seconds(
    shapes: list[str], names: list[str], rounds: int, budget: float, registry: dict = ALL
) -> dict[str, dict[str, list[float]]]:
    """Seconds of one step of each implementation, at each shape, in each round of them all.

    The slow ones run in the first three rounds only. After ``budget`` seconds no further round
    begins, except for the first three.
    """
    steps = {(s, name): registry[name](SHAPES[s]) for s in shapes for name in names}
    for step in steps.values():  # warm-up: compilation, first touch of memory
        step()
    for (_, name), step in steps.items():
        if name not in SLOW:
            step()
    times: dict[str, dict[str, list[float]]] = {s: {name: [] for name in names} for s in shapes}
    begin = time.perf_counter()
    for k in range(rounds):
        if k >= FEWEST and time.perf_counter() - begin > budget:
            break
        for (shape, name), step in steps.items():
            if k < FEWEST or name not in SLOW:
                times[shape][name].append(timed(step))
    return times


def timed(step: Callable[[], object]) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Largest resident set of this process so far.

    Linux's VmHWM belongs to the program that runs; ru_maxrss also remembers the process that this
    one was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def memory(shapes: list[str], names: list[str], rounds: int, budget: float) -> dict[str, float]:
    """Resident set of one implementation: before the first step, and the peak over some steps."""
    (shape,), (name,) = shapes, names
    step = ALL[name](SHAPES[shape])
    ready = peak_megabytes()
    for _ in range(rounds):
        step()
    return {"ready_mb": ready, "peak_mb": peak_megabytes()}


def peak(shapes: list[str], names: list[str], rounds: int, budget: float) -> float:
    """Additions and multiplications a second by FMAs on registers alone, on all threads."""
    del shapes, names, budget
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 1
    chosen = library.INSTRUCTION_SETS.index(library.instruction_set())
    loop = functools.partial(library.library().gatecore_multiply_adds, chosen)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def rate(count: int) -> float:
            start = time.perf_counter()
            return sum(pool.map(loop, [count] * threads)) / (time.perf_counter() - start)

        rate(10**6)  # the threads start
        return max(rate(10**7) for _ in range(5 * rounds))


def main() -> None:
    """Print a measurement as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=[*REGISTRIES, "memory", "peak"])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    use_threads(options.threads, options.names)
    timings = {k: functools.partial(seconds, registry=r) for k, r in REGISTRIES.items()}
    kinds = {**timings, "memory": memory, "peak": peak}
    result = kinds[options.what](options.shapes, options.names, options.rounds, options.budget)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
