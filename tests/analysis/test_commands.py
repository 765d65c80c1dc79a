"""`gatecore verify` and `gatecore figures` as commands."""

import json

import pytest
from click.testing import CliRunner

import gatecore
from gatecore.analysis import ordered, permutation
from gatecore.analysis.claims import empirical
from gatecore.tasks import Config, train
from gatecore.tasks.cli import analysis, claims


@pytest.fixture
def few(monkeypatch):
    """Two claims whose checks are fast."""
    quick = ordered._check_dead_units, permutation._check_bit_reversal
    monkeypatch.setattr(claims, "propositions", lambda: quick)
    return quick


def run(command, *arguments):
    return CliRunner().invoke(command, list(map(str, arguments)))


@pytest.mark.parametrize("columns", [60, 100])
def test_verify_prints_each_claim_wrapped_at_the_terminals_width(few, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    result = run(analysis.verify)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("Symbols: f forget")
    text = " ".join(result.output.split())
    for proposition in few:
        stated = f": {proposition.statement}" if proposition.statement else " (not the paper's)"
        verdict = f"{proposition.expected} {proposition.name}{stated}"
        assert f"{verdict}. TRUE: {proposition.truth}. BY: {proposition.method}" in text
    assert "2 of 2 verdicts as expected: 1 claims of the paper, 1 findings" in text


def test_verify_prints_the_claims_on_measurements_apart(few, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    _, _, measured = run(analysis.verify).output.partition("What the paper measured")
    text = " ".join(measured.split())
    for entry in empirical():
        assert f"{entry.state} {entry.claim}" in text


def test_verify_prints_json(few):
    result = run(analysis.verify, "--json")
    printed = json.loads(result.output)
    assert [claim["name"] for claim in printed] == [proposition.name for proposition in few]
    assert all(claim["ok"] and claim["evidence"] for claim in printed)
    keys = ["name", "statement", "verdict", "evidence", "ok", "truth", "method"]
    assert [list(claim) for claim in printed] == [keys] * len(few)


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--evidence"]])
def test_verify_fails_if_a_verdict_is_not_the_expected_one(few, arguments, monkeypatch):
    monkeypatch.setattr(permutation, "bit_reversal", lambda n: list(range(n)))
    result = run(analysis.verify, *arguments)
    assert result.exit_code == 1
    assert "FAILED" in result.output


def test_figures_of_the_theory_are_written(tmp_path):
    result = run(analysis.figures, "--out", tmp_path / "new" / "figures", "--format", "svg")
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in (tmp_path / "new" / "figures").iterdir())
    assert len(written) == 9
    assert "figure2d_gradient.svg" in written


def test_figures_of_a_run_are_written(tmp_path):
    config = Config.of("copying", "UR", length=5, steps=4, hidden_size=8, evaluate_every=2,
                       batch_size=4)  # fmt: skip
    train(config, tmp_path / "run")
    result = run(analysis.figures, "--out", tmp_path, "--run", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "figure3_learning_curve.png").exists()
    assert (tmp_path / "figure4_gate_histograms.png").exists()


def test_a_folder_without_a_run_is_a_usage_error(tmp_path):
    result = run(analysis.figures, "--out", tmp_path, "--run", tmp_path)
    assert result.exit_code == 2
    assert "holds no run" in result.output


def test_the_commands_are_documented():
    for command in (analysis.verify, analysis.figures):
        assert command.help
    assert gatecore.analysis.verify.__doc__
