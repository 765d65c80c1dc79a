"""The figures of a report as inline SVG, each with a description in words and a caption."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import markupsafe
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gatecore import Gate, timescale
from gatecore.analysis import figures
from gatecore.analysis.figures import Band
from gatecore.tasks.reports import export
from gatecore.tasks.reports.aggregate import Group, Variant
from gatecore.tasks.safe_files import literal

_BANDS = {
    (20, 80): "The line is the median of the seeds, the band holds the middle 60 % of them "
    "(as in the paper's Figure 3).",
    (25, 75): "The line is the median of the seeds, the band reaches from quartile to quartile "
    "(as in the paper's Figure 5).",
    None: "The line is the mean over the last 1 % of the data, the band its 95 % confidence "
    "interval (as in the paper's Figure 6).",
}

_WIDEST = 45  # characters of a label

Drawn = tuple[Any, str, str]  # a figure, its description, its caption
Point = tuple[float, float, int, str]  # x and y in the SVG's units, the step, the score as text


class Picture(NamedTuple):
    """A figure in the page."""

    svg: markupsafe.Markup
    caption: str
    curves: list[tuple[str, list[Point]]]  # by label, of the first picture of a group; else empty


def pictures(group: Group, anchor: str) -> list[Picture]:
    """Learning curves and gate histograms of a group; ``anchor`` makes their identifiers unique."""
    made: list[Picture] = []
    for k, drawn in enumerate((*_curves(group), *_histograms(group)), start=1):
        figure, description, caption = drawn
        svg = _svg(figure, f"{anchor}f{k}", description)
        made.append(Picture(svg, caption, [] if made else _points(figure, group)))
    return made


def band_of(variant: Variant) -> Band:
    """The validation curves at a variant's best stable rate, as the paper draws such a task."""
    trials = variant.at(variant.stable)
    curves = [trial.curve for trial in trials]
    if percentiles := variant.score.band:
        band = figures.quantile_band(curves, *percentiles)
    else:
        band = figures.trailing_band(curves, 0.01 * trials[0].config.steps)
    diverged = [t.curve for t in trials if t.status == "diverged" and len(t.curve[0])]
    return band._replace(ends=tuple((float(x[-1]), float(y[-1])) for x, y in diverged))


def _curves(group: Group) -> Iterator[Drawn]:
    """All variants in one plot; if they are many, also each in one of its own."""
    score, bands = group.score, {v.label: band_of(v) for v in group.variants}
    content = _literal(bands), _literal(group.baseline_scores()), f"validation {score.name}"
    ends = [f"{label} {score.show(float(band.middle[-1]))}"
            for label, band in bands.items() if len(band.steps)]  # fmt: skip
    description = (f"{group.title}: {content[2]} against training steps. "
                   f"At the end: {'; '.join(ends) or 'no values'}.")  # fmt: skip
    single = all(len(variant.at(variant.stable)) == 1 for variant in group.variants)
    meaning, config = _BANDS[score.band], group.trials[0].config
    if score.band is None:
        if config.evaluate_every >= config.steps / 100:
            band = "there is no band" if single else "the 95 % band is of the seeds' mean"
            meaning = (f"The last 1 % of the data, {config.steps / 100:g} steps, holds one "
                       "validation of a seed. So the line cannot be smoothed as in the paper's "
                       "Figure 6, which takes evaluate_every of at most "
                       f"{max(config.steps // 300, 1)}, not {config.evaluate_every}, and {band}."
                       )  # fmt: skip
    elif single:
        meaning = "One seed each: no band."
    many = len(bands) > figures.FEW
    caption = "The lines alone; their bands are in the next figure." if many else meaning
    if any(len(variant.rates) > 1 for variant in group.variants):
        rates = ", ".join(f"{v.label} {v.stable:g}" for v in group.variants)
        caption += (" Each at its best stable learning rate, that of the best mean final score if "
                    f"all seeds finish and none collapses to chance (as in Figure 5): {rates}."
                    )  # fmt: skip
    if any(band.ends for band in bands.values()):
        caption += " A cross marks the last validation of a seed that diverged."
    yield figures.learning_bands(*content), description, f"Learning curves. {caption}"
    if many:
        caption = f"The same, one kind of gates at a time, the others in grey. {meaning}"
        yield figures.learning_grid(*content), description, caption


