"""The results of a group of runs in sentences, computed from its numbers."""

from collections.abc import Iterator, Sequence

from gatecore.tasks.problems.base import PERFECT
from gatecore.tasks.reports.aggregate import Group, Variant
from gatecore.tasks.reports.paired_statistics import ENOUGH, Difference, false_positives
from gatecore.tasks.reports.trial import MARGIN


def summarize(group: Group) -> list[str]:
    """Sentences: the ranking, the comparisons that the seeds allow, and their limits."""
    scored = [variant for variant in group.variants if variant.tests]
    scores = _ranking(group, scored), _baseline(group, scored), _differences(group, scored)
    parts = *scores, _timescales(group), _excluded(group)
    return [sentence for part in parts for sentence in part]


def _ranking(group: Group, scored: Sequence[Variant]) -> Iterator[str]:
    if not scored:
        yield "No run of this group has finished with a score on the test set."
        return
    score, direction = group.score, "higher" if group.score.higher else "lower"
    ordered = sorted(scored, key=lambda v: v.median_test or 0.0, reverse=score.higher)
    counts = {len(v.tests) for v in scored}
    each = "one seed each" if counts == {1} else f"median of {max(counts)} seeds"
    results = [f"{v.label} {score.show(v.median_test)}" for v in ordered]
    if len(counts) > 1:
        each = "median"
        results = [f"{r} ({_seeds(len(v.tests))})" for r, v in zip(results, ordered, strict=True)]
    yield f"Test {score.name} ({direction} is better), {each}: {', '.join(results)}."


def _baseline(group: Group, scored: Sequence[Variant]) -> Iterator[str]:
    """Which are better than the best memoryless baseline."""
    score = group.score
    baselines = {k: v for k, v in group.baseline_scores().items() if k != PERFECT}
    if not baselines or not scored:
        return
    bar = score.best(baselines.values())
    name = next(name for name, value in baselines.items() if value == bar)
    sign, bound = (1, bar * (1 + MARGIN)) if score.higher else (-1, bar * (1 - MARGIN))
    better = [v.label for v in scored if sign * (v.median_test or 0.0) > sign * bound]
    others = [v.label for v in scored if v.label not in better]
    best = f"the best memoryless baseline ({name}, {score.show(bar)})"
    if not others:
        yield f"{'Each' if len(better) > 1 else 'It'} is better than {best}."
    elif not better:
        verb = "None is" if len(others) > 1 else "It is not"
        yield f"{verb} better by at least 1 % than {best}."
    else:
        yield (f"Better by at least 1 % than {best}: {', '.join(better)}; "
               f"not: {', '.join(others)}.")  # fmt: skip


def _differences(group: Group, scored: Sequence[Variant]) -> Iterator[str]:
    differences, standard = group.differences, group.standard.label
    few = {label: len(d.seeds) for label, d in differences.items() if len(d.seeds) < 3}
    if len(group.variants) == 1:
        yield "There is one kind of gates, and nothing to compare it with."
    elif len(scored) < 2 or not differences:
        yield f"No seed has finished both with {standard} and with other gates: no comparison."
    elif few:
        yield (f"Too few seeds in common with {standard} (at most {max(few.values())}) "
               f"for a comparison: {', '.join(few)}.")  # fmt: skip
    if compared := {label: d for label, d in differences.items() if label not in few}:
        yield from _compared(group, compared)


def _compared(group: Group, differences: dict[str, Difference]) -> Iterator[str]:
    standard, higher = group.standard.label, group.score.higher
    significant = {label: d for label, d in differences.items() if d.significant}
    for better, word in ((True, "better"), (False, "worse")):
        those = {k: d for k, d in significant.items() if ((d.mean > 0) == higher) == better}
        if those:
            amounts = "; ".join(f"{label} {_amount(group, d)}" for label, d in those.items())
            yield f"Significantly {word} than {standard} across seeds: {amounts}."
    if rest := [label for label in differences if label not in significant]:
        yield f"Not significantly different from {standard}: {', '.join(rest)}."
    if significant:
        yield from _certainty(differences, list(significant))
    else:
        yield "Few seeds can show large differences only, so this does not show that there is none."


def _certainty(differences: dict[str, Difference], significant: Sequence[str]) -> Iterator[str]:
    fewest = min(len(d.seeds) for d in differences.values())
    confirmed = [label for label in significant if differences[label].confirmed]
    if fewest < ENOUGH:
        rates = [false_positives(len(d.seeds)) for d in differences.values()]
        expected = f" (about {sum(rates):.1f} of these {len(rates)})" if len(rates) > 1 else ""
        yield (f"With {_seeds(fewest)} this is weak evidence: of comparisons of equal gates, about "
               f"{100 * max(rates):.0f}\N{NO-BREAK SPACE}%{expected} are significant by chance. "
               "Train more seeds for certainty.")  # fmt: skip
    elif confirmed:
        yield ("Also significant at the 5 % level of an exact sign-flip test: "
               f"{', '.join(confirmed)}.")  # fmt: skip


def _amount(group: Group, difference: Difference) -> str:
    """The mean difference with its interval; for accuracies in percentage points."""
    points = group.score.name == "accuracy"
    scale, unit = (100, " points") if points else (1, "")
    numbers = (scale * x for x in (difference.mean, difference.low, difference.high))
    mean, low, high = ((f"{x:+.1f}" if points else f"{x:+.3g}").replace("-", "−") for x in numbers)
    return f"{mean}{unit} ({low} to {high}, {_seeds(len(difference.seeds))})"


def _timescales(group: Group) -> Iterator[str]:
    """Figure 9: after training from saturated gates, the smallest timescales differ by a decade."""
    if group.settings.get("task.name") != "forgetting":
        return
    steps = {v.label: v.smallest_timescale for v in group.variants}
    base = steps.pop(group.standard.label)
    for label, value in steps.items():
        if base is None or value is None:
            continue
        judged = "more" if base > 10 * value else "not more"
        yield (f"The smallest timescale after training is {base:.3g} steps with "
               f"{group.standard.label}, {value:.3g} with {label}: {judged} than the order of "
               "magnitude between them in the paper's Figure 9.")  # fmt: skip


def _excluded(group: Group) -> Iterator[str]:
    """Runs that diverged, and runs that have not finished."""
    counts = [f"{v.label} on {len(v.diverged)} of {_seeds(len(v.chosen))}"
              for v in group.variants if v.diverged]  # fmt: skip
    if counts:
        rest = " The statistics are of the others." if any(v.tests for v in group.variants) else ""
        yield f"Diverged: {'; '.join(counts).replace('1 of one seed', 'its one seed')}.{rest}"
    if counts := [f"{v.label} on {len(v.collapsed)} of {_seeds(len(v.chosen))}"
                  for v in group.variants if v.collapsed]:  # fmt: skip
        yield f"Collapsed to chance (†), and counted in the statistics: {'; '.join(counts)}."
    if count := sum(trial.status == "unfinished" for trial in group.trials):
        runs, are = ("One run has", "is") if count == 1 else (f"{count} runs have", "are")
        yield f"{runs} not finished, and {are} excluded from all statistics."


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"
