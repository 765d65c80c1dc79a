"""The benchmark's results as Markdown.

python benchmarks/report.py [--readme] benchmarks/results/cpu-layers-avx2-amd-epyc.json

prints the tables; --readme prints the table of README.md, which a test compares with its file, and
--reference NAME the speeds relative to another implementation than torch's layers.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path

import numpy as np

TITLES = {
    "kept": "Speed relative to {reference}, memory-reusing allocator (above 1 is faster)",
    "default": "The same under the allocator's default setting",
}
INSTRUCTION_SETS = {"avx512": "AVX-512", "avx2": "AVX2", "portable": "portable vectors"}
# the rows of README.md: the part of the results, and the implementation
README_ROWS = {
    "torch": ("kept", "torch UR"),
    "NumPy": ("kept", "NumPy UR"),
    "JAX": ("kept", "JAX UR"),
    "torch, allocator's default": ("default", "torch UR"),
    "torch, without gradients": ("inference", "torch UR"),
    "torch, ordered master gates (OM) of 16 units": ("kept", "torch OM, C = 16"),
    "torch, without the library": ("kept", "torch UR, reference"),
    "a Python loop in torch": ("kept", "naive Python loop"),
    "flax's `OptimizedLSTMCell` (a standard LSTM)": ("kept", "flax.nnx.OptimizedLSTMCell"),
}


def markdown(result: dict) -> str:
    """The tables, under a description of the machine and the shapes."""
    reference, shapes = result["reference"], result["shapes"]
    parts = [description(result)]
    for setting, title in TITLES.items():
        if times := result["seconds"].get(setting):
            parts.append(table(title.format(reference=reference), shapes, _speeds(times, shapes)))
    if "peak" in result:
        parts.append(_shares(result))
    parts.append(_beside_torch(result))
    for threads, times in result.get("other_threads", {}).items():
        title = f"{reference} and the others with {threads} thread{'s' * (threads != '1')}"
        parts.append(table(f"{title}, memory-reusing allocator", shapes, _speeds(times, shapes)))
    if "inference" in result:
        title = "Inference, without gradients, memory-reusing allocator"
        parts.append(table(title, shapes, _speeds(result["inference"], shapes)))
    if "memory" in result:
        parts.append(_memory(result))
    return "\n".join(parts)


def heading(result: dict) -> str:
    """The instruction set, the processor and the date, on which the numbers depend."""
    limited = result["instructions"].removeprefix("limited to ").removesuffix("f")
    return f"{INSTRUCTION_SETS.get(limited, limited)}: {result['cpu']}, {result['date']}"


def readme_table(result: dict) -> str:
    """The table of README.md: medians, with their range where it is wide or holds 1."""
    reference, shapes = result["reference"], result["shapes"]
    parts = {**result["seconds"], "inference": result.get("inference", {})}
    rows = {
        title: [_short(parts[part][shape], reference, name) for shape in shapes]
        for title, (part, name) in README_ROWS.items()
        if name in next(iter(parts.get(part, {}).values()), {})
    }
    if "memory" in result:
        peaks = [
            f"{used['torch UR']['peak_mb'] / used[reference]['peak_mb']:.2f}"
            for used in result["memory"].values()
        ]
        rows["torch, peak memory of a process"] = peaks
    title = f"UR-LSTM relative to `{reference}`"
    lines = [[title, *shapes], ["---"] * (len(shapes) + 1)]
    lines += [[name, *entries] for name, entries in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _short(times: dict[str, list[float]], reference: str, name: str) -> str:
    median, spread = (text := speed(times, reference, name)).split()
    low, high = map(float, spread.strip("()").split("–"))
    return text if high - low > float(median) / 5 or low < 1 < high else median


def _speeds(times: dict, shapes: dict) -> dict[str, list[str]]:
    """The speed of each implementation relative to torch's layer, and that layer's time."""
    rows = {}
    for name in next(iter(times.values())):
        if name.startswith("torch.nn"):
            medians = [1e3 * statistics.median(times[shape][name]) for shape in shapes]
            rows[f"{name}, milliseconds"] = [
                f"{m:.1f}" if m < 100 else f"{m:,.0f}" for m in medians
            ]
        else:
            rows[name] = [speed(times[shape], reference_of(name), name) for shape in shapes]
    return rows


def _beside_torch(result: dict) -> str:
    """The time of NumPy's and JAX's layers relative to torch's layer of the same mechanism."""
    times, shapes = result["seconds"]["kept"], result["shapes"]
    rows = {
        name: [speed(times[shape], name, peer) for shape in shapes]
        for name in next(iter(times.values()))
        if (peer := f"torch {name.partition(' ')[2]}") in next(iter(times.values()))
        and name.startswith(("NumPy ", "JAX "))
    }
    return table(
        "Time of NumPy's and JAX's layers relative to torch's, memory-reusing allocator",
        shapes,
        rows,
    )


