"""Every example in a docstring or in the documentation's pages gives what it says."""

import doctest
import importlib
import importlib.util

import numpy as np
import pytest

from tests.packaging.layout import ROOT, modules

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.REPORT_NDIFF
FRAMEWORKS = ("torch", "jax", "keras")
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
]


def skip_without(framework):
    """Skip if ``framework`` is one that is not installed."""
    if framework in FRAMEWORKS and not importlib.util.find_spec(framework):
        pytest.skip(f"{framework} is not installed")


def run(test):
    """Run one collection of examples; the report of its failures is the assertion's message."""
    report = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", [name for name, _ in modules() if not name.endswith("__main__")])
def test_docstring_examples(name):
    framework = name.split(".")[2] if name.startswith("gatecore.backends.") else ""
    skip_without(framework)
    # cupy needs a GPU as well; the ImportErrors say what is missing
    if framework == "cupy" or name.endswith(".lightning"):
        pytest.importorskip(name, exc_type=ImportError)
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder().find(module, name, extraglobs={"np": np}):
        run(test)


# Keras warns of itself, with NumPy 2
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples_in_the_pages(page):
    skip_without(page.stem)
    parser = doctest.DocTestParser()
    text = page.read_text(encoding="utf-8").replace("```", "\n")  # a fence ends an expected output
    run(parser.get_doctest(text, {}, page.name, str(page), 0))
