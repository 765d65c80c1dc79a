"""Comparisons: one table, one picture, one report, nothing trained twice."""

import signal

import numpy as np
import pytest
import rich.console

from gatecore import Gate
from gatecore.analysis import figures
from gatecore.tasks import load_run, train
from gatecore.tasks.cli import compare, results
from gatecore.tasks.cli.results import results_table
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.signals import Interrupted
from tests.tasks.tiny import tiny


class Recorder:
    """A console of 80 columns that records its output."""

    def __init__(self):
        self.console = rich.console.Console(
            width=80, record=True, quiet=False, force_terminal=False
        )

    def text(self):
        return self.console.export_text(clear=False)


def job():
    return [tiny(task, mechanism) for task in ("pixels", "copying") for mechanism in ("O", "UR")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a finished comparison, its runs, and its output."""
    out, recorder = tmp_path_factory.mktemp("compared"), Recorder()
    runs = compare.compare(job(), out, recorder.console)
    return out, runs, recorder.text()


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".png"}


def test_each_run_gets_a_folder_and_all_of_them_a_picture(done):
    out, runs, _ = done
    folders = ["pixels-O-seed0", "pixels-UR-seed0", "copying-O-seed0", "copying-UR-seed0"]
    assert [run.folder.name for run in runs] == folders
    files = ["comparison.png", "report.html", "results.csv", "results.json"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*folders, *files])
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_line_names_the_report_of_all_runs(done):
    out, runs, text = done
    assert text.splitlines()[-1] == f"Report: {out / 'report.html'}"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "4 runs in 2 groups" in page
    assert all(f"{run.summary['test']['loss']:.4g}" in page for run in runs)


def test_the_table_holds_results_and_baselines(done):
    _, runs, text = done
    rows = [line.split() for line in text.splitlines()]
    for run in runs:
        loss = f"{run.summary['test']['loss']:.4f}"
        accuracy = f"{run.summary['test']['accuracy']:.1%}"
        parameters = f"{run.summary['parameters']:,}"
        assert any(
            row[:4] == [run.config.mechanism.name, loss, accuracy, parameters] for row in rows
        )
    assert "Digits, pixel by pixel" in text
    assert "Copy, N=8" in text
    assert "2.0794     12.5%" in text
    assert "most frequent" in text


def test_the_table_fits_eighty_columns_uncut(done):
    _, runs, _ = done
    recorder = Recorder()
    recorder.console.print(results_table(runs))
    assert "…" not in recorder.text()
    assert max(len(line.rstrip()) for line in recorder.text().splitlines()) <= 80
    assert all(word in recorder.text() for word in ("parameters", "shortest", "longest", "∞"))


def test_the_same_job_again_trains_nothing(done, monkeypatch):
    out, runs, _ = done
    before, recorder = contents(out), Recorder()
    again = compare.compare(job(), out, recorder.console)
    assert contents(out) == before
    assert recorder.text().count("finished, already there") == 4
    assert [run.summary for run in again] == [run.summary for run in runs]


def test_an_interrupted_job_continues(done, tmp_path, monkeypatch):
    _, runs, _ = done
    steps = []

    def stop_the_second(config, folder, *, on_step, **settings):
        def watch(step, loss):
            steps.append(step)
            if len(steps) == 12 + 7:
                signal.raise_signal(signal.SIGINT)

        return train(config, folder, on_step=watch, **settings)

    monkeypatch.setattr(results, "train", stop_the_second)
    with pytest.raises(Interrupted, match="stopped at step 7 of 12"):
        compare.compare(job(), tmp_path, Recorder().console)
    again = compare.compare(job(), tmp_path, Recorder().console)
    assert len(steps) == 4 * 12
    assert [run.summary["test"] for run in again] == [run.summary["test"] for run in runs]


def test_a_folder_with_runs_of_another_config_is_an_error_and_unchanged(done):
    out, _, _ = done
    before = contents(out)
    with pytest.raises(RunError, match=r"pixels-O-seed0 holds a run of another config: steps"):
        compare.compare([tiny("pixels", "O", steps=13)], out, Recorder().console)
    assert contents(out) == before


def never_trained(monkeypatch):
    monkeypatch.setattr(results, "train", lambda *_, **__: pytest.fail("it trained"))


def test_a_run_of_another_config_is_an_error_before_training(done, tmp_path, monkeypatch):
    train(tiny("pixels", "UR", steps=1), tmp_path / "pixels-UR-seed0")
    never_trained(monkeypatch)
    with pytest.raises(RunError, match=r"steps \(1 there, 12 here\).*; remove that folder, or"):
        compare.compare(job(), tmp_path, Recorder().console)
    assert [path.name for path in tmp_path.iterdir()] == ["pixels-UR-seed0"]


def test_the_folder_of_a_run_cannot_hold_several(done, monkeypatch):
    out, _, _ = done
    before = contents(out)
    never_trained(monkeypatch)
    with pytest.raises(RunError, match="pixels-O-seed0 holds a run itself"):
        compare.compare(job(), out / "pixels-O-seed0", Recorder().console)
    assert contents(out) == before


def test_a_picture_of_other_runs_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "comparison.png").write_text("precious")
    never_trained(monkeypatch)
    with pytest.raises(RunError, match=r"comparison\.png is of other runs"):
        compare.compare(job(), tmp_path, Recorder().console)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_page_that_is_no_report_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("precious")
    never_trained(monkeypatch)
    with pytest.raises(RunError, match=r"report\.html is not of a report"):
        compare.compare(job(), tmp_path, Recorder().console)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_two_configurations_of_one_folder_are_an_error(tmp_path, monkeypatch):
    never_trained(monkeypatch)
    with pytest.raises(ConfigError, match="copying-standard-seed0 given twice"):
        compare.compare([tiny(mechanism="standard"), tiny(mechanism="-")], tmp_path, None)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_test_loss_that_is_not_finite_has_a_row(tmp_path):
    """The last step may be the one that diverges."""
    config, recorder = tiny("adding", "U", learning_rate=1e30, steps=1), Recorder()
    compare.compare([config], tmp_path, recorder.console)
    assert "not finite" in recorder.text()


def test_a_run_that_diverged_has_a_row_and_does_not_stop_the_others(tmp_path):
    configs = [tiny("adding", "U", learning_rate=1e30), tiny("adding", "UR")]
    recorder = Recorder()
    runs = compare.compare(configs, tmp_path, recorder.console)
    assert [run.status for run in runs] == ["diverged", "finished"]
    assert ["U", "diverged"] in [line.split() for line in recorder.text().splitlines()]


def test_the_main_job_is_bit_reversed_digits_and_copy_with_standard_u_and_ur():
    configs = compare.job()
    assert {(c.task.name, c.mechanism.name) for c in configs} == {
        (task, name) for task in ("pixels", "copying") for name in ("standard", "U", "UR")
    }
    assert all(c.task.permute for c in configs if c.task.name == "pixels")
    copy = next(c for c in configs if c.task.name == "copying")
    assert (copy.task.length, copy.hidden_size, copy.batch_size) == (50, 128, 32)
    assert copy.learning_rate == 3e-3
    assert {(c.backend, c.core, c.threads) for c in configs} == {("numpy", "lstm", 1)}


def test_the_picture_shows_curves_baselines_and_gates_before_and_after(done):
    _, runs, _ = done
    before, after = runs[1].gates("before"), runs[1].gates("after")
    curve = runs[1].curve("validation", "accuracy")
    panel = figures.Panel(
        "Title", "accuracy", {"UR": curve}, {"blind": 0.1}, {"UR": (before, after)}
    )
    figure = figures.comparison([panel])
    curves, gates, timescales = figure.get_axes()
    np.testing.assert_array_equal(curves.lines[0].get_xdata(), curve[0])
    np.testing.assert_array_equal(curves.lines[0].get_ydata(), curve[1])
    assert curves.lines[1].get_linestyle() == "--"
    assert [text.get_text() for text in curves.texts] == ["blind", "UR"]
    assert timescales.get_xscale() == "log"
    for axes in (gates, timescales):
        filled = sum(patch.get_height() for patch in axes.patches if patch.get_fill() and
                     type(patch).__name__ == "Rectangle")  # fmt: skip
        assert filled == 16


def test_units_that_never_forget_are_counted_in_the_last_bin():
    gate = Gate(np.array([0.5, 1.0]), np.array([0.5, 0.0]))
    axes = figures.gate_histograms({"O": (None, gate)}).get_axes()[1]
    heights = [patch.get_height() for patch in axes.patches]
    assert (sum(heights), heights[-1]) == (2, 1)


def test_a_run_can_be_read_again_from_its_folder(done):
    _, runs, _ = done
    for run in runs:
        assert load_run(run.folder).config == run.config