def relative(result: dict, reference: str) -> str:
    """The speed of the implementations relative to any of them, by its name."""
    times, shapes = result["seconds"]["kept"], result["shapes"]
    rows = {
        name: [speed(times[shape], reference, name) for shape in shapes]
        for name in next(iter(times.values()))
        if name != reference
    }
    title = f"Speed relative to {reference}, memory-reusing allocator (above 1 is faster)"
    return table(title, shapes, rows)


def _shares(result: dict) -> str:
    """The share of the peak rate at which each implementation multiplies and adds."""
    times, peak = result["seconds"]["kept"], result["peak"]
    rows = {
        name: [
            f"{count[name] / statistics.median(times[shape][name]) / peak:.0%}"
            for shape, count in result["operations"].items()
        ]
        for name in next(iter(times.values()))
    }
    return table(
        f"Share of the rate of a loop of FMAs on registers, {peak / 1e9:.0f} GFLOP/s, that the "
        "products' operations reach; the cells' time counts",
        list(result["shapes"]),
        rows,
    )


def reference_of(name: str) -> str:
    """The layer of torch that an implementation is compared with."""
    return "torch.nn.GRU" if "GRU" in name else "torch.nn.LSTM"


def description(result: dict) -> str:
    """The machine, the versions, the shapes, and the number of rounds."""
    sizes = "; ".join(
        f"{name} ({s['time']}, {s['batch']}, {s['input']}, {s['hidden']})"
        for name, s in result["shapes"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"{result['date']}; {result['cpu']} ({result['instructions']}), {result['cores']} cores, "
        f"{result['threads']} threads, load average {result['load']} at the start; {versions}.\n"
        f"Forward and backward of a whole sequence, float32, one layer; shapes (time, batch, "
        f"input, hidden): {sizes}.\n"
        f"Median of {_rounds(result)} alternated rounds of one process, in brackets the 10 % "
        "and 90 % quantiles of the rounds' ratios. GRUs are compared with torch.nn.GRU.\n"
    )


def _rounds(result: dict) -> str:
    """The numbers of rounds."""
    runs = [run for setting in result["seconds"].values() for run in setting.values()]
    counts = {len(times) for run in runs for times in run.values()}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))


def speed(times: dict[str, list[float]], reference: str, name: str) -> str:
    """The median of the ratios of times, above 1 if faster than the reference, and its range."""
    rounds = zip(times[reference], times[name], strict=False)  # slow ones stop after three
    ratios = [theirs / ours for theirs, ours in rounds]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{statistics.median(ratios):.2f} ({low:.2f}–{high:.2f})"


def _memory(result: dict) -> str:
    memory = result["memory"]
    rows = {
        name: [resident(used[name], used[reference_of(name)]) for used in memory.values()]
        for name in next(iter(memory.values()))
    }
    title = "Peak resident memory of a fresh process, MB"
    explanation = "in brackets relative to torch's layer, and the growth since the first step"
    return table(f"{title}; {explanation}", list(memory), rows)


def resident(own: dict[str, float], reference: dict[str, float]) -> str:
    """Peak memory; in brackets the ratio to the reference's, and the growth."""
    ratio, grown = own["peak_mb"] / reference["peak_mb"], own["peak_mb"] - own["ready_mb"]
    return f"{own['peak_mb']:.0f} ({ratio:.2f}; {grown:.0f})"


def table(title: str, columns: Iterable[str], rows: dict[str, list[str]]) -> str:
    """A table under its title; ``rows`` have an entry for each column."""
    columns = list(columns)
    cells = [["", *columns], ["---"] * (len(columns) + 1)]
    cells += [[name, *entries] for name, entries in rows.items()]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", *lines, ""])


def main() -> None:
    """Print the tables of a file of results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--readme", action="store_true", help="the table of README.md")
    parser.add_argument("--reference", help="an implementation, for speeds relative to it")
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    result = json.loads(options.results.read_text(encoding="utf-8"))
    if options.reference:
        print(relative(result, options.reference))
    else:
        print(readme_table(result) if options.readme else markdown(result))


if __name__ == "__main__":
    main()
