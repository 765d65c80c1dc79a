"""Benchmark of MinGRU on long sequences, beside layers whose steps wait for one another.

A training step of (4096, 16, 64, 256) and of the shape "pixel" beside ``torch.nn.LSTM``,
``torch.nn.GRU`` and, where it is installed, the package minGRU-pytorch; the time of a step against
the number of steps; and peak memory. All is measured as by ``layers.py``, with the allocator that
reuses freed memory; memory with the default one.
"""

import argparse
import functools
import importlib.util
import json
import statistics
from pathlib import Path

from implementations import LINEAR, LONG_SHAPES, PEER, REFERENCE, REFERENCE_GRU, SHAPES
from layers import RESULTS, Limits, machine, measure
from report import description, resident, speed, table

RACE = ("T=4096", "pixel")
RECURRENT = [REFERENCE, REFERENCE_GRU, "torch UR"]
GROWING = ["torch MinGRU UR", "NumPy MinGRU UR"]  # at every length


def run(limits: Limits, threads: int) -> dict:
    """All measurements."""
    installed = importlib.util.find_spec("minGRU_pytorch") is not None
    names = RECURRENT + [name for name in LINEAR if installed or name != PEER]
    seconds = functools.partial(measure, "seconds", limits=limits, threads=threads, setting="kept")
    shapes = {**SHAPES, **LONG_SHAPES}
    result = {**machine(), "threads": threads, "rounds": limits.rounds, "reference": REFERENCE}
    result["shapes"] = {shape: shapes[shape]._asdict() for shape in (*RACE, *LONG_SHAPES)}
    result["seconds"] = {"kept": {shape: seconds(shape, names) for shape in RACE}}
    result["seconds"]["lengths"] = {
        shape: seconds(shape, GROWING) for shape in LONG_SHAPES if shape not in RACE
    }
    result["memory"] = {
        RACE[0]: {
            name: measure("memory", RACE[0], [name], Limits(2, 0), threads, "default")
            for name in names
        }
    }
    return result


def markdown(result: dict) -> str:
    """The tables, under a description of the machine and the shapes."""
    times = result["seconds"]["kept"]
    names = list(times[RACE[0]])
    peers = [name for name in (REFERENCE, REFERENCE_GRU, PEER) if name in names]
    columns = {f"{shape} × {peer}": (shape, peer) for shape in RACE for peer in peers}
    rows = {
        name: [speed(times[shape], peer, name) for shape, peer in columns.values()]
        for name in names
    }
    milliseconds = {
        name: [f"{1e3 * statistics.median(times[shape][name]):.3g}" for shape in RACE]
        for name in names
    }
    every = result["seconds"]["lengths"] | {RACE[0]: times[RACE[0]]}
    steps = {
        name: [
            f"{1e6 * statistics.median(every[shape][name]) / sizes.time:.1f}"
            for shape, sizes in LONG_SHAPES.items()
        ]
        for name in GROWING
    }
    used = result["memory"][RACE[0]]
    memory = {name: [resident(used[name], used[REFERENCE_GRU])] for name in names}
    return "\n".join(
        [
            description(result),
            table("Milliseconds of a training step", RACE, milliseconds),
            table("Speed relative to other layers (above 1 is faster)", columns, rows),
            table("Microseconds of a time step, by the length of the sequence", LONG_SHAPES, steps),
            table("Peak resident memory of a fresh process, MB; in brackets relative to "
                  f"{REFERENCE_GRU}, and the growth since the first step", RACE[:1], memory),
        ]
    )  # fmt: skip


def main() -> None:
    """Run the benchmark, print its table, write the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, default=30, help="seconds after which no further round begins"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu-long-sequences.json")
    options = parser.parse_args()
    result = run(Limits(options.rounds, options.budget), options.threads)
    text = markdown(result)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
