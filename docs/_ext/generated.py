"""Parts of pages, generated from the library and from stored results when they are built."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sphinx.application import Sphinx

import gatecore
from gatecore.tasks.cli.gates import QUANTILES, initial_timescales

DOCS = Path(__file__).resolve().parents[1]
BENCHMARKS = DOCS.parent / "benchmarks"
HIDDEN = 256


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def mechanisms() -> str:
    """The table of mechanisms, from their fields."""
    columns = ["name", "main gate", "initial bias", "auxiliary", "refine bias", "LSTM projections"]
    rows = []
    for name, m in gatecore.MECHANISMS.items():
        bias = f"constant {m.forget_bias:g}" if m.initial == "constant" else m.initial
        refine = m.refine_bias if m.auxiliary == "refine" else "–"
        slots = ", ".join(slot.replace("_", " ") for slot, _ in m.slots("lstm", HIDDEN))
        rows.append([f"`{name}`", m.activation, bias, m.auxiliary, refine, slots])
    return table(columns, rows)


def timescales() -> str:
    """Quantiles of the initial timescales of each mechanism, from the biases of a large layer."""
    rows = []
    for name, m in gatecore.MECHANISMS.items():
        steps = initial_timescales(m, "lstm", HIDDEN, 0)
        quantiles = np.quantile(steps, QUANTILES, method="inverted_cdf")
        rows.append([f"`{name}`", *map(_steps, quantiles)])
    return table(["name", *(f"{q:.0%}" for q in QUANTILES)], rows)


def _steps(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3g}"


def benchmarks() -> str:
    """The tables of the stored benchmark."""
    sys.path.insert(0, str(BENCHMARKS))
    from report import markdown

    results = BENCHMARKS / "results" / "cpu-layers.json"
    return markdown(json.loads(results.read_text(encoding="utf-8")))


def evidence() -> str:
    """A table for each group of stored results: test scores of every mechanism and seed."""
    files = sorted((DOCS / "evidence").glob("*.json"))
    groups = [g for path in files for g in json.loads(path.read_text(encoding="utf-8"))["groups"]]
    return "\n".join(map(_evidence_of, groups))


def _evidence_of(group: dict[str, Any]) -> str:
    score, seeds = group["score"]["name"], sorted({s for r in _variants(group) for s in r[1]})
    columns = ["gates", "median", *(f"seed {seed}" for seed in seeds), "parameters"]
    counts = {run["mechanism"]: run["parameters"] for run in group["runs"]}
    rows = [
        [
            f"`{label}`",
            _score(variant["median_test"], score),
            *(_score(tests.get(seed), score) for seed in seeds),
            f"{counts.get(label.split()[0], 0):,}" if counts.get(label.split()[0]) else "",
        ]
        for label, tests, variant in _variants(group)
    ]
    rows += [
        [f"*{name}*", _score(value, score), *[""] * (len(seeds) + 1)]
        for name, value in group["baselines"].items()
    ]
    core = group["settings"]["core"]
    title = group["title"] if core == "lstm" else f"{group['title']}, {core.upper()}"
    return f"### {title}\n\nTest {score}.\n\n{table(columns, rows)}"


def _variants(group: dict[str, Any]) -> list[tuple[str, dict[str, float], dict[str, Any]]]:
    return [(label, v["test_by_seed"], v) for label, v in group["mechanisms"].items()]


def _score(value: float | None, score: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if score == "accuracy" else f"{value:.4g}"


def write(app: Sphinx) -> None:
    """Write all parts; an unchanged part keeps its modification time, so that builds stay short."""
    folder = DOCS / "generated"
    folder.mkdir(exist_ok=True)
    for part in (mechanisms, timescales, benchmarks, evidence):
        path, text = folder / f"{part.__name__}.md", part()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
