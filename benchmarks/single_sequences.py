"""Benchmark of single sequences, of batch size 1, beside torch's cells and layers.

The parts are: a cell that is called step by step, without gradients and with those of all steps; a
layer that is called for one step at a time; and a layer over a whole sequence, without and with
gradients. All is measured as by ``layers.py``: in alternated rounds of one process, in float32,
with the allocator that reuses freed memory.
"""

import argparse
import os
import statistics
from pathlib import Path

from implementations import CELL_STEPS, SINGLE, SINGLE_SHAPES
from layers import INSTRUCTION_SETS, Limits, machine, measure, results_file, save
from report import heading, speed, table

TITLES = {
    "cell": "Cell, without gradients",
    "cell-training": f"Cell, forward and backward through {CELL_STEPS} steps",
    "layer-steps": "Layer called for one step at a time, without gradients",
    "sequence": "Layer over {time} steps, without gradients",
    "sequence-training": "Layer over {time} steps, forward and backward",
}


def run(parts: list[str], shapes: list[str], limits: Limits, threads: int) -> dict:
    """The measurements of these parts and shapes."""
    result = {**machine(), "threads": threads}
    result["shapes"] = {shape: SINGLE_SHAPES[shape]._asdict() for shape in shapes}
    result["seconds"] = {
        part: {
            shape: measure(part, shape, list(SINGLE[part]), limits, threads, "kept")
            for shape in shapes
        }
        for part in parts
    }
    return result


def markdown(result: dict) -> str:
    """The tables of the measured parts, under a description of the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    (time,) = {shape["time"] for shape in result["shapes"].values()}
    runs = [times for part in result["seconds"].values() for times in part.values()]
    rounds = {len(seconds) for times in runs for seconds in times.values()}
    parts = [
        f"{heading(result)}, {result['cores']} cores, {result['threads']} threads, load average "
        f"{result['load']} at the start; {versions}.\n"
        "One sequence, float32, one layer, with as many inputs as units (H). Medians of "
        f"{min(rounds)} to {max(rounds)} alternated rounds of one process, in brackets the 10 % "
        "and 90 % quantiles of the rounds' ratios, with the allocator that reuses freed memory. "
        "GRUs are compared with torch's GRU, others with its LSTM: speed relative to these, above "
        "1 is faster.\n"
    ]
    for part, by_shape in result["seconds"].items():
        steps = time if part.startswith("sequence") else CELL_STEPS
        rows = {
            name: [_entry(times, name, steps) for times in by_shape.values()]
            for name in next(iter(by_shape.values()))
        }
        titled = {f"{n}, µs a step" if n == _peer(n, rows) else n: row for n, row in rows.items()}
        parts.append(table(TITLES[part].format(time=time), by_shape, titled))
    return "\n".join(parts)


def _peer(name: str, names: dict) -> str:
    """The cell or layer of torch that an implementation is compared with."""
    own = (one for one in names if one.startswith("torch.nn"))
    return next(one for one in own if ("GRU" in one) == ("GRU" in name))


def _entry(times: dict[str, list[float]], name: str, steps: int) -> str:
    peer = _peer(name, times)
    if name == peer:
        return f"{1e6 * statistics.median(times[name]) / steps:.3g}"
    return speed(times, peer, name)


def main() -> None:
    """Run the benchmark, print its tables, write them and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=SINGLE, default=list(SINGLE))
    parser.add_argument("--shapes", nargs="+", choices=SINGLE_SHAPES, default=list(SINGLE_SHAPES))
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--budget", type=float, default=5, help="seconds after which no further round begins"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--instruction-set", choices=INSTRUCTION_SETS, help="at most this one")
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    options = parser.parse_args()
    os.environ.update(INSTRUCTION_SETS.get(options.instruction_set, {}))  # for the measurements
    out = options.out or results_file("cpu-single-sequences")
    limits = Limits(options.rounds, options.budget)
    result = run(options.parts, options.shapes, limits, options.threads)
    save(result, markdown(result), out)


if __name__ == "__main__":
    main()
