"""Every command and every block of code on the pages works; every path that they name exists."""

import ast
import re
import tomllib

import pytest
from click.testing import CliRunner

from gatecore.tasks import SweepConfig
from gatecore.tasks.cli import sweep as sweep_command
from gatecore.tasks.cli.commands import main
from gatecore.tasks.problems.language import task as language
from gatecore.tasks.sweeps.scheduler import Swept
from tests.packaging.layout import PROJECT, ROOT
from tests.packaging.pages import PAGES, blocks, commands

EXTRAS = set(PROJECT["project"]["optional-dependencies"])
# of a page: why its blocks of Python are not run here
NOT_RUN = {
    "docs/with.md": "`make recipes` runs them",
    "docs/cupy.md": "they need a GPU",
    "docs/sweeps.md": "they need a cluster",
}
NOT_INSTALLED = ("import haiku",)  # `make recipes` runs it
MADE = ("docs/_build/html", "benchmarks/results/gpu-layers.json")  # by a command beside them
# commands of other programs, which their own projects test
FOREIGN = {"dask", "ssh", "export", "for", "done", "tensorboard", "apt-get"}
COMMANDS = sorted({(page, *words) for page, words in commands()})
PYTHON = [
    block
    for block in blocks()
    if block.language == "python" and ">>>" not in block.text and block.page not in NOT_RUN
]


def named(*names):
    """The commands of gatecore with one of these names, as parameters of a test."""
    found = [
        words for _, program, *words in COMMANDS if program == "gatecore" and words[0] in names
    ]
    assert {words[0] for words in found} == set(names)
    return pytest.mark.parametrize("words", found, ids=" ".join)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and current folder, but for small corpora in place of those on the pages."""
    monkeypatch.chdir(tmp_path)
    wikitext, texts = tmp_path / "data" / "wikitext-103", tmp_path / "texts"
    wikitext.mkdir(parents=True)
    texts.mkdir()
    words = " ".join(map(str, range(200_001)))  # above the last cutoff of the adaptive softmax
    for split, text in {"train": words, "valid": "0 1", "test": "2 3"}.items():
        (wikitext / f"wiki.{split}.tokens").write_text(text, encoding="utf-8")
        (texts / f"{split}.txt").write_text("a b a b a b", encoding="utf-8")
    monkeypatch.setattr(language, "_WIKITEXT103", {})  # the token counts
    return tmp_path


@named("train")
def test_a_training_command_is_accepted(words, home):
    words = [word.replace("~/", f"{home}/") for word in words]
    result = CliRunner().invoke(main, [*words, "--dry-run"])
    assert result.exit_code == 0, result.output


@named("sweep")
def test_a_sweep_is_accepted(words, home, monkeypatch):
    configs = []

    def record(config, display):
        configs.append(config)
        return Swept(config.out, {}, {})

    monkeypatch.setattr(sweep_command, "run_sweep", record)
    words = [word.replace("~/", f"{home}/") for word in words]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert len(configs[0].trials()[0]) > 0


@named("gates", "report", "verify", "figures")
def test_a_command_takes_its_arguments(words):
    main.commands[words[0]].make_context(words[0], words[1:])


def test_the_file_of_a_sweep_is_accepted():
    (toml,) = (block.text for block in blocks() if block.language == "toml")
    keys = tomllib.loads(toml)
    trials, _ = SweepConfig.of(keys.pop("task"), **keys).trials()
    assert trials


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c[1:4]))
def test_every_program_on_the_pages_is_known(command):
    page, program, *words = (word for word in command if not re.match(r"[A-Z_]+=", word))
    if program == "pip":
        extras = re.search(r"\.\[([\w,]+)\]", " ".join(words))
        assert not extras or set(extras[1].split(",")) <= EXTRAS
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert f"\n{words[0]}:" in makefile
    elif program in ("python", "python3"):
        assert words[0] == "-m" or (ROOT / words[0]).is_file()
    elif program in ("srun", "torchrun"):
        assert "gatecore" in " ".join(words)
    else:
        assert program == "gatecore" or program in FOREIGN, page


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", PYTHON, ids=lambda b: f"{b.page}: {b.text.splitlines()[0]}")
def test_a_block_of_python_runs(block, tmp_path, monkeypatch):
    if any(name in block.text for name in NOT_INSTALLED):
        pytest.skip("needs a library that the tests do not install")
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.page, "exec"), {})  # noqa: S102


@pytest.mark.parametrize("page", NOT_RUN)
def test_a_block_of_python_that_is_not_run_is_python(page):
    texts = [b.text for b in blocks() if (b.page, b.language) == (page, "python")]
    assert all(ast.parse(text) for text in texts if ">>>" not in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    paths = re.findall(
        r"[` ]((?:\.ci|gatecore|backends|tasks|analysis|benchmarks|docs|tests)/[\w./-]*\w)", text
    )
    named = {path for path in paths if not path.endswith("-v0")} - set(MADE)  # -v0: of gymnasium
    assert not [path for path in named if not (ROOT / path).exists()]
