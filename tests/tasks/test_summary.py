"""The statistics of a report: differences, its summary, the paper's values, bands."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from gatecore import mechanism
from gatecore.analysis import figures
from gatecore.tasks import Config
from gatecore.tasks.problems.language.task import Language
from gatecore.tasks.problems.pixels.image_files import KNOWN
from gatecore.tasks.reports import paired_statistics, published_results
from gatecore.tasks.reports.aggregate import Group, Variant
from gatecore.tasks.reports.summary import summarize
from gatecore.tasks.reports.trial import Score


def by_seed(*values):
    return dict(enumerate(values))


def test_only_common_seeds_are_compared():
    difference = paired_statistics.compare({1: 0.5, 2: 0.75, 7: 9.0}, {1: 0.25, 2: 0.25, 3: -9.0})
    assert (difference.seeds, difference.mean) == ((1, 2), 0.375)
    assert paired_statistics.compare({1: 0.5}, {2: 0.5}) is None


@pytest.mark.parametrize("differences", [(1.0, 2.0, 4.0), (-1.0, 2.0, 3.0), (0.3, 0.1, 0.2, 0.7)])
def test_the_interval_is_that_of_all_resamples(differences):
    """Few seeds have few resamples; the random ones have the same quantiles as all of them."""
    means = [np.mean(sample) for sample in itertools.product(differences, repeat=len(differences))]
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    zeros = by_seed(*[0.0] * len(differences))
    difference = paired_statistics.compare(by_seed(*differences), zeros)
    scale = max(differences) - min(differences)
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=0.05 * scale)
    assert difference.significant == (min(differences) > 0)


@pytest.mark.parametrize("size", [2, 3, 6, 12])
def test_the_chance_is_that_of_a_permutation_test(size):
    rng = np.random.default_rng(size)
    differences = rng.standard_normal(size) + 0.8
    difference = paired_statistics.compare(by_seed(*differences), by_seed(*np.zeros(size)))
    expected = stats.permutation_test(
        (differences, np.zeros(size)), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=10_000,
    ).pvalue  # fmt: skip
    assert difference.chance == pytest.approx(expected)


def test_intervals_of_equal_gates_exclude_zero_at_the_rate_of_false_positives():
    rng = np.random.default_rng(0)
    for size in (3, 5):
        drawn = rng.standard_normal((1500, size))
        resampled = drawn[:, rng.integers(0, size, (400, size))].mean(axis=2)
        low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
        often = np.mean((low > 0) | (high < 0))
        assert often == pytest.approx(paired_statistics.false_positives(size), abs=0.05)


def test_two_seeds_are_never_significant_and_six_may_be_confirmed():
    assert not paired_statistics.compare(by_seed(1.0, 1.1), by_seed(0.0, 0.0)).significant
    six = paired_statistics.compare(by_seed(*[1.0, 1.1, 1.2, 0.9, 0.8, 1.3]), by_seed(*[0.0] * 6))
    assert (six.significant, six.confirmed, six.chance) == (True, True, 2 / 64)
    three = paired_statistics.compare(by_seed(1.0, 1.1, 1.2), by_seed(0.0, 0.0, 0.0))
    assert (three.significant, three.confirmed) == (True, False)


def test_equal_scores_are_no_difference():
    difference = paired_statistics.compare(by_seed(1.0, 2.0, 3.0), by_seed(1.0, 2.0, 3.0))
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert not difference.significant


# ---- sentences -------------------------------------------------------------------------------

ACCURACY = Score("accuracy", True, (25, 75))


@dataclasses.dataclass(frozen=True)
class Ran:
    """The attributes of a trial that the summary uses."""

    seed: int
    test: float | None
    status: str = "finished"
    best: float | None = 0.5
    score: Score = ACCURACY
    collapsed: bool = False
    smallest: float | None = None

    def timescales(self, when):
        return {"smallest": self.smallest}

    @property
    def config(self):
        return Config.of("pixels", seed=self.seed)


def group(**scores):
    """A group of finished runs: label -> test scores by seed; None diverged."""
    variants = tuple(
        Variant(
            label,
            tuple(Ran(k, v, "finished" if v else "diverged") for k, v in enumerate(values)),
        )
        for label, values in scores.items()
    )
    return Group("Digits", {}, {}, variants, {"guess": {"accuracy": 0.1}})


def summary(**scores):
    return " ".join(summarize(group(**scores))).replace("\N{NO-BREAK SPACE}", " ")


def test_one_seed_is_not_compared():
    text = summary(standard=[0.5], UR=[0.9])
    assert "one seed each: UR 90.00 %, standard 50.00 %" in text
    assert "Too few seeds in common with standard (at most 1)" in text
    assert "ignificant" not in text


def test_three_seeds_that_agree_are_weak_evidence():
    text = summary(standard=[0.5, 0.6, 0.55], UR=[0.7, 0.75, 0.8], U=[0.5, 0.65, 0.5])
    assert "better than standard across seeds: UR +20.0 points (+15.0 to +25.0, 3 seeds)" in text
    assert "Not significantly different from standard: U." in text
    assert "about 25 % (about 0.5 of these 2) are significant by chance" in text
    assert "weak evidence" in text


def test_six_seeds_can_confirm_a_difference():
    text = summary(standard=[0.5] * 6, UR=[0.7, 0.71, 0.72, 0.73, 0.74, 0.75])
    assert "Significantly better than standard across seeds: UR" in text
    assert "sign-flip test: UR" in text
    assert "weak evidence" not in text


def test_a_lower_loss_is_better():
    score = Score("loss", False, (20, 80))
    runs = {"standard": (2.0, 2.1, 2.2), "UR": (1.0, 1.1, 1.0)}
    variants = tuple(
        Variant(label, tuple(Ran(k, v, score=score) for k, v in enumerate(values)))
        for label, values in runs.items()
    )
    copy = Group("Copy", {}, {}, variants, {"any symbol alike": {"loss": 2.0794}})
    text = " ".join(summarize(copy))
    assert "better than standard across seeds: UR −1.07" in text
    assert (
        "Better by at least 1 % than the best memoryless baseline (any symbol alike, 2.079): UR; "
        "not: standard" in text
    )


def test_diverged_seeds_are_counted_and_left_out():
    text = summary(standard=[0.5, None, 0.6], UR=[0.9, 0.9, 0.9])
    assert "Diverged: standard on 1 of 3 seeds." in text
    assert "at most 2" in text
    assert summary(standard=[None], UR=[None]).startswith("No run of this group has finished")


def test_a_collapsed_seed_is_named():
    ended = Ran(0, 0.1, collapsed=True), Ran(1, 0.9)
    text = " ".join(summarize(Group("Digits", {}, {}, (Variant("U", ended),), {})))
    assert "Collapsed to chance (†), and counted in the statistics: U on 1 of 2 seeds." in text


@pytest.mark.parametrize(("smallest", "word"), [(11.0, "more than"), (50.0, "not more than")])
def test_forgetting_is_judged_by_its_smallest_timescales(smallest, word):
    variants = tuple(
        Variant(label, (Ran(0, 0.1, smallest=steps), Ran(1, 0.1, smallest=steps)))
        for label, steps in (("standard", 404.0), ("R", smallest))
    )
    text = summarize(Group("Forgetting", {"task.name": "forgetting"}, {}, variants, {}))
    assert (
        f"The smallest timescale after training is 404 steps with standard, {smallest:g} with R: "
        f"{word} the order of magnitude between them in the paper's Figure 9." in text
    )


# ---- the paper's numbers ---------------------------------------------------------------------


MNIST, FASHION, CIFAR = (
    {name: key for key, name in KNOWN.items()}[name]
    for name in ("MNIST", "Fashion-MNIST", "CIFAR-10")
)


def paper(content, data="mnist", **settings):
    config = Config.of("pixels", data=data, path="of another machine", content=content, **settings)
    return published_results.reference(config)


def wikitext(**settings):
    """The paper's values beside a run on WikiText-103, whose text is not here."""
    task = Language().model_copy(update={"data": "wikitext103", **settings})
    return published_results.reference(Config.of("language", "C").model_copy(update={"task": task}))


