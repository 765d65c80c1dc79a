"""What a group of runs shows, in sentences that are computed from its numbers."""

from collections.abc import Iterable, Sequence

from gatecore.tasks.problems.base import PERFECT
from gatecore.tasks.reports.aggregate import Group, Variant, median
from gatecore.tasks.reports.paired_statistics import ENOUGH, Difference, by_chance

MARGIN = 0.01  # by which a score must beat an answer without memory to be called better


def findings(group: Group) -> list[str]:
    """Sentences, from the ranking to what cannot be said."""
    scored = [variant for variant in group.variants if variant.tests]
    told = [*_ranking(group, scored), *_memory(group, scored), *_differences(group, scored)]
    return [*told, *_diverged(group), *_unfinished(group)]


def _ranking(group: Group, scored: Sequence[Variant]) -> list[str]:
    if not scored:
        return ["No run of this group has finished with a score on the test set."]
    score = group.score
    ordered = sorted(scored, key=lambda v: median(v.tests.values()) or 0.0, reverse=score.higher)
    counts = {len(variant.tests) for variant in scored}
    each = "median"
    if len(counts) == 1:
        count = counts.pop()
        each = "one seed each" if count == 1 else f"median of {count} seeds"
    listed = ", ".join(
        f"{v.label} {score.show(median(v.tests.values()))}"
        + ("" if not counts else f" ({_seeds(len(v.tests))})")
        for v in ordered
    )
    way = "higher" if score.higher else "lower"
    return [f"Test {score.name} ({way} is better), {each}: {listed}."]


def _memory(group: Group, scored: Sequence[Variant]) -> list[str]:
    """Which are better than the best answer that needs no memory."""
    score = group.score
    baselines = {k: v for k, v in group.baseline_scores().items() if k != PERFECT}
    if not baselines or not scored:
        return []
    bar = score.best(baselines.values())
    name = next(name for name, value in baselines.items() if value == bar)
    good = [v.label for v in scored if _beats(median(v.tests.values()), bar, score.higher)]
    bad = [v.label for v in scored if v.label not in good]
    best = f"an answer without memory ({name}, {score.show(bar)})"
    if not bad:
        return [f"{'Each' if len(good) > 1 else 'It'} is better than {best}."]
    if not good:
        return [f"{'None is' if len(bad) > 1 else 'It is not'} better by at least 1 % than {best}."]
    return [f"Better than {best} by at least 1 %: {_listed(good)}; not so: {_listed(bad)}."]


def _beats(value: float | None, bar: float, higher: bool) -> bool:
    if value is None:
        return False
    return value > bar * (1 + MARGIN) if higher else value < bar * (1 - MARGIN)


def _differences(group: Group, scored: Sequence[Variant]) -> list[str]:
    if len(group.variants) == 1:
        return ["One kind of gates alone: there is nothing to compare it with."]
    found, own = group.differences, group.standard.label
    if len(scored) < 2 or not found:
        return [f"No seed has finished both with {own} and with other gates: nothing is compared."]
    few = [label for label, difference in found.items() if len(difference.seeds) < 3]
    judged = {label: difference for label, difference in found.items() if label not in few}
    told = []
    if few:
        most = max(len(found[label].seeds) for label in few)
        told.append(
            f"Too few seeds in common with {own} (at most {most}) to claim any difference: "
            f"{_listed(few)}."
        )
    return [*told, *(_judged(group, judged) if judged else [])]


def _judged(group: Group, judged: dict[str, Difference]) -> list[str]:
    own, higher = group.standard.label, group.score.higher
    beyond = {label: d for label, d in judged.items() if d.exceeds}
    within = [label for label in judged if label not in beyond]
    told = []
    for better, word in ((True, "better"), (False, "worse")):
        those = {k: d for k, d in beyond.items() if ((d.mean > 0) == higher) == better}
        if those:
            amounts = "; ".join(f"{label} {_amount(group, d)}" for label, d in those.items())
            told.append(f"Beyond the noise of seeds {word} than {own}: {amounts}.")
    if within:
        told.append(f"Not told apart from {own}: {_listed(within)}.")
    if not beyond:
        return [*told, "Few seeds show large differences alone: none seen is no proof of none."]
    least = min(len(d.seeds) for d in judged.values())
    rates = [by_chance(len(d.seeds)) for d in judged.values()]
    if least < ENOUGH:
        expected = f" (about {sum(rates):.1f} of these {len(rates)})" if len(rates) > 1 else ""
        told.append(
            f"With {_seeds(least)} this is a hint and no proof: between gates that do not differ, "
            f"about {100 * max(rates):.0f}\N{NO-BREAK SPACE}% of such comparisons{expected} would "
            "be called beyond the noise. More seeds can settle it."
        )
    else:
        firm = [label for label, d in beyond.items() if d.established]
        if firm:
            told.append(f"Also at the 5 % level of an exact sign-flip test: {_listed(firm)}.")
    return told


def _amount(group: Group, difference: Difference) -> str:
    """The mean difference with its interval, in points where the score is a part of 1."""
    points = group.score.name == "accuracy"
    scale, unit = (100, " points") if points else (1, "")
    numbers = (scale * x for x in (difference.mean, difference.low, difference.high))
    mean, low, high = ((f"{x:+.1f}" if points else f"{x:+.3g}").replace("-", "−") for x in numbers)
    return f"{mean}{unit} ({low} to {high}, {_seeds(len(difference.seeds))})"


def _diverged(group: Group) -> list[str]:
    told = [
        f"{v.label} on {len(v.diverged)} of {_seeds(len(v.chosen))}"
        for v in group.variants
        if v.diverged
    ]
    if not told:
        return []
    others = any(v.tests for v in group.variants)
    rest = " The numbers are of the seeds that did not." if others else ""
    return [f"Diverged: {'; '.join(told).replace('1 of one seed', 'its one seed')}.{rest}"]


def _unfinished(group: Group) -> list[str]:
    count = sum(trial.status == "unfinished" for trial in group.trials)
    if not count:
        return []
    runs = "One run has" if count == 1 else f"{count} runs have"
    return [f"{runs} not finished, and count{'s' if count == 1 else ''} in no number above."]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(labels)
