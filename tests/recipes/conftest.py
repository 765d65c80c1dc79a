"""The examples of docs/with.md and docs/jax.md, each run in an empty folder, as a module."""

import re
import sys
import types

import pytest

from tests.packaging.layout import ROOT

torch = pytest.importorskip("torch", reason="torch is not installed")
DOCS = ROOT / "docs"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Runs the example under a heading of a page; returns its module."""

    def run(heading, page="with.md"):
        path = DOCS / page
        text = path.read_text(encoding="utf-8")
        start = text.index(f"\n## {heading}\n")
        code = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL).search(text, start)
        before = text.count("\n", 0, code.start(1))  # so that a traceback names the page's line
        module = types.ModuleType("recipe")
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, "recipe", module)  # for pickle, and for transformers
        exec(compile("\n" * before + code[1], path, "exec"), vars(module))  # noqa: S102
        return module

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch._dynamo.reset()
    return run


@pytest.fixture
def moved():
    """The names of the parameters that differ from those of another model."""

    def names(model, before):
        pairs = zip(model.named_parameters(), before.parameters(), strict=True)
        return {name for (name, value), old in pairs if not torch.equal(value, old)}

    return names
