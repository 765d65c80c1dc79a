"""The pages' tables and pictures of stored results, and the verdicts on the paper's claims."""

import dataclasses
import re
import shlex
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gatecore import MECHANISMS
from gatecore.tasks.cli import sweep as sweep_command
from gatecore.tasks.reports.paired_statistics import compare
from tests.packaging.layout import ROOT
from tests.tasks.test_image_files import write_mnist

EXTENSIONS = str(ROOT / "docs" / "_ext")


@pytest.fixture
def pages(monkeypatch):
    """The modules of ``docs/_ext`` as the build of the pages imports them."""
    monkeypatch.syspath_prepend(EXTENSIONS)
    import generated
    import paper
    import pictures
    import stored_results

    yield generated, paper, pictures, stored_results
    for module in (generated, paper, pictures, stored_results):
        sys.modules.pop(module.__name__)


def group(task, tests, higher=False, baseline=2.0, **settings):
    """A group of ``results.json`` with these test scores by seed, as far as verdicts read it."""
    return {
        "title": task.title(),
        "settings": {"task.name": task, "core": "lstm", "layers": 1, **settings},
        "score": {"name": "accuracy" if higher else "loss", "higher_is_better": higher},
        "baselines": {"a guess": baseline},
        "mechanisms": {
            label: {"test_by_seed": {str(seed): score for seed, score in enumerate(scores)}}
            for label, scores in tests.items()
        },
    }


def only(verdicts):
    (verdict,) = verdicts
    return str(verdict), verdict.agreeing, verdict.contrary, verdict.undecided


PAIR = ("R", "standard")  # of the claim about saturated gates


def test_a_claim_agrees_if_each_seed_does_and_the_better_gates_beat_the_baseline(pages):
    forgetting = group("forgetting", {"standard": [2.0, 2.1, 2.2], "R": [0.5, 0.1, 0.9]})
    assert only(pages[1].verdicts(forgetting)) == ("agrees", (PAIR,), (), ())


def test_a_claim_does_not_agree_if_each_seed_says_the_opposite(pages):
    forgetting = group("forgetting", {"standard": [0.5, 0.1, 0.9], "R": [2.0, 2.1, 2.2]})
    assert only(pages[1].verdicts(forgetting)) == ("does not agree", (), (PAIR,), ())


@pytest.mark.parametrize("higher", [True, False])
def test_the_direction_of_the_score_decides_which_gates_are_better(pages, higher):
    tests = {"standard": [0.2, 0.3, 0.4], "R": [0.6, 0.7, 0.9]}
    forgetting = group("forgetting", tests, higher, 0.1 if higher else 2.0)
    assert only(pages[1].verdicts(forgetting))[0] == ("agrees" if higher else "does not agree")


@pytest.mark.parametrize("refined", [[0.5, 0.1, 2.3], [1.99, 2.0, 1.995]])
def test_seeds_that_differ_or_do_not_beat_the_baseline_are_too_small_to_say(pages, refined):
    """The second gates are better on every seed, and still no better than a guess by 1 %."""
    forgetting = group("forgetting", {"standard": [2.0, 2.1, 2.2], "R": refined})
    assert only(pages[1].verdicts(forgetting)) == ("too small to say", (), (), (PAIR,))


def test_two_seeds_and_pairs_that_were_not_trained_give_no_verdict(pages):
    assert pages[1].verdicts(group("forgetting", {"standard": [2.0, 2.1], "R": [0.5, 0.1]})) == []
    assert pages[1].verdicts(group("forgetting", {"standard": [2.0, 2.1, 2.2]})) == []


def test_a_mingru_is_not_judged_by_the_papers_claims(pages):
    tests = {"standard": [2.0, 2.1, 2.2], "R": [0.5, 0.1, 0.2]}
    forgetting = group("forgetting", tests, core="mingru")
    assert pages[1].verdicts(forgetting) == []
    digits = group("pixels", tests, core="mingru", **{"task.permute": True})
    assert pages[1].result(digits, "standard") == ""
    assert pages[1].verdicts(group("chain", {"standard": [2.0] * 3, "R": [0.5] * 3})) == []


def test_of_several_refine_biases_the_papers_is_judged(pages):
    tests = {"standard": [1.0, 1.1, 1.2], "UR (refine_bias=opposed)": [2.0, 2.1, 2.2],
             "UR (refine_bias=uniform)": [0.1, 0.2, 0.3]}  # fmt: skip
    assert pages[1].default_scores(group("match", tests), "UR") == {0: 0.1, 1: 0.2, 2: 0.3}


def test_claims_name_known_mechanisms_and_no_pair_twice(pages):
    for claims in pages[1].CLAIMS.values():
        pairs = [pair for claim in claims for pair in claim.pairs]
        assert {name for pair in pairs for name in pair} <= MECHANISMS.keys()
        assert not any(pair[::-1] in pairs for pair in pairs)
        assert all(len(set(claim.pairs)) == len(claim.pairs) for claim in claims)


