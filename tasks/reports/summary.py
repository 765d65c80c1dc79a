"""The results of a group of runs in sentences, computed from its numbers."""

from collections.abc import Iterable, Sequence

from gatecore.tasks.problems.base import PERFECT
from gatecore.tasks.reports.aggregate import Group, Variant
from gatecore.tasks.reports.paired_statistics import ENOUGH, Difference, false_positives

MARGIN = 0.01  # by which a score must exceed a memoryless baseline to be called better


def summarize(group: Group) -> list[str]:
    """Sentences: the ranking, the comparisons that the seeds allow, and their limits."""
    scored = [variant for variant in group.variants if variant.tests]
    return [
        *_ranking(group, scored),
        *_baseline(group, scored),
        *_differences(group, scored),
        *_diverged(group),
        *_unfinished(group),
    ]


def _ranking(group: Group, scored: Sequence[Variant]) -> list[str]:
    if not scored:
        return ["No run of this group has finished with a score on the test set."]
    score = group.score
    ordered = sorted(scored, key=lambda v: v.median_test or 0.0, reverse=score.higher)
    counts = {len(variant.tests) for variant in scored}
    each = "median"
    if len(counts) == 1:
        (count,) = counts
        each = "one seed each" if count == 1 else f"median of {count} seeds"
    listed = _listed(
        f"{v.label} {score.show(v.median_test)}"
        + (f" ({_seeds(len(v.tests))})" if len(counts) > 1 else "")
        for v in ordered
    )
    direction = "higher" if score.higher else "lower"
    return [f"Test {score.name} ({direction} is better), {each}: {listed}."]


def _baseline(group: Group, scored: Sequence[Variant]) -> list[str]:
    """Which are better than the best memoryless baseline."""
    score = group.score
    baselines = {k: v for k, v in group.baseline_scores().items() if k != PERFECT}
    if not baselines or not scored:
        return []
    bar = score.best(baselines.values())
    name = next(name for name, value in baselines.items() if value == bar)
    better = [v.label for v in scored if _exceeds(v.median_test, bar, score.higher)]
    others = [v.label for v in scored if v.label not in better]
    best = f"the best memoryless baseline ({name}, {score.show(bar)})"
    if not others:
        return [f"{'Each' if len(better) > 1 else 'It'} is better than {best}."]
    if not better:
        verb = "None is" if len(others) > 1 else "It is not"
        return [f"{verb} better by at least 1 % than {best}."]
    return [f"Better by at least 1 % than {best}: {_listed(better)}; not: {_listed(others)}."]


def _exceeds(value: float | None, bar: float, higher: bool) -> bool:
    if value is None:
        return False
    return value > bar * (1 + MARGIN) if higher else value < bar * (1 - MARGIN)


def _differences(group: Group, scored: Sequence[Variant]) -> list[str]:
    if len(group.variants) == 1:
        return ["There is one kind of gates, and nothing to compare it with."]
    differences, standard = group.differences, group.standard.label
    if len(scored) < 2 or not differences:
        return [f"No seed has finished both with {standard} and with other gates: no comparison."]
    sentences = []
    few = {label: len(d.seeds) for label, d in differences.items() if len(d.seeds) < 3}
    if few:
        sentences.append(f"Too few seeds in common with {standard} (at most {max(few.values())}) "
                         f"for a comparison: {_listed(few)}.")  # fmt: skip
    compared = {label: d for label, d in differences.items() if label not in few}
    return [*sentences, *(_compared(group, compared) if compared else [])]


def _compared(group: Group, differences: dict[str, Difference]) -> list[str]:
    standard, higher = group.standard.label, group.score.higher
    significant = {label: d for label, d in differences.items() if d.significant}
    sentences = []
    for better, word in ((True, "better"), (False, "worse")):
        those = {k: d for k, d in significant.items() if ((d.mean > 0) == higher) == better}
        if those:
            amounts = "; ".join(f"{label} {_amount(group, d)}" for label, d in those.items())
            sentences.append(f"Significantly {word} than {standard} across seeds: {amounts}.")
    if rest := [label for label in differences if label not in significant]:
        sentences.append(f"Not significantly different from {standard}: {_listed(rest)}.")
    if not significant:
        return [*sentences, "Few seeds can show large differences only, so this does not show that "
                "there is none."]  # fmt: skip
    return sentences + _certainty(differences, list(significant))


def _certainty(differences: dict[str, Difference], significant: Sequence[str]) -> list[str]:
    fewest = min(len(d.seeds) for d in differences.values())
    if fewest >= ENOUGH:
        confirmed = [label for label in significant if differences[label].confirmed]
        test = "Also significant at the 5 % level of an exact sign-flip test"
        return [f"{test}: {_listed(confirmed)}."] if confirmed else []
    rates = [false_positives(len(d.seeds)) for d in differences.values()]
    expected = f" (about {sum(rates):.1f} of these {len(rates)})" if len(rates) > 1 else ""
    return [
        f"With {_seeds(fewest)} this is weak evidence: of comparisons of equal gates, about "
        f"{100 * max(rates):.0f}\N{NO-BREAK SPACE}%{expected} are significant by chance. Train "
        "more seeds for certainty."
    ]


def _amount(group: Group, difference: Difference) -> str:
    """The mean difference with its interval; for accuracies in percentage points."""
    points = group.score.name == "accuracy"
    scale, unit = (100, " points") if points else (1, "")
    numbers = (scale * x for x in (difference.mean, difference.low, difference.high))
    mean, low, high = ((f"{x:+.1f}" if points else f"{x:+.3g}").replace("-", "−") for x in numbers)
    return f"{mean}{unit} ({low} to {high}, {_seeds(len(difference.seeds))})"


def _diverged(group: Group) -> list[str]:
    counts = [
        f"{v.label} on {len(v.diverged)} of {_seeds(len(v.chosen))}"
        for v in group.variants
        if v.diverged
    ]
    if not counts:
        return []
    others = any(v.tests for v in group.variants)
    rest = " The statistics are of the others." if others else ""
    return [f"Diverged: {'; '.join(counts).replace('1 of one seed', 'its one seed')}.{rest}"]


def _unfinished(group: Group) -> list[str]:
    count = sum(trial.status == "unfinished" for trial in group.trials)
    if not count:
        return []
    one = "One run has not finished, and is excluded from all statistics."
    several = f"{count} runs have not finished, and are excluded from all statistics."
    return [one if count == 1 else several]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(labels)
