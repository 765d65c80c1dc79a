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
        f"Median of {result['rounds']} alternated rounds of one process, in brackets the 10 % "
        "and 90 % quantiles of the rounds' ratios. GRUs stand beside torch.nn.GRU.\n"
    )


def _speed(times: dict[str, list[float]], reference: str, name: str) -> str:
    ratios = [r / own for r, own in zip(times[reference], times[name], strict=True)]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return f"{statistics.median(ratios):.2f} ({low:.2f}–{high:.2f})"


def _memory(result: dict) -> str:
    memory = result["memory"]
    rows = {}
    for name in next(iter(memory.values())):
        rows[name] = [f"{memory[shape][name]['peak_mb']:.0f}" for shape in memory]
    for name in rows.copy():
        if not name.startswith("torch.nn"):
            own = reference_of(name)
            rows[f"{name}, of {own}'s"] = [
                f"{used[name]['peak_mb'] / used[own]['peak_mb']:.2f}" for used in memory.values()
            ]
    for name in next(iter(memory.values())):
        rows[f"{name}, beyond what was resident before the first step"] = [
            f"{used[name]['peak_mb'] - used[name]['ready_mb']:.0f}" for used in memory.values()
        ]
    return _table("Peak resident memory of a fresh process, MB", list(memory), rows)


def _table(title: str, columns: list[str] | dict, rows: dict[str, list[str]]) -> str:
    cells = [["", *columns], ["---"] * (len(columns) + 1)]
    cells += [[name, *entries] for name, entries in rows.items()]
    lines = ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([f"**{title}**", "", *lines, ""])


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
