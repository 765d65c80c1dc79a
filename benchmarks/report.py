"""A race's JSON as Markdown: ``python benchmarks/report.py benchmarks/results/cpu-layers.json``."""

import json
import statistics
import sys
from pathlib import Path

import numpy as np

TITLES = {
    "kept": "Speed relative to {reference}, freed buffers kept (above 1 is faster)",
    "default": "The same under the allocator's default setting",
}


def markdown(result: dict) -> str:
    """The tables of a race, with what they depend on."""
    reference, shapes = result["reference"], result["shapes"]
    parts = [_setting(result)]
    for setting, title in TITLES.items():
        times = result["seconds"][setting]
        parts.append(_table(title.format(reference=reference), shapes, _speeds(times, shapes)))
    parts.append(_beside_torch(result))
    for threads, times in result.get("other_threads", {}).items():
        title = f"{reference} and the others with {threads} thread{'s' * (threads != '1')}"
        parts.append(_table(f"{title}, freed buffers kept", shapes, _speeds(times, shapes)))
    title = "Inference, without gradients, freed buffers kept"
    parts.append(_table(title, shapes, _speeds(result["inference"], shapes)))
    parts.append(_memory(result))
    return "\n".join(parts)


def _speeds(times: dict, shapes: dict) -> dict[str, list[str]]:
    """Each contender beside torch's own layer of its kind, and that one's time."""
    rows = {}
    for name in next(iter(times.values())):
        if name.startswith("torch.nn"):
            medians = [1e3 * statistics.median(times[shape][name]) for shape in shapes]
            rows[f"{name}, milliseconds"] = [f"{m:.3g}" for m in medians]
        else:
            rows[name] = [_speed(times[shape], reference_of(name), name) for shape in shapes]
    return rows


def _beside_torch(result: dict) -> str:
    """How many times torch's time NumPy and JAX take for the same layer."""
    times, shapes = result["seconds"]["kept"], result["shapes"]
    rows = {
        name: [_speed(times[shape], name, own) for shape in shapes]
        for name in next(iter(times.values()))
        if (own := f"torch {name.partition(' ')[2]}") in next(iter(times.values()))
        and name.startswith(("NumPy ", "JAX "))
    }
    return _table("Time of NumPy's and JAX's layers, of torch's, freed buffers kept", shapes, rows)


def reference_of(name: str) -> str:
    """torch's layer that a contender stands beside."""
    return "torch.nn.GRU" if "GRU" in name else "torch.nn.LSTM"


def _setting(result: dict) -> str:
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
        "and 90 % quantiles of the rounds' ratios. GRUs stand beside torch.nn.GRU.\n"
    )


def _rounds(result: dict) -> str:
    """How many rounds each contender had."""
    races = [race for setting in result["seconds"].values() for race in setting.values()]
    counts = {len(times) for race in races for times in race.values()}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))


def _speed(times: dict[str, list[float]], reference: str, name: str) -> str:
    both = zip(times[reference], times[name], strict=False)  # slow ones stop after a few rounds
    ratios = [r / own for r, own in both]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{statistics.median(ratios):.2f} ({low:.2f}–{high:.2f})"


def _memory(result: dict) -> str:
    memory = result["memory"]
    rows = {
        name: [_used(used[name], used[reference_of(name)]) for used in memory.values()]
        for name in next(iter(memory.values()))
    }
    title = "Peak resident memory of a fresh process, MB"
    told = (
        "in brackets how many times torch's own layer's, and what came after the first step began"
    )
    return _table(f"{title}; {told}", list(memory), rows)


def _used(own: dict[str, float], reference: dict[str, float]) -> str:
    ratio, grown = own["peak_mb"] / reference["peak_mb"], own["peak_mb"] - own["ready_mb"]
    return f"{own['peak_mb']:.0f} ({ratio:.2f}; {grown:.0f})"


def _table(title: str, columns: list[str] | dict, rows: dict[str, list[str]]) -> str:
    cells = [["", *columns], ["---"] * (len(columns) + 1)]
    cells += [[name, *entries] for name, entries in rows.items()]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", *lines, ""])


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
