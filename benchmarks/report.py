"""A race's JSON as Markdown: ``python benchmarks/report.py benchmarks/results/cpu-layers.json``."""

import json
import statistics
import sys
from pathlib import Path

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
        rows = {
            name: [_speed(times[shape], reference, name) for shape in shapes]
            for name in next(iter(times.values()))
            if name != reference
        }
        rows[f"{reference}, milliseconds"] = [
            f"{1e3 * statistics.median(times[shape][reference]):.0f}" for shape in shapes
        ]
        parts.append(_table(title.format(reference=reference), shapes, rows))
    parts.append(_memory(result))
    return "\n".join(parts)


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
        f"Median of {result['rounds']} alternated rounds of one process, in brackets the smallest "
        "and largest ratio of a round.\n"
    )


def _speed(times: dict[str, list[float]], reference: str, name: str) -> str:
    ratios = [r / own for r, own in zip(times[reference], times[name], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


def _memory(result: dict) -> str:
    memory, reference = result["memory"], result["reference"]
    rows = {}
    for name in next(iter(memory.values())):
        rows[name] = [f"{memory[shape][name]['peak_mb']:.0f}" for shape in memory]
    for name in rows.copy():
        if name != reference:
            rows[f"{name}, of {reference}'s"] = [
                f"{used[name]['peak_mb'] / used[reference]['peak_mb']:.2f}"
                for used in memory.values()
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
