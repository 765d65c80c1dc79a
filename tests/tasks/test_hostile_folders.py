"""Folders of strangers: links, FIFOs, devices, huge files and hostile names change nothing outside.

Each case ends with one sentence that names the file; the victim that a link points to is unchanged.
"""

import contextlib
import csv
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from click.testing import CliRunner

from gatecore.tasks import Config, load_run, report, sweep, train
from gatecore.tasks.cli.commands import main
from gatecore.tasks.cli.compare import draw
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.problems.language import text_files
from gatecore.tasks.problems.pixels import image_files
from gatecore.tasks.problems.pixels.image_files import cifar10
from gatecore.tasks.safe_files import (
    UnsafeError,
    parse_json,
    printable,
    read_bytes,
    remove,
    replacing,
)
from gatecore.tasks.sweeps.config import place
from gatecore.tasks.training import atomic_files, folder_lock, run_folder
from gatecore.tasks.training.atomic_files import RunError, WriteError
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run_folder import FILES
from tests.tasks.sweeping import tiny_sweep
from tests.tasks.test_image_files import write_mnist
from tests.tasks.test_trainer import Killed, die_at
from tests.tasks.tiny import arguments, tiny

PRECIOUS = b"precious"


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for a FIFO ends with an error."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """An unfinished run, and a finished one."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.raises(Killed):
        train(tiny(), root / "unfinished", on_step=die_at(9))
    train(tiny(), root / "finished")
    return root


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "victim"
    path.write_bytes(PRECIOUS)
    return path


