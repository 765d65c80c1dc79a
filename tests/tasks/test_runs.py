"""A run's folder: its files, atomic replacement, errors about other and damaged files."""

import errno
import json
import os
import re
import shutil
import stat
import subprocess

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

import gatecore
from gatecore.tasks import load_run, train
from gatecore.tasks.cli.commands import main
from gatecore.tasks.training import provenance
from gatecore.tasks.training.run import upgrade
from gatecore.tasks.training.run_folder import FILES, Folder, RunError
from tests.tasks.tiny import tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny(), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run."""
    for file in finished.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_finished_run_leaves_its_files_and_nothing_else(finished):
    assert sorted(file.name for file in finished.iterdir()) == sorted(FILES)


def test_files_are_readable_as_the_umask_allows(finished):
    mask = os.umask(0)
    os.umask(mask)
    for file in finished.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_the_config_is_recorded_completely(finished):
    run = load_run(finished)
    assert run.config == tiny()
    recorded = run.environment
    assert re.fullmatch(r"3\.\d+\.\d+\S*", recorded["python"])
    assert recorded["numpy"] == np.__version__
    assert recorded["backend"] == f"numpy {np.__version__}"
    assert recorded["gatecore"]
    assert recorded["blas"]
    assert recorded.keys() >= {"commit", "project_commit", "platform", "cores"}
    assert recorded["libraries"].keys() >= {"numpy", "safetensors", "scikit-learn"}
    assert recorded["libraries"]["numpy"] == np.__version__
    assert "torch" not in recorded["libraries"]


def test_the_commit_of_the_current_folder_is_recorded_too(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", provenance.environment("numpy")["project_commit"])


def test_the_threads_recorded_are_those_that_trained(finished):
    assert load_run(finished).environment["threads"] == tiny().threads == 1


def test_a_commit_is_recorded_for_tracked_files_alone(tmp_path):
    (tmp_path / "module.py").touch()
    assert provenance.commit(tmp_path / "module.py") is None
    commit = provenance.commit(provenance.Path(gatecore.__file__))
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit)


def test_metrics_are_lines_of_standard_json_in_order_of_steps(finished):
    text = (finished / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    recorded = [(line["step"], line["split"]) for line in lines]
    training = [(step, "train") for step in (3, 6, 9, 12)]
    validation = [(step, "validation") for step in (0, 5, 10, 12)]
    assert sorted(recorded) == sorted(training + validation)
    assert [step for step, _ in recorded] == sorted(step for step, _ in recorded)


def test_curves_hold_the_values_of_the_lines(finished):
    run = load_run(finished)
    steps, values = run.curve("validation", "loss")
    assert steps.tolist() == [0, 5, 10, 12]
    assert values.tolist() == [m["loss"] for m in run.metrics if m["split"] == "validation"]
    assert run.curve("test", "loss")[0].size == 0


def test_gates_are_recorded_before_and_after_training(finished):
    run = load_run(finished)
    before, after = run.gates("before"), run.gates("after")
    for gate in (before, after):
        assert gate.value.shape == gate.complement.shape == (1, 16)
        np.testing.assert_allclose(gate.value + gate.complement, 1, rtol=1e-6)
    assert (before.value != after.value).all()
    timescales = run.summary["timescales"]
    for when, gate in (("before", before), ("after", after)):
        assert timescales[when]["smallest"] == pytest.approx((1 / gate.complement).min())
        assert timescales[when]["median"] == pytest.approx(np.median(1 / gate.complement))


def test_an_infinite_timescale_is_null_in_json(tmp_path):
    """The last unit of cumax gates never forgets."""
    run = train(tiny(mechanism="O", steps=1), tmp_path / "run")
    assert run.summary["timescales"]["after"]["largest"] is None
    assert run.gates("after").complement[0, -1] == 0


def test_the_summary_holds_the_number_of_parameters_and_the_baselines(finished):
    summary = load_run(finished).summary
    recurrent = 4 * 16 * (10 + 16 + 1)
    assert summary["parameters"] == recurrent + (16 + 1) * 8
    assert summary["baselines"] == tiny().task.baselines()
    assert summary["status"] == "finished"
    assert summary["step"] == 12


@pytest.mark.parametrize("name", FILES)
def test_a_folder_with_any_file_of_a_run_is_an_error_and_unchanged(tmp_path, name):
    (tmp_path / name).write_text("precious")
    complete, partial = f"holds another run already.*{name}.*--resume", "config.json is missing"
    with pytest.raises(RunError, match=complete if name == "config.json" else partial):
        train(tiny(), tmp_path)
    if name != "config.json":
        with pytest.raises(RunError, match=f"left of another run .{name}.; {partial}"):
            train(tiny(), tmp_path, resume=True)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]


def test_a_folder_of_runs_is_an_error(finished):
    with pytest.raises(RunError, match=r"is a folder of runs \(run"):
        train(tiny(), finished.parent)
    assert [file.name for file in finished.parent.iterdir()] == ["run"]


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "editor").mkdir()
    (tmp_path / "editor" / "config.json").write_text("{}")
    assert train(tiny(steps=1), tmp_path).status == "finished"
    assert (tmp_path / "notes.txt").read_text() == "notes"


def test_an_unusable_folder_is_an_error_before_training(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be an output folder: Not a directory"):
        train(tiny(), tmp_path / "file" / "run", on_step=lambda *_: pytest.fail("it trained"))


def test_a_folder_that_cannot_be_written_is_an_error_before_training(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"cannot write .*config\.json: No space left"):
        train(tiny(), tmp_path, on_step=lambda *_: pytest.fail("it trained"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(folder, monkeypatch, failing):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(RunError, match=r"cannot write .*checkpoint\.safetensors: No space left"):
        Folder(folder).save_checkpoint({"weight": np.ones(1000)}, {"step": 99})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_partial_files_of_a_killed_process_are_removed(folder):
    parts = [".checkpoint.safetensors.part", ".state.json.0123456789abcdef.part"]
    for name in [*parts, ".notes.part"]:
        (folder / name).write_bytes(b"half")
    with Folder(folder).claimed():
        assert not any((folder / name).exists() for name in parts)
        assert (folder / ".notes.part").exists()  # not of a run
        Folder(folder).save_checkpoint({"weight": np.ones(3)}, {"step": 99})
    tensors, state, _ = Folder(folder).load_checkpoint()
    assert (tensors["weight"].tolist(), state) == ([1, 1, 1], {"step": 99})


def test_the_state_is_stored_with_the_tensors(folder):
    """state.json is a copy: a kill between the two writes cannot make them disagree."""
    (folder / "state.json").write_text('{"step": 3}')
    assert Folder(folder).load_checkpoint().state["step"] == 12


def test_an_incomplete_line_of_metrics_is_ignored(folder):
    complete = load_run(folder).metrics
    with open(folder / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 13, "spl')
    assert load_run(folder).metrics == complete


def without_checksums(folder):
    """Rewrite a run as early versions of gatecore wrote it; the run."""
    new = load_run(folder)
    for name in ("config.json", "summary.json", "state.json"):
        value = json.loads((folder / name).read_text())
        for added in ("sha256", "metrics", "config"):
            value.pop(added, None)
        (folder / name).write_text(json.dumps(value, indent=2))
    lines = [json.dumps(line) + "\n" for line in new.metrics]
    (folder / "metrics.jsonl").write_text("".join(lines))
    gates = safetensors.numpy.load_file(folder / "gates.safetensors")
    safetensors.numpy.save_file(gates, folder / "gates.safetensors")
    return new


def test_a_run_without_checksums_is_refused_until_it_is_upgraded(folder):
    new = without_checksums(folder)
    with pytest.raises(RunError, match=rf"has no sha256; .* run: gatecore upgrade {folder}"):
        load_run(folder)
    done = CliRunner().invoke(main, ["upgrade", str(folder)])
    assert (done.exit_code, done.output) == (0, f"Upgraded: {folder}\n")
    old = load_run(folder)
    assert (old.config, old.metrics, old.summary) == (new.config, new.metrics, new.summary)
    np.testing.assert_array_equal(old.gates("after").value, new.gates("after").value)
    assert train(tiny(), folder, resume=True).status == "finished"


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "summary.json",
                                  "gates.safetensors"])  # fmt: skip
def test_each_file_without_a_checksum_is_refused(folder, name):
    others = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != name}
    without_checksums(folder)
    for other, content in others.items():
        (folder / other).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} .* no \w+.* run: gatecore upgrade"):
        load_run(folder).gates("after")


def test_an_upgrade_accepts_no_wrong_checksum(folder):
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace('"step": 12', '"step": 11'))
    with pytest.raises(RunError, match="sha256 does not match"):
        upgrade(folder)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"holds no run: there is no config\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "", r"config\.json cannot be read"),
        ("config.json", "[1]", r"config\.json should hold a JSON object, not list"),
        ("config.json", "{}", r"config\.json is no config: task is missing"),
        ("config.json", b"\xff\xfe\x00", r"config\.json cannot be read"),
        ("metrics.jsonl", "nonsense\n", r"metrics\.jsonl cannot be read"),
        ("metrics.jsonl", "[]\n", r"metrics\.jsonl line 1 should be an object with step"),
        ("metrics.jsonl", b"\xff\n", r"metrics\.jsonl cannot be read"),
        ("metrics.jsonl", '{"step": "a", "split": "train"}\n', r"metrics\.jsonl line 1 should"),
        ("metrics.jsonl", '{"step": 1, "split": "test"}\n', r"metrics\.jsonl line 1 should"),
        (
            "metrics.jsonl",
            '{"step": 1, "split": "train", "loss": "x"}\n',
            "step, split and numbers",
        ),
        ("summary.json", "{}", r"summary\.json is no summary: status is missing"),
        ("summary.json", '{"status": "finished"}', r"summary\.json is no summary: step is missing"),
        ("summary.json", '{"status": "over"}', "status='over': input should be 'finished'"),
        ("summary.json", '{"status": ', r"summary\.json cannot be read"),
    ],
)
def test_errors_about_a_damaged_file_name_it_and_the_problem(folder, name, content, message):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=message):
        load_run(folder)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("mechanism", "downsize"), "x", "downsize must be an integer"),
        (("mechanism", "activation"), "softmax", "activation='softmax' is unknown"),
        (("task", "name"), "copyin", "task='copyin' is unknown: did you mean 'copying'"),
        (("task", "length"), -1, "length=-1"),
        (("steps",), None, "steps=None"),
        (("speed",), 3, "speed=3: extra inputs are not permitted"),
    ],
)
def test_an_edited_config_is_an_error(folder, path, value, message):
    record = json.loads((folder / "config.json").read_text())
    inner = record if len(path) == 1 else record[path[0]]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=message):
        load_run(folder)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("test",), "test is missing"),
        (("test", "loss"), "lacks the loss on the test set"),
        (("parameters",), "parameters is missing"),
        (("timescales", "after"), "lacks timescales"),
        (("timescales", "after", "median"), "lacks timescales"),
    ],
)
def test_a_summary_that_lacks_a_required_field_is_an_error(folder, path, message):
    summary = json.loads((folder / "summary.json").read_text())
    inner = summary
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match=message):
        load_run(folder)


def test_a_folder_without_permission_is_an_error_before_training(tmp_path, monkeypatch):
    """By the result of access(), since these tests may run as root."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="cannot be an output folder: Permission denied"):
        Folder(tmp_path / "new" / "run").check_free()
    assert list(tmp_path.iterdir()) == []


def test_the_checkpoint_in_place_of_the_gates_is_refused(tmp_path):
    run = train(tiny(), tmp_path / "run")
    shutil.copy(run.folder / "checkpoint.safetensors", run.folder / "gates.safetensors")
    with pytest.raises(RunError, match=r"gates\.safetensors.*should hold gates alone"):
        load_run(run.folder).gates("before")
