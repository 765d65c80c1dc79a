"""Time of each task's data, relative to the training step on it.

    python benchmarks/data.py [--preset quick] [--backend numpy] [TASK ...]

Medians, on one thread. Data should be at least 20 times faster than a step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import threadpoolctl

from gatecore import backends
from gatecore.tasks import TASKS, Config

FACTOR = 20


def milliseconds(work: Callable[[int], object], rounds: int) -> float:
    """Median time of ``work(k)`` for k = 1, 2, …, after an untimed first call."""
    work(0)
    times = []
    for k in range(1, rounds + 1):
        start = time.perf_counter()
        work(k)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(task: str, preset: str, backend: str) -> tuple[float, float]:
    """Milliseconds of a batch's data, and of the training step on it."""
    config = Config.of(task, "UR", preset, backend=backend)
    learner = backends.load(backend).Learner(config.spec())
    size = config.batch_size
    data = milliseconds(lambda k: config.task.batch(0, k, size), 30)
    batch = config.task.batch(0, 0, size)
    step = milliseconds(lambda k: learner.step(batch, learning_rate=1e-3, clip_norm=0.1), 5)
    return data, step


def main() -> None:
    """Measure each task and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: all")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--backend", default="numpy")
    arguments = parser.parse_args()
    print(f"{arguments.preset}, {arguments.backend}")
    print(f"{'task':12} {'data':>10} {'step':>10} {'step/data':>10}")
    with threadpoolctl.threadpool_limits(1):
        for task in arguments.tasks or TASKS:
            data, step = measure(task, arguments.preset, arguments.backend)
            verdict = "" if step >= FACTOR * data else f"  (below {FACTOR})"
            print(f"{task:12} {data:7.2f} ms {step:7.1f} ms {step / data:10.0f}{verdict}")


if __name__ == "__main__":
    main()