def test_the_paper_has_perplexities_for_all_words_only():
    assert "Table 6a" in wikitext().source
    assert wikitext(level="character") is None
    assert wikitext(min_count=2) is None
    assert wikitext(vocabulary=30_000) is None


def test_the_paper_has_values_for_its_own_gates_only():
    column = paper(MNIST, permute=True)
    assert column.value(mechanism("standard")) == "94.77**"
    assert column.value(mechanism("UM", downsize=16)) == "95.50"
    assert column.value(mechanism("UR", refine_bias="neutral")) is None
    assert column.value(mechanism("CR")) is None
    words = wikitext()
    assert [words.value(mechanism("C", t_max=t)) for t in ("hidden", 8, 11.0, 9, None)] == [
        "36.4", "36.1", "35.8", None, None,
    ]  # fmt: skip
    assert published_results.reference(Config.of("copying")) is None
    assert paper(MNIST, core="minimal") is None


def test_the_paper_has_values_for_its_own_data_only():
    """Data are known by the digest of their files: Fashion-MNIST has MNIST's names and format."""
    assert "sMNIST" in paper(MNIST).source
    assert "Table 2, best validation accuracy on sCIFAR" in paper(CIFAR, "cifar10").source
    assert paper(FASHION) is None
    assert paper("0" * 32) is None
    assert paper(CIFAR, "cifar10", permute=True) is None
    assert published_results.reference(Config.of("pixels", permute=True)) is None  # the digits
    assert published_results.reference(Config.of("language", "C")) is None  # Python's help