def _histograms(group: Group) -> Iterator[Drawn]:
    gates = {v.label: (_units(v, "before"), _units(v, "after")) for v in group.variants}
    if any(gate for pair in gates.values() for gate in pair):
        caption = ("Forget gates of the units, means over time and batch, before training (grey "
                   "outline) and after; all seeds together (as in the paper's Figures 4 and "
                   "9).")  # fmt: skip
        yield figures.gate_rows(_literal(gates)), _quartiles(gates, "value"), caption
        caption = "The same as timescales 1/(1 − g), in steps; the last bin includes longer ones."
        yield figures.timescale_rows(_literal(gates)), _quartiles(gates, "timescale"), caption
    main = {v.label: (_units(v, "main before"), _units(v, "main after")) for v in group.variants}
    if any(gate for pair in main.values() for gate in pair):
        main = {k: pair if any(pair) else gates[k] for k, pair in main.items()}
        caption = ("The forget gates f themselves, which a refine gate modulates (the f_t of the "
                   "caption of Figure 4); other mechanisms' as above.")  # fmt: skip
        yield figures.gate_rows(_literal(main)), _quartiles(main, "value"), caption


def _literal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values by labels in which matplotlib sees no mathematics, and which fit."""
    labels = enumerate(map(literal, values))
    short = [k if len(k) <= _WIDEST else f"{k[:_WIDEST].rstrip(chr(92))}… {n}" for n, k in labels]
    return dict(zip(short, values.values(), strict=True))


def _svg(figure: Any, prefix: str, description: str) -> markupsafe.Markup:
    """A figure as an SVG element, its identifiers unlike those of any other in the page."""
    stream = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": prefix}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has fonts of its own
        assert isinstance(figure, Figure)
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = "<svg" + stream.getvalue().partition("<svg")[2]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", text)
    role = f'role="img" aria-labelledby="{prefix}-description"'
    words = f'<desc id="{prefix}-description">{markupsafe.escape(description)}</desc>'
    head, rest = text.split(">", 1)
    return markupsafe.Markup(f"{head} {role}>{words}{rest}")


def _points(figure: Figure, group: Group) -> list[tuple[str, list[Point]]]:
    """Where the curves' points lie in the SVG that has been drawn, at most 100 of each."""
    (axes,), size = figure.axes, figure.get_size_inches() * 72
    lines = [line for line in axes.lines if (line.get_gid() or "").startswith("curve-")]
    found = []
    for variant, line in zip(group.variants, lines, strict=True):
        data = np.asarray(line.get_xydata(), float)
        data = data[export.thinned(len(data))]
        where = axes.transData.transform(data) * 72 / figure.dpi
        points = [
            (round(x, 1), round(size[1] - y, 1), int(step), group.score.show(value))
            for (x, y), (step, value) in zip(where.tolist(), data.tolist(), strict=True)
        ]
        found.append((variant.label, points))  # JavaScript sorts keys that are numbers
    return found


def _units(variant: Variant, when: str) -> Gate | None:
    """The gates of all units of the chosen runs, in one row."""
    gates = [gate for trial in variant.chosen if (gate := trial.run.gates(when))]
    sides = zip(*gates, strict=True)
    return Gate(*(np.concatenate([np.ravel(g) for g in side]) for side in sides)) if gates else None


def _quartiles(gates: Mapping[str, tuple[Gate | None, Gate | None]], quantity: str) -> str:
    """The histograms in words."""
    parts = []
    for label, pair in gates.items():
        for when, gate in zip(("before", "after"), pair, strict=True):
            if gate:
                values = gate.value if quantity == "value" else timescale(gate)
                spread = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
                parts.append(f"{label} {when}: {', '.join(f'{v:.3g}' for v in spread)}")
    return f"Histograms of {quantity}s. Quartiles: {'; '.join(parts)}."
