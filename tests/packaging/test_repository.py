"""The repository itself: packages, package data, and nothing of the machine it was written on."""

import importlib.machinery
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import gatecore
from tests.packaging.layout import FOLDERS, PROJECT, ROOT, modules, requirements

# Absolute paths of somebody's machine; written so that this file does not hold one itself.
MACHINE = re.compile(r"(?<![\w.~/:-])/(?:work|home|root|Users|farm|tmp|opt)/[\w.]")
# The name of a stranger's package, where it is installed, required or looked up.
STRANGER = re.compile(
    r"""pip[\w ]* install\s+(?:-\S+\s+)*['"]?gatecore(?![\w-])"""
    r"""|(?<![\w.-])gatecore(?:\[\w|\s*[=<>~!]=\s*\d)"""
    r"""|(?:version|requires|distribution|metadata)\(["']gatecore["']\)"""
)
TEXT = {"", ".cfg", ".json", ".md", ".py", ".toml", ".txt", ".yml", ".yaml", ".css", ".cu", ".cuh"}


def repository_files():
    """Files that are in the repository or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_every_folder_with_modules_is_a_listed_package():
    packages = {
        name if file.name == "__init__.py" else name.rpartition(".")[0] for name, file in modules()
    }
    assert packages == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_core_needs_two_packages():
    listed = {re.split("[<>=]", entry)[0] for entry in PROJECT["project"]["dependencies"]}
    assert listed == {"numpy", "array-api-compat"}


def test_the_linters_are_pinned():
    pinned = {
        entry for entry in PROJECT["project"]["optional-dependencies"]["dev"] if "==" in entry
    }
    assert {entry.split("==")[0] for entry in pinned} == {"ruff", "mypy"}


def test_training_needs_no_framework():
    assert not requirements("tasks") & {"torch", "jax", "cupy-cuda12x"}


def test_the_version_of_the_distribution_is_the_one_of_the_package():
    assert importlib.metadata.version("gatecore-rnn") == gatecore.__version__
    assert f"version: {gatecore.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_the_package_is_marked_as_typed():
    assert (FOLDERS["gatecore"] / "py.typed").is_file()


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"), reason="not in a git checkout"
)
def test_no_file_names_a_path_of_some_machine():
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in repository_files()
        if file.suffix in TEXT
        for match in [MACHINE.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert not found


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"), reason="not in a git checkout"
)
def test_nothing_installs_or_looks_up_the_package_of_a_stranger():
    """An index has another project called gatecore; this distribution is gatecore-rnn."""
    assert PROJECT["project"]["name"] == "gatecore-rnn"
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in repository_files()
        if file.suffix in {*TEXT, ".j2", ".cpp", ".h"} and file != Path(__file__)
        for match in STRANGER.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == ['tasks/training/provenance.py: distribution("gatecore")']  # of old checkouts


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("pip install gatecore", True),
        ("pip install -U 'gatecore[tasks]'", True),
        ("the extra `gatecore[torch]`", True),
        ("gatecore>=0.1", True),
        ('importlib.metadata.version("gatecore")', True),
        ("pip install 'gatecore-rnn[tasks]'", False),
        ("pip install '.[analysis]' in gatecore's source folder", False),
    ],
)
def test_that_check_knows_the_former_name(text, refused):
    assert bool(STRANGER.search(text)) == refused


@pytest.mark.parametrize("part", ["analysis", "backends", "tasks"])
def test_editors_find_the_subpackages_in_a_checkout(part):
    if not any((ROOT / "gatecore" / name).is_symlink() for name in ("analysis", "backends")):
        pytest.skip("the links are made by `make test`, which did not set this checkout up")
    spec = importlib.machinery.PathFinder.find_spec(f"gatecore.{part}", [str(ROOT / "gatecore")])
    assert spec is not None
    assert Path(spec.origin).resolve() == ROOT / part / "__init__.py"


def test_the_answers_of_the_architecture_page_are_paths_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    answers = page.partition("## Where things are")[2].partition("## ")[0]
    paths = re.findall(r"`((?:gatecore|backends|tasks)/[\w/.]+)`", answers)
    assert len(set(paths)) >= 4
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert "def refine(" in (ROOT / paths[0]).read_text(encoding="utf-8")
