"""Parts of pages, generated from the library and from stored results when they are built."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paper
from stored_results import groups, scores

import gatecore
from gatecore.tasks.cli.gates import QUANTILES, initial_timescales
from gatecore.tasks.reports.paired_statistics import compare

if TYPE_CHECKING:
    from sphinx.application import Sphinx  # the tables can be made without it

DOCS = Path(__file__).resolve().parents[1]
BENCHMARKS = DOCS.parent / "benchmarks"
HIDDEN = 256
BARS = """```{{cell}}
:hide-code:
:alt: Speed of UR layers relative to torch.nn.LSTM by shape; the tables below have the numbers.
import pictures

pictures.speeds("{name}")
```
"""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def mechanisms() -> str:
    """The table of mechanisms, from their fields."""
    columns = ["name", "main gate", "initial bias", "auxiliary", "refine bias", "LSTM projections"]
    rows = []
    for name, m in gatecore.MECHANISMS.items():
        bias = f"constant\u00a0{m.forget_bias:g}" if m.initial == "constant" else m.initial
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
    """The tables of the stored benchmarks, of each instruction set and processor."""
    sys.path.insert(0, str(BENCHMARKS))
    from report import heading, markdown

    parts = []
    for file in sorted((BENCHMARKS / "results").glob("cpu-layers-*.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        parts.append(f"## {heading(result)}\n\n{BARS.format(name=file.name)}\n{markdown(result)}")
    # a line may end between a median and its quantiles, not within these
    return re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", "\n".join(parts))


def single_sequences() -> str:
    """The tables of the stored benchmarks of single sequences."""
    sys.path.insert(0, str(BENCHMARKS))
    from single_sequences import markdown

    files = sorted((BENCHMARKS / "results").glob("cpu-single-sequences-*.json"))
    results = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", "\n".join(map(markdown, results)))


def citation() -> str:
    """The software as a BibTeX entry, by CITATION.cff and the version."""
    text = (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8")
    (title,) = re.findall(r'^title: "(.*)"$', text, re.MULTILINE)
    lines = [f"  title = {{{title}}}", "  author = {{gatecore contributors}}",
             f"  version = {{{gatecore.__version__}}}"]  # fmt: skip
    return "```bibtex\n@software{gatecore,\n" + ",\n".join(lines) + ",\n}\n```\n"


def evidence() -> str:
    """A table for each group of stored results: test scores of every mechanism and seed."""
    return "\n".join(_evidence_of(title, group) for title, group in groups().items())


def _evidence_of(title: str, group: dict[str, Any]) -> str:
    score, labels = group["score"]["name"], group["mechanisms"]
    seeds = sorted({seed for label in labels for seed in scores(group, label)})
    columns = ["gates", "median", *(f"seed {seed}" for seed in seeds), "parameters"]
    counts = {run["mechanism"]: run["parameters"] for run in group["runs"]}
    rows = []
    for label, variant in labels.items():
        tests, count = scores(group, label), counts.get(label.split()[0])
        numbers = [variant["median_test"], *(tests.get(seed) for seed in seeds)]
        parameters = f"{count:,}" if count else ""
        rows.append([f"`{label}`", *(_score(n, score) for n in numbers), parameters])
    rows += [
        [f"*{name}*", _score(value, score), *[""] * (len(seeds) + 1)]
        for name, value in group["baselines"].items()
    ]
    return f"### {title}\n\nTest {score}.\n\n{table(columns, rows)}"


def verdicts() -> str:
    """The paper's claims about the tasks of the stored results, and whether these agree."""
    columns = ["results", "the paper", "source", "pairs", "verdict"]
    rows = []
    for title, group in groups().items():
        for verdict in paper.verdicts(group):
            claim, kinds = verdict.claim, ("agreeing", "contrary", "undecided")
            counts = {kind: len(getattr(verdict, kind)) for kind in kinds}
            pairs = [f"{count} {kind}" for kind, count in counts.items() if count]
            pairs += [f"{winner} beats {other}" for other, winner in verdict.contrary]
            rows.append([title, claim.statement, claim.source, "; ".join(pairs), f"**{verdict}**"])
    return table(columns, rows)


def differences() -> str:
    """Differences of UR with two refine biases, and of UR and U, with their intervals."""
    biases = [f"UR (refine_bias={bias})" for bias in ("uniform", "neutral", "opposed")]
    pairs = [(biases[0], biases[2]), (biases[1], biases[2]), (biases[0], "U")]
    rows = []
    for first, second in pairs:
        for title, group in groups().items():
            difference = compare(scores(group, first), scores(group, second))
            if difference is None or len(difference.seeds) < 3:
                continue
            better = (difference.mean > 0) == group["score"]["higher_is_better"]
            verdict = ("better" if better else "worse") if difference.significant else "undecided"
            points = group["score"]["name"] == "accuracy"
            numbers = (difference.mean, difference.low, difference.high)
            texts = (f"{100 * n:+.1f}" if points else f"{n:+.3g}" for n in numbers)
            mean, low, high = (text.replace("-", "−") for text in texts)
            names = f"{first} and {second}".replace("refine_bias=", "")
            counts, unit = str(len(difference.seeds)), " points" if points else ""
            rows.append([names, title, f"{mean}{unit} ({low} to {high})", counts, f"**{verdict}**"])
    return table(["gates", "results", "difference", "seeds", "the first"], rows)


def _score(value: float | None, score: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if score == "accuracy" else f"{value:.4g}"


def write(app: "Sphinx") -> None:
    """Write all parts; an unchanged part keeps its modification time, so that builds stay short."""
    folder = DOCS / "generated"
    folder.mkdir(exist_ok=True)
    for part in (
        mechanisms, timescales, benchmarks, single_sequences, evidence, verdicts, differences,
        citation,
    ):  # fmt: skip
        path, text = folder / f"{part.__name__}.md", part()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: "Sphinx") -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
