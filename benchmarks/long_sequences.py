"""Benchmark of MinGRU on long sequences, beside layers whose steps wait for one another.

A training step of (4096, 16, 64, 256) and of the shape "pixel" beside ``torch.nn.LSTM``,
``torch.nn.GRU`` and, where it is installed, the package minGRU-pytorch; the time of a step against
the number of steps, which alternate in one process; and peak memory. The other layers are slower:
each length has its own process. All is measured as by ``layers.py``, with the allocator that
reuses freed memory; memory with the default one. With ``--add`` the parts and lengths that are not
measured stay as they are in the file of results, if machine, versions and threads are the same.
"""

import argparse
import functools
import importlib.util
import json
import statistics
from collections.abc import Callable
from pathlib import Path

from implementations import LINEAR, LONG_SHAPES, PEER, REFERENCE, REFERENCE_GRU, SHAPES
from layers import RESULTS, Limits, machine, measure, measure_shapes
from report import description, resident, speed, table

RACE = ("T=4096", "pixel")
RECURRENT = [REFERENCE, REFERENCE_GRU, "torch UR"]
GROWING = ["torch MinGRU UR", "NumPy MinGRU UR"]  # at every length
# steps of the others at most: a round of more takes minutes and gigabytes on two cores
LONGEST = {REFERENCE: 4096, REFERENCE_GRU: 2048, "torch UR": 16384}
SAME = ("cpu", "cores", "instructions", "versions", "threads")  # in results that are joined

PARTS = ("race", "lengths", "memory")


def run(parts: list[str], lengths: list[str], limits: Limits, threads: int) -> dict:
    """The measurements of these parts, with the times of these shapes."""
    installed = importlib.util.find_spec("minGRU_pytorch") is not None
    names = RECURRENT + [name for name in LINEAR if installed or name != PEER]
    seconds = functools.partial(measure, "seconds", limits=limits, threads=threads, setting="kept")
    shapes = {**SHAPES, **LONG_SHAPES}
    result = {**machine(), "threads": threads, "rounds": limits.rounds, "reference": REFERENCE}
    result["shapes"] = {shape: shapes[shape]._asdict() for shape in (*RACE, *LONG_SHAPES)}
    result["seconds"] = {}
    if "race" in parts:
        result["seconds"]["race"] = {shape: seconds(shape, names) for shape in RACE}
    if "lengths" in parts:
        growing = measure_shapes("seconds", lengths, GROWING, limits, threads, "kept")
        result["seconds"]["lengths"] = {
            shape: _recurrent_times(shape, seconds) | growing[shape] for shape in lengths
        }
    if "memory" in parts:
        limits = Limits(2, 0)
        result["memory"] = {
            name: measure("memory", RACE[0], [name], limits, threads, "default") for name in names
        }
    return result


def _recurrent_times(shape: str, seconds: Callable[..., dict]) -> dict:
    names = [name for name in RECURRENT if LONG_SHAPES[shape].time <= LONGEST[name]]
    return seconds(shape, names) if names else {}


def joined(old: dict, new: dict) -> dict:
    """The new result with the parts and lengths that it lacks; ValueError if they do not fit."""
    if differing := [name for name in SAME if old[name] != new[name]]:
        raise ValueError(f"the stored results differ in {', '.join(differing)}: measure all parts")
    seconds = {**old["seconds"], **new["seconds"]}
    if "lengths" in new["seconds"]:
        times = {**old["seconds"].get("lengths", {}), **new["seconds"]["lengths"]}
        seconds["lengths"] = {shape: times[shape] for shape in LONG_SHAPES if shape in times}
    return {**old, **new, "seconds": seconds}


def markdown(result: dict) -> str:
    """The tables of the measured parts, under a description of the machine and the shapes."""
    tables = [description(result)]
    if times := result["seconds"].get("race"):
        names = list(times[RACE[0]])
        peers = [name for name in (REFERENCE, REFERENCE_GRU, PEER) if name in names]
        columns = {f"{shape} × {peer}": (shape, peer) for shape in RACE for peer in peers}
        rows = {
            name: [speed(times[shape], peer, name) for shape, peer in columns.values()]
            for name in names
        }
        every = {name: [_median(times[shape][name], 1e3) for shape in RACE] for name in names}
        tables.append(table("Milliseconds of a training step", RACE, every))
        tables.append(table("Speed relative to other layers (above 1 is faster)", columns, rows))
    if times := result["seconds"].get("lengths"):
        steps = {
            name: [
                _median(times[s][name], 1e6 / LONG_SHAPES[s].time) if name in times[s] else "–"
                for s in times
            ]
            for name in RECURRENT + GROWING
        }
        title = "Microseconds of a time step, by the length of the sequence"
        tables.append(table(title, times, steps))
    if used := result.get("memory"):
        title = (f"Peak resident memory of a fresh process at {RACE[0]}, MB; in brackets relative "
                 f"to {REFERENCE_GRU}, and the growth since the first step")  # fmt: skip
        rows = {name: [resident(used[name], used[REFERENCE_GRU])] for name in used}
        tables.append(table(title, RACE[:1], rows))
    return "\n".join(tables)


def _median(times: list[float], scale: float) -> str:
    return f"{scale * statistics.median(times):.3g}"


def main() -> None:
    """Run the benchmark, print its table, write the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--lengths", nargs="+", choices=LONG_SHAPES, default=list(LONG_SHAPES))
    parser.add_argument("--add", action="store_true", help="to the results of another run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, default=30, help="seconds after which no further round begins"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu-long-sequences.json")
    options = parser.parse_args()
    limits = Limits(options.rounds, options.budget)
    result = run(options.parts, options.lengths, limits, options.threads)
    if options.add:
        result = joined(json.loads(options.out.read_text(encoding="utf-8")), result)
    text = markdown(result)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