def test_headings_tell_cores_and_layers_apart(pages):
    heading = pages[3].heading
    assert heading(group("copying", {})) == "Copying"
    assert heading(group("copying", {}, core="mingru", layers=2)) == "Copying, MinGRU, 2 layers"
    assert heading(group("copying", {}, core="dnc")) == "Copying, DNC"
    assert heading(group("copying", {}, core="gru", residual=True)) == "Copying, GRU, residual"


def test_the_medians_and_counts_of_the_stored_results_are_those_of_their_runs(pages):
    for group in pages[3].groups().values():
        by_variant = [pages[3].scores(group, label) for label in group["mechanisms"]]
        for variant, scores in zip(group["mechanisms"].values(), by_variant, strict=True):
            assert variant["median_test"] == pytest.approx(np.median([*scores.values()]))
        finished = [run["test"][group["score"]["name"]] for run in group["runs"]]
        assert sorted(finished) == sorted(s for scores in by_variant for s in scores.values())


def test_the_stored_differences_are_those_of_the_stored_scores(pages):
    stored = pages[3]
    for group in stored.groups().values():
        base = stored.scores(group, group["compared_with"])
        others = group["mechanisms"].keys() - {group["compared_with"]}
        computed = {name: compare(stored.scores(group, name), base) for name in others}
        expected = {name: dataclasses.asdict(c) for name, c in computed.items() if c}
        assert {k: v | {"seeds": tuple(v["seeds"])} for k, v in group["differences"].items()} == (
            expected
        )


def test_two_groups_of_one_heading_are_an_error(pages, monkeypatch, tmp_path):
    stored = pages[3]
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    stored.groups.cache_clear()
    text = '{"groups": [{"title": "A", "settings": {"core": "gru", "layers": 1}}]}'
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"'A, GRU', one in b\.json"):
        stored.groups()


def test_a_picture_has_a_dot_for_each_seed_and_the_interval_of_each_difference(pages):
    _, _, pictures, stored = pages
    for title, group in stored.groups().items():
        left, right = pictures.seeds(title).axes[:2]
        dots = sum(len(line.get_xdata()) for line in left.lines if line.get_marker() == "o")
        assert dots == sum(len(stored.scores(group, label)) for label in group["mechanisms"])
        intervals = [line for line in right.lines if line.get_marker() == "D"]
        base = stored.scores(group, "standard")
        common = [base.keys() & stored.scores(group, name).keys() for name in group["mechanisms"]]
        if base:
            assert len(intervals) == sum(map(bool, common)) - 1


def test_copy_is_learnt_by_the_runs_whose_slowest_unit_starts_at_a_fifth_of_the_distance(pages):
    """The threshold of docs/choosing.md."""
    _, _, pictures, stored = pages
    copy = stored.groups()["Copy, N=100"]
    starts = [(pictures.slowest_start(run, copy), run["test"]["loss"]) for run in copy["runs"]]
    assert len(starts) == 33
    assert all(loss > 2.07 for start, loss in starts if start < 12.1)
    assert all(loss < 1.7 for start, loss in starts if start > 20)
    assert not any(12.1 <= start <= 20 for start, _ in starts)


def test_initial_timescales_from_biases_are_near_those_measured_on_copy(pages):
    """Blanks move the gates of a new layer little; units that are never written are left out."""
    _, _, pictures, stored = pages
    copy = stored.groups()["Copy, N=100"]
    runs = {name: [run for run in copy["runs"] if run["mechanism"] == name] for name in ("U", "OM")}
    for run in runs["U"]:
        measured = run["timescales"]["before"]["largest"]
        assert pictures.slowest_start(run, copy) == pytest.approx(measured, rel=0.1)
    assert all(1 < pictures.slowest_start(run, copy) < 10 for run in runs["OM"])


def test_each_sweep_of_the_page_is_valid(pages, monkeypatch, tmp_path):
    """Its commands are parsed and all their trials built; none is trained."""
    write_mnist(tmp_path, np.random.default_rng(0))
    text = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^\$ gatecore sweep (.*)$", text, re.MULTILINE)
    assert len(commands) > 15
    swept = []
    monkeypatch.setattr(sweep_command, "run_sweep", lambda config, display: swept.append(config))
    monkeypatch.setattr(sweep_command, "results_table", lambda results: "")
    monkeypatch.setattr(sweep_command, "describe", lambda config: {})
    for command in commands:
        words = shlex.split(command.replace("/usr/share/datasets/fashion-mnist", str(tmp_path)))
        result = CliRunner().invoke(sweep_command.sweep, words)
        assert "trials in" in result.output, command
    outs = [str(config.out) for config in swept]
    assert len(swept) == len(commands)
    assert len(set(outs)) == len(outs)


def test_the_table_of_verdicts_has_each_of_them(pages):
    generated, paper, _, stored = pages
    lines = generated.verdicts().splitlines()[2:]
    verdicts = [v for group in stored.groups().values() for v in paper.verdicts(group)]
    assert len(lines) == len(verdicts) > 10
    for line, verdict in zip(lines, verdicts, strict=True):
        assert verdict.claim.statement in line
        assert line.endswith(f"**{verdict}** |")