# ---- bands -----------------------------------------------------------------------------------


def test_a_trailing_band_is_the_interval_of_a_mean():
    rng = np.random.default_rng(0)
    curves = [(np.arange(200), rng.standard_normal(200) + k) for k in range(3)]
    band = figures.trailing_band(curves, window=20)
    inside = np.concatenate([values[131:151] for _, values in curves])
    half = 1.96 * stats.sem(inside)
    at = np.flatnonzero(band.steps == 150)[0]
    assert band.middle[at] == pytest.approx(inside.mean())
    assert (band.low[at], band.high[at]) == pytest.approx(
        (inside.mean() - half, inside.mean() + half)
    )


def test_a_seed_that_stopped_is_in_the_band_up_to_its_last_step():
    long, short = (np.arange(3), np.array([1.0, 2.0, 3.0])), (np.arange(1), np.array([5.0]))
    band = figures.quantile_band([long, short], 0, 100)
    assert band.middle.tolist() == [3, 2, 3]
    assert (band.low.tolist(), band.high.tolist()) == ([1, 2, 3], [5, 2, 3])


def test_the_grid_draws_each_band_before_the_others():
    band = figures.quantile_band([(np.arange(4), np.arange(4.0))], 20, 80)
    figure = figures.learning_grid({"a": band, "b": band._replace(ends=((3, 3.0),))}, {}, "loss")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert len(figure.axes[1].collections) == 1
    assert figure.axes[1].lines[-1].get_marker() == "x"


def test_scores_of_many_magnitudes_have_a_logarithmic_axis():
    band = figures.quantile_band([(np.arange(3), np.array([2.0, 0.1, 0.001]))], 20, 80)
    assert figures.learning_bands({"a": band}, {}, "loss").axes[0].get_yscale() == "log"
    flat = figures.quantile_band([(np.arange(3), np.array([2.0, 1.9, 1.8]))], 20, 80)
    assert figures.learning_bands({"a": flat}, {}, "loss").axes[0].get_yscale() == "linear"


def test_names_at_the_ends_of_lines_stay_apart_and_in_the_figure():
    bands = {str(k): figures.quantile_band([(np.arange(2), np.array([0.0, 1 + k / 1e3]))], 20, 80)
             for k in range(9)}  # fmt: skip
    axes = figures.learning_bands(bands, {}, "accuracy").axes[0]
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(np.diff(heights)) > 0.069
    assert heights[-1] < 1.021