def plant(path, kind, victim):
    """Put a link, a FIFO or a link to a device in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(victim)
    elif kind == "dangling link":
        path.symlink_to(victim.with_name("new"))
    elif kind == "hard link":
        path.hardlink_to(victim)
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


KINDS = ("link", "dangling link", "hard link", "FIFO", "device")


def unharmed(victim):
    return victim.read_bytes() == PRECIOUS and os.listdir(victim.parent) == ["victim"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "device"])
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint.safetensors"])
def test_a_run_is_not_continued_from_a_link_or_a_device(stopped, tmp_path, victim, name, kind):
    shutil.copytree(stopped / "unfinished", tmp_path / "run")
    plant(tmp_path / "run" / name, kind, victim)
    with pytest.raises(RunError, match=rf"{name} is (a symbolic link|no regular file)"):
        train(tiny(), tmp_path / "run", resume=True)
    assert unharmed(victim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["state.json", "gates.safetensors", ".state.json.part"])
def test_files_that_a_run_writes_anew_replace_links(stopped, tmp_path, victim, name, kind):
    shutil.copytree(stopped / "unfinished", tmp_path / "run")
    plant(tmp_path / "run" / name, kind, victim)
    assert train(tiny(), tmp_path / "run", resume=True).status == "finished"
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)
    assert not any(path.is_symlink() for path in (tmp_path / "run").iterdir())
    assert unharmed(victim)


def test_a_log_with_another_name_is_not_continued(stopped, tmp_path):
    shutil.copytree(stopped / "unfinished", tmp_path / "run")
    (tmp_path / "other").hardlink_to(tmp_path / "run" / "metrics.jsonl")
    before = (tmp_path / "other").read_bytes()
    assert train(tiny(), tmp_path / "run", resume=True).status == "finished"
    assert (tmp_path / "other").read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_a_link_is_refused(tmp_path, victim, kind):
    (tmp_path / "run").mkdir()
    plant(tmp_path / "run" / ".lock", kind, victim)
    with pytest.raises(RunError, match=r"\.lock is (a symbolic link|a hard link|no regular file)"):
        train(tiny(), tmp_path / "run", on_step=lambda *_: pytest.fail("it trained"))
    with pytest.raises(UnsafeError, match=r"\.lock is"), folder_lock.lock(tmp_path / "run"):
        pass
    assert unharmed(victim)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["config.json", "summary.json", "gates.safetensors"])
def test_a_report_names_planted_files(stopped, tmp_path, victim, name, kind):
    shutil.copytree(stopped / "finished", tmp_path / "runs" / "bad")
    shutil.copytree(stopped / "unfinished", tmp_path / "runs" / "good")
    plant(tmp_path / "runs" / "bad" / name, kind, victim)
    results = report.read(tmp_path / "runs")
    (note,) = results.notes
    assert note.folder == "bad"
    assert name in note.reason
    assert [trial.folder for trial in results.trials] == ["good"]
    assert unharmed(victim)


@pytest.mark.parametrize("kind", ["link", "dangling link", "FIFO", "device"])
@pytest.mark.parametrize("name", [".results.csv.part", "report.html", "results.json"])
def test_a_report_writes_through_no_link(stopped, tmp_path, victim, name, kind):
    shutil.copytree(stopped / "finished", tmp_path / "runs" / "run")
    plant(tmp_path / "runs" / name, kind, victim)
    result = CliRunner().invoke(main, ["report", str(tmp_path / "runs"), "--out",
                                       str(tmp_path / "runs")])  # fmt: skip
    assert (result.exit_code, "Error" in result.output) == (
        (0, False) if name[0] == "." else (2, True)
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert unharmed(victim)


def test_a_report_follows_no_linked_folder_and_names_it(stopped, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(stopped / "finished")
    results = report.read(tmp_path / "runs")
    assert (results.trials, results.notes[0].folder) == ([], "linked")
    assert "symbolic link" in results.notes[0].reason
    (tmp_path / "alias").symlink_to(stopped)  # what the user names may be a link
    assert len(report.read(tmp_path / "alias").trials) == 1


def test_folders_in_folders_without_end_are_left_out(tmp_path):
    path = tmp_path
    for _ in range(60):
        path = path / "d"
    path.mkdir(parents=True)
    (note,) = report.read(tmp_path).notes
    assert "too many folders" in note.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sweep.jsonl", ".lock", "sweep.json", ".sweep.json.part"])
def test_a_sweep_writes_through_no_link(tmp_path, victim, name, kind):
    out = tmp_path / "out"
    out.mkdir()
    plant(out / name, kind, victim)
    config = tiny_sweep(out, mechanisms="U", steps=1, workers=1, set={"evaluate_every": 1})
    if name in ("sweep.jsonl", ".lock"):
        with pytest.raises(RunError, match=rf"{re.escape(name)} is (a symbolic|a hard|no regular)"):
            sweep(config)
    elif kind == "link":
        assert len(sweep(config).runs) == 1
        assert json.loads((out / "sweep.json").read_text())["task"] == "copying"
    assert unharmed(victim)


def test_the_folder_of_a_trial_may_be_no_link(stopped, tmp_path):
    config = tiny_sweep(tmp_path, mechanisms="U")
    trials, _ = config.trials()
    (tmp_path / trials[0].name).symlink_to(stopped)
    with pytest.raises(RunError, match=rf"{trials[0].name} is a symbolic link, which is not"):
        place(trials, tmp_path)
    (tmp_path / "copying-UR-seed0").symlink_to(stopped)
    words = ["train", "copying", "--mechanism", "UR,U", *arguments("--out", str(tmp_path))]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "copying-UR-seed0 is a symbolic link" in result.output


def test_the_picture_of_a_comparison_replaces_a_link(stopped, tmp_path, victim):
    plant(tmp_path / "comparison.png", "link", victim)
    path = draw([load_run(stopped / "finished")], tmp_path)
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert unharmed(victim)


# --- sizes and forms --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoint.safetensors"])
def test_a_huge_sparse_file_is_refused_at_once(stopped, tmp_path, name):
    shutil.copytree(stopped / "unfinished", tmp_path / "run")
    os.truncate(tmp_path / "run" / name, 1 << 42)
    with pytest.raises(RunError, match=rf"{name} has .*bytes"):
        train(tiny(), tmp_path / "run", resume=True)


def test_a_header_of_four_gigabytes_is_refused(tmp_path):
    path = tmp_path / "tensors"
    path.write_bytes((1 << 32).to_bytes(8, "little") + b"{}")
    with pytest.raises(RunError, match="its header has 4,294,967,296 bytes"):
        atomic_files.read_tensors(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 200 + "]" * 200, "nested too deeply"),
        ('{"a": ' * 101 + "1" + "}" * 101, "nested too deeply"),
        ("1" * 5000, "integer string conversion"),
    ],
)
def test_json_that_is_none_or_nested_deeply_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_of_a_moderate_depth_is_read():
    assert parse_json('{"a": ' * 99 + "1" + "}" * 99)["a"]["a"]


@pytest.mark.parametrize(
    "value", ["NaN", "[" * 500 + "]" * 500, "9" * 4000, '"\\ud800"', "1e999", '{"a": {}}']
)
@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl", "state.json"])
def test_hostile_values_are_one_sentence(stopped, tmp_path, name, value):
    shutil.copytree(stopped / "finished", tmp_path / "run")
    text = (tmp_path / "run" / name).read_text()
    text = re.sub(r'("(?:seed|step|loss)": )[\d.]+', lambda match: match[1] + value, text)
    (tmp_path / "run" / name).write_text(text)
    results = report.read(tmp_path)
    assert name == "state.json" or (results.trials == [] and "\n" not in results.notes[0].reason)


# --- names ------------------------------------------------------------------------------------


def renamed(source, folder, name):
    """A copy of a finished run whose mechanism has another name."""
    shutil.copytree(source, folder)
    (folder / "state.json").unlink()
    record = json.loads((folder / "config.json").read_text())
    record["mechanism"]["name"] = name
    del record["sha256"]
    atomic_files.write_json(folder / "config.json", record)
    identity = run_folder.Folder(folder).identity
    old = load_run(source)
    new = run_folder.Folder(folder)
    new.metrics.rewrite(old.metrics)
    new.save_gates(before=old.gates("before"), after=old.gates("after"))
    new.save_summary(old.summary)
    assert new.identity == identity


NAMES = ["$\\frac$", "$x", "a $ b $ c", "\ud800", "\x1b[31mred\x1b]0;title\x07", "<script>",
         "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "a\nb", "x" * 300,
         "%s{}\\"]  # fmt: skip


def test_hostile_names_spoil_no_report(stopped, tmp_path):
    for number, name in enumerate(NAMES):
        renamed(stopped / "finished", tmp_path / "runs" / f"{number}", name)
    (tmp_path / "runs" / os.fsdecode(b"\xff=1\x1b[2J")).mkdir()
    result = CliRunner().invoke(main, ["report", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    out = tmp_path / "runs-report"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.split("<body>")[1].count("<script>") == 1  # the page's own
    assert "\x1b" not in page
    assert "$\\frac$" in page
    with open(out / "results.csv", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(NAMES)
    cells = {cell for line in lines for cell in line.values()}
    assert not [c for c in cells if c.strip().startswith(("=", "+", "@"))]
    assert "'=cmd|' /C calc'!A0" in cells
    assert "'-1" in cells
    assert len(json.loads((out / "results.json").read_text())["groups"][0]["runs"]) == len(NAMES)


@pytest.mark.parametrize("name", ["$\\frac$", "\ud800\x1b[31m"])
def test_figures_of_a_run_with_a_hostile_name_are_drawn(stopped, tmp_path, monkeypatch, name):
    renamed(stopped / "finished", tmp_path / "run", name)
    monkeypatch.setattr("gatecore.analysis.figures.theory", dict)
    words = ["figures", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_negative_numbers_stay_numbers_in_the_csv(stopped, tmp_path):
    shutil.copytree(stopped / "finished", tmp_path / "runs" / "run")
    (line,) = csv.DictReader(report.table(report.read(tmp_path / "runs")).splitlines())
    assert float(line["best_validation_loss"]) > 0


def test_errors_print_no_terminal_escapes(tmp_path):
    name = tmp_path / "\x1b[2Jbad"
    result = CliRunner().invoke(main, ["report", str(name)])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert "\\x1b[2Jbad" in result.output
    assert printable("é\n\x1b\ud800\x7f") == "é\\n\\x1b\\ud800\\x7f"


# --- checkpoints ------------------------------------------------------------------------------


def test_memory_that_runs_out_in_a_checkpoint_is_one_sentence(tmp_path, monkeypatch):
    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "_digest", no_memory)
        with pytest.raises(RunError, match="not enough memory"):
            train(tiny(), tmp_path)
    assert train(tiny(), tmp_path, resume=True).status == "finished"


def test_a_checkpoint_needs_no_memory_beside_its_tensors(tmp_path):
    import tracemalloc

    tensors = {"weight": np.ones(4_000_000, np.float32)}
    tracemalloc.start()
    atomic_files.write_tensors(tmp_path / "t", tensors, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_stale_state_is_brought_up_to_date(tmp_path, monkeypatch):
    """A kill between the last checkpoint and state.json, or in the middle of a file."""
    from gatecore.tasks.training.run_folder import Folder

    def killed(self, *_):
        if self.path and (tmp_path / "run" / "checkpoint.safetensors").exists():
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "save_state", killed)
        with pytest.raises(Killed):
            train(tiny(checkpoint_every=12), tmp_path / "run")
    assert not (tmp_path / "run" / "state.json").exists()
    (tmp_path / "run" / ".state.json.0011223344556677.part").write_text("half")
    train(tiny(checkpoint_every=12), tmp_path / "run", resume=True)
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 12
    assert sorted(os.listdir(tmp_path / "run")) == sorted(FILES)


def test_new_files_are_created_exclusively(tmp_path, monkeypatch, victim):
    from gatecore.tasks import safe_files

    monkeypatch.setattr(safe_files.secrets, "token_hex", lambda _: "same")
    (tmp_path / ".file.same.part").symlink_to(victim)
    with pytest.raises(WriteError, match="File exists"):
        atomic_files.replace(tmp_path / "file", b"new")
    assert unharmed(victim)
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "other"):
        1 / 0  # noqa: B018
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    with pytest.raises(UnsafeError, match="has 8 bytes, more than 4"):
        read_bytes(victim, 4)


def test_a_recorded_run_does_not_open_the_data_that_it_names(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    for split in ("train", "valid", "test"):
        (victim / f"{split}.txt").write_text("a b c a b\n" * 60)
    run = train(tiny(steps=1), tmp_path / "run").folder
    record = json.loads((run / "config.json").read_text())
    del record["sha256"]
    settings = {"data": "files", "path": str(victim)}
    for task in ({"name": "language", **settings}, {"name": "language", "symbols": 5, **settings}):
        folder = tmp_path / f"planted{len(task)}"
        folder.mkdir()
        atomic_files.write_json(folder / "config.json", record | {"task": task})
        with contextlib.suppress(RunError):
            load_run(folder)
        words = ["report", str(tmp_path), "--out", str(tmp_path / "report")]
        assert CliRunner().invoke(main, words).exit_code == 0
    assert sorted(p.name for p in victim.iterdir()) == ["test.txt", "train.txt", "valid.txt"]


def test_a_recorded_run_of_images_does_not_open_the_path_that_it_names(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    write_mnist(tmp_path / "data", np.random.default_rng(0))
    run = train(tiny(steps=1), tmp_path / "run").folder
    record = json.loads((run / "config.json").read_text())
    del record["sha256"]
    task = {"name": "pixels", "data": "mnist", "path": str(tmp_path / "data")}
    opened = []
    monkeypatch.setattr(image_files, "digest", lambda *arguments: opened.append(arguments))
    for content in ({}, {"content": ""}, {"content": None}, {"content": "3f"}):
        folder = tmp_path / f"planted{len(os.listdir(tmp_path))}"
        folder.mkdir()
        atomic_files.write_json(folder / "config.json", record | {"task": task | content})
        assert load_run(folder).config.task.content == (content.get("content") or "unknown")
    words = ["report", str(tmp_path), "--out", str(tmp_path / "report")]
    assert CliRunner().invoke(main, words).exit_code == 0
    assert not opened
    Config.of("pixels", data="mnist", path=str(tmp_path / "data"))
    assert opened  # as the digest of a new run is


def test_a_finished_run_without_its_score_is_damaged(tmp_path):
    run = train(tiny(steps=1), tmp_path / "run").folder
    summary = json.loads((run / "summary.json").read_text())
    del summary["sha256"]
    loss = summary["test"]["loss"]
    for status, test, lacking in (
        ("finished", {"accuracy": 0.5}, "loss"),
        ("diverged", {"accuracy": 0.5}, "loss"),
        ("finished", {"loss": loss, "score": None}, "score"),
    ):
        atomic_files.write_json(run / "summary.json", {**summary, "status": status, "test": test})
        with pytest.raises(RunError, match=rf"summary.json lacks the {lacking} on the test set"):
            load_run(run)
    atomic_files.write_json(run / "summary.json", {**summary, "test": {"loss": None}})
    assert load_run(run).summary["test"]["loss"] is None  # not finite


def test_folders_nested_deep_below_a_corpus_are_one_sentence(tmp_path):
    (tmp_path.joinpath(*["a"] * 70)).mkdir(parents=True)
    with pytest.raises(ConfigError, match="folders nested more than 64 deep"):
        Config.of("language", data="files", path=str(tmp_path))
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("a b c a b\n" * 60)
    assert Config.of("language", data="files", path=str(tmp_path)).task.content


def test_linked_folders_below_a_corpus_are_not_entered(tmp_path):
    corpus, outside = tmp_path / "corpus", tmp_path / "outside"
    outside.mkdir()
    (outside / "1.txt").write_text("secret words " * 60)
    for split in ("train", "valid", "test"):
        (corpus / split).mkdir(parents=True)
        (corpus / split / "0.txt").write_text("a b c a b\n" * 60)
    (corpus / "train" / "linked").symlink_to(outside)
    (corpus / "train" / "itself").symlink_to(corpus)
    task = Config.of("language", data="files", path=str(corpus), level="word").task
    assert not {"secret", "words"} & set(task.corpus().symbols)
    assert [p.name for p in text_files.find(corpus).files[Stream.TRAIN]] == ["0.txt"]


def test_a_folder_is_removed_however_deep_and_through_no_link(tmp_path, victim):
    folder = tmp_path / ".key.1"
    folder.mkdir()
    number = os.open(folder, os.O_RDONLY)
    for _ in range(3000):  # beyond the system's longest path
        os.mkdir("a" * 9, dir_fd=number)
        os.symlink(victim.parent, "link", dir_fd=number)
        os.symlink(victim, "file", dir_fd=number)
        number, outer = os.open("a" * 9, os.O_RDONLY, dir_fd=number), number
        os.close(outer)
    os.mkfifo("fifo", dir_fd=number)
    os.close(number)
    remove(folder)
    assert os.listdir(tmp_path) == ["outside"]
    folder.symlink_to(victim.parent)
    remove(folder)
    remove(tmp_path / "missing" / "folder")
    assert unharmed(victim)


def test_a_pickle_that_refers_to_itself_is_refused_at_once(tmp_path):
    shared = b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60))
    content = b"\x80\x02cnumpy\ndtype\n(K\x01K\x02tq\x00" + shared + b"\x85R."
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="an array of dtype tuple, not of bytes"):
        cifar10(tmp_path)
