"""Runs that collapsed to chance, and the best stable learning rate (Figure 5)."""

import re
from pathlib import Path

import numpy as np
import pytest

from gatecore.tasks import Config, train
from gatecore.tasks.reports import report
from gatecore.tasks.reports.aggregate import Group, Variant
from gatecore.tasks.reports.html import _cells
from gatecore.tasks.reports.plots import _curves, _histograms, band_of
from gatecore.tasks.reports.trial import Score, Trial
from gatecore.tasks.training.run import Run
from tests.tasks.tiny import tiny

CHANCE = {"most frequent class": {"loss": 2.3, "accuracy": 0.1}}


def trial(values, rate=1e-3, seed=0, status="finished", task="pixels", baselines=CHANCE, **more):
    """A run with these validation scores, at steps 0, 100, 200 ..."""
    config = Config.of(task, "UR", learning_rate=rate, seed=seed, **more)
    score = config.task.score
    lines = [{"step": 100 * k, "split": "validation", score: v} for k, v in enumerate(values)]
    summary = {"status": status, "step": 1, "baselines": baselines, "parameters": 1, "seconds": 1.0,
               "test": {score: values[-1]} if status == "finished" else None}  # fmt: skip
    run = Run(Path("nowhere"), config, {}, lines, summary)
    return Trial(run, "run", Score.of(config))


@pytest.mark.parametrize(
    ("values", "collapsed"),
    [
        ([0.1, 0.6, 0.9], False),
        ([0.1, 0.6, 0.1], True),
        ([0.1, 0.9, 0.09], True),
        ([0.1, 0.105, 0.1], False),  # it never left chance
        ([0.1, 0.6, 0.3], False),
    ],
)
def test_a_run_collapses_if_it_ends_at_chance_after_it_was_better(values, collapsed):
    assert trial(values).collapsed == collapsed


def test_what_collapse_needs():
    assert not trial([0.1, 0.9, 0.1], status="diverged").collapsed
    assert not trial([0.1, 0.9, 0.1], baselines=None).collapsed
    loss = {"baselines": {"any symbol alike": {"loss": 2.08}}, "task": "copying"}
    assert trial([2.1, 0.5, 2.09], **loss).collapsed
    assert not trial([2.1, 2.0, 0.5], **loss).collapsed
    chain = {"guessing": {"score": 0.0}, "perfect": {"score": 1.0}}
    assert trial([0.0, 0.8, 0.0], task="chain", baselines=chain).collapsed
    assert not trial([0.0, 0.05, 0.0], task="chain", baselines=chain).collapsed


def variant():
    """The best score of all at 2e-3, where a seed diverged; at 1e-3 one collapsed."""
    return Variant("UR", (
        trial([0.1, 0.95, 0.96], 2e-3, 0), trial([0.1, 0.95], 2e-3, 1, status="diverged"),
        trial([0.1, 0.92, 0.94], 1e-3, 0), trial([0.1, 0.9, 0.1], 1e-3, 1),
        trial([0.1, 0.80, 0.90], 5e-4, 0), trial([0.1, 0.8, 0.88], 5e-4, 1),
        trial([0.1, 0.93, 0.70], 2e-4, 0), trial([0.1, 0.8, 0.8], 2e-4, 1),
    ))  # fmt: skip


def test_curves_are_those_of_the_best_stable_rate():
    one = variant()
    assert (one.rate, one.stable) == (2e-3, 5e-4)
    band = band_of(one)
    np.testing.assert_allclose(band.middle, [0.1, 0.8, 0.89])
    group = Group("Digits", {}, {}, (one,), CHANCE)
    caption = " ".join(caption for _, _, caption in _curves(group))
    assert "best stable learning rate" in caption
    assert "UR 0.0005." in caption


def test_without_a_stable_rate_curves_are_those_of_the_best_score():
    one = Variant("UR", variant().trials[:4])
    assert one.stable == one.rate == 2e-3
    assert band_of(one).ends == ((100.0, 0.95),)


def test_the_table_marks_a_collapsed_seed():
    one = Variant("UR", (trial([0.1, 0.9, 0.1]), trial([0.1, 0.9, 0.9], seed=1)))
    cells = _cells(Group("Digits", {}, {}, (one,), CHANCE), one)
    assert re.fullmatch("10.00.%†, 90.00.%", cells["seeds"])


@pytest.mark.parametrize(("steps", "can"), [(400, False), (40_000, True)])
def test_the_band_of_language_is_drawn_or_the_caption_says_why_not(steps, can):
    values = [9.0, 5.0, 4.0, 3.0, 2.5]
    one = Variant("UR", (trial(values, task="language", steps=steps, evaluate_every=100),))
    ((_, _, caption),) = _curves(Group("Language", {}, {}, (one,), {}))
    band = band_of(one)
    assert np.array_equal(band.low, band.high) != can
    assert ("95 % confidence" in caption) == can
    assert ("holds one validation of a seed. So the line cannot be smoothed" in caption) != can
    assert ("there is no band" in caption) != can


def test_the_band_of_several_seeds_of_language_without_smoothing_is_that_of_their_mean():
    trials = [trial([9.0, k], task="language", seed=k, steps=400, evaluate_every=100)
              for k in (1, 2, 3)]  # fmt: skip
    group = Group("Language", {}, {}, (Variant("UR", tuple(trials)),), {})
    ((_, _, caption),) = _curves(group)
    assert "the 95 % band is of the seeds' mean" in caption


def test_the_paper_preset_of_language_has_validations_enough_for_the_band():
    config = Config.of("language", "UR", "paper")
    assert config.steps / 100 >= 3 * config.evaluate_every


def test_runs_record_the_forget_gates_that_refine_gates_modulate(tmp_path):
    runs = {name: train(tiny(mechanism=name), tmp_path / name) for name in ("U", "UR")}
    assert runs["U"].gates("main after") is None
    for when in ("before", "after"):
        main, effective = (runs["UR"].gates(f"{prefix}{when}") for prefix in ("main ", ""))
        assert main.value.shape == effective.value.shape == (1, 16)
        assert not np.allclose(main.value, effective.value)
    (group,) = report.read(tmp_path).groups
    captions = [caption for _, _, caption in _histograms(group)]
    assert len(captions) == 3
    assert "The forget gates f themselves" in captions[-1]
    (alone,) = report.read(tmp_path / "U").groups
    assert len([*_histograms(alone)]) == 2
