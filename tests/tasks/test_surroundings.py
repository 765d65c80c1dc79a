"""The command line where the terminal, the folders' names or the machine are unusual."""

import errno
import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from gatecore.tasks.cli.commands import main
from gatecore.tasks.problems.data_files import DataError, readable
from gatecore.tasks.problems.language import encoding, text_files
from gatecore.tasks.safe_files import reason

TINY = ["copying", "--length", "4", "--hidden-size", "4", "--steps", "2", "--threads", "1",
        "--validation-size", "4", "--test-size", "4"]  # fmt: skip
FULL = Path("/dev/full")


def command(*words, cwd, encoding="utf-8", shell=(), **options):
    """The command in a process of its own, as its script starts it, or as ``shell`` does."""
    environment = os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "100"}
    script = "from gatecore.tasks.cli.__main__ import run; run()"
    return subprocess.run(
        [*shell, sys.executable, "-c", script, *words], cwd=cwd, env=environment, check=False,
        timeout=60, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/b]", ":smile:", "a[b", "$x$", "= 1+1"])
def test_a_path_is_printed_as_it_is(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", *TINY, "--out", name])
    assert result.exit_code == 0
    assert result.output.endswith(f"Run: {name}\n")


def test_control_characters_of_a_path_reach_no_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", *TINY, "--out", "a\x1b[31mb\nc"]
    done, again = (CliRunner().invoke(main, words) for _ in range(2))
    assert done.output.endswith("Run: a\\x1b[31mb\\nc\n")
    assert again.exit_code == 2
    assert "a\\x1b[31mb\\nc" in again.output
    assert "\x1b" not in again.output


@pytest.mark.parametrize(("encoding", "minus"), [("ascii", b"\\u2212"), ("latin-1", b"\\u2212")])
def test_a_terminal_that_lacks_a_character_gets_its_escape(tmp_path, encoding, minus):
    done = command("train", *TINY, "--out", "gr\u00fc\u00df", cwd=tmp_path, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Timescales 1/(1 " + minus + b" g)" in done.stdout
    assert (
        done.stdout.decode(encoding)
        .strip()
        .endswith("Run: gr\\xfc\\xdf" if encoding == "ascii" else "Run: gr\u00fc\u00df")
    )


@pytest.mark.skipif(not FULL.exists(), reason="the system has no device that is always full")
@pytest.mark.parametrize("words", [["gates"], ["train", *TINY]])
def test_a_full_disk_is_one_sentence(tmp_path, words):
    with open(FULL, "w") as full:
        done = command(*words, cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert b"Error: the output cannot be written: No space left" in done.stderr


def test_figures_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    figures = pytest.importorskip("gatecore.analysis.figures")
    monkeypatch.setattr(figures, "theory", lambda: {"figure1": Figure()})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    done = CliRunner().invoke(main, ["figures", "--out", str(tmp_path)])
    assert done.exit_code == 2
    file = tmp_path / "figure1.png"
    assert f"cannot write {file}: No space left on device; check the disk" in done.output
    assert not os.listdir(tmp_path)


def test_a_limit_on_files_sizes_leaves_no_lock(tmp_path):
    limited = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    done = command("train", *TINY, "--out", "run", cwd=tmp_path, shell=limited)
    assert done.returncode == 2
    assert done.stderr.decode().splitlines()[-1].startswith("Error: run cannot be an output folder")
    assert not os.listdir(tmp_path / "run")


def test_an_error_of_a_library_without_a_number_is_told(tmp_path):
    refused = pytest.raises(DataError, match=r"file: found that it cannot be read \(no table\)")
    with refused, readable(tmp_path / "file", "a table"):
        raise OSError("no table\nin 3 lines")
    for error in (OSError(), OSError(errno.EIO, None), gzip.BadGzipFile()):
        assert reason(error) not in ("", "None")


def test_a_closed_pipe_is_silent(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = command("gates", cwd=tmp_path, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_closed_output_is_no_error(tmp_path):
    closing = ("sh", "-c", 'exec "$0" "$@" >&-')
    done = command("gates", cwd=tmp_path, shell=closing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_during_the_imports_is_one_word(tmp_path):
    script = (
        "import sys; from gatecore.tasks.cli.__main__ import run\n"
        "class Stop:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop()); run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "gates"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"Stopped.\n")


def test_a_home_folder_is_needed_for_a_cache_there_alone(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for stem in ("train", "valid", "test"):
        (tmp_path / f"{stem}.txt").write_text("a b a\n" * 20, encoding="utf-8")
    source = text_files.find(tmp_path)
    assert len(encoding.load(tmp_path, source, "word", 1, None).symbols) == 4


def test_the_home_of_an_unknown_user_is_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["language", "--data", "files"], ["pixels", "--data", "mnist"]):
        result = CliRunner().invoke(main, ["train", *words, "--path", "~no-such-user/x"])
        assert (result.exit_code, type(result.exception)) == (2, SystemExit)
        assert "~no-such-user/x" in result.output


def test_gates_counts_parameters_of_any_size_without_drawing_them():
    result = CliRunner().invoke(main, ["gates", "--hidden-size", "100000", "--downsize", "10"])
    assert "40,004,400,000" in result.output
