"""The efficiency of a sweep with two local workers.

``python benchmarks/sweeps.py`` trains some trials of about a minute each, first one after the other
in one process, then as a sweep with two workers. The efficiency is the first time divided by two
times the second; 1 is ideal. It needs two idle cores.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
os.environ.update(THREADS)  # of this process, before NumPy is loaded

from gatecore.tasks import Config, SweepConfig, sweep, train  # noqa: E402

WORKERS = 2
MECHANISMS = ("standard", "U", "R", "UR")
RARELY = 10**6  # steps


def settings(seconds: float) -> dict[str, int]:
    """The number of steps that takes about so many seconds."""
    few = 20
    config = Config.of("copying", "UR", steps=few, threads=1, evaluate_every=RARELY)
    with tempfile.TemporaryDirectory() as out:
        run = train(config, out)
    assert run.summary is not None
    return {"steps": max(few, round(few * seconds / run.summary["seconds"])), "threads": 1}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of a trial (default: 60)")
    arguments = parser.parse_args()
    common = settings(arguments.seconds)
    with tempfile.TemporaryDirectory() as folder:
        config = SweepConfig.of(
            "copying", mechanisms=MECHANISMS, workers=WORKERS, out=Path(folder) / "sweep", **common
        )
        start = time.perf_counter()
        for trial in config.trials()[0]:
            train(trial.config, Path(folder) / "alone" / trial.name)
        alone = time.perf_counter() - start
        start = time.perf_counter()
        swept = sweep(config)
        together = time.perf_counter() - start
    assert len(swept.runs) == len(MECHANISMS)
    count = len(MECHANISMS)
    print(f"trials                    {count} of {common['steps']} steps")
    print(f"one after the other       {alone:7.1f} s ({alone / count:.1f} s each)")
    print(f"sweep, {WORKERS} workers          {together:7.1f} s")
    print(f"ideal                     {alone / WORKERS:7.1f} s")
    print(f"efficiency                {alone / WORKERS / together:7.3f}")


if __name__ == "__main__":
    main()
