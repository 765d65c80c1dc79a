"""Sizes and words of the library's source, as docs/contributing.md states them."""

import ast
import statistics

import pytest

from tests.packaging.layout import FOLDERS, modules

TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in modules()}
SOURCES = [
    file
    for folder in FOLDERS.values()
    for file in sorted(folder.rglob("*"))
    if file.suffix in (".py", ".h", ".cpp", ".cu", ".cuh")
]
CORES = {"lstm", "gru", "minimal", "mingru", "rmc", "dnc", "rma"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def documented(tree):
    """The module, the classes and the functions of a module."""
    return [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, *FUNCTIONS))]


def strings(node):
    """The strings that an expression lists."""
    entries = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {entry.value for entry in entries if isinstance(entry, ast.Constant)}


def test_no_file_is_longer_than_400_lines():
    lengths = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_the_median_function_has_at_most_seven_lines():
    functions = [n for t in TREES.values() for n in ast.walk(t) if isinstance(n, FUNCTIONS)]
    assert statistics.median(n.end_lineno - n.lineno + 1 for n in functions) <= 7


def test_code_asks_a_cell_and_not_for_the_name_of_a_core():
    comparisons = [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(strings(side) & CORES for side in (node.left, *node.comparators))
    ]
    assert len(comparisons) <= 10, comparisons


@pytest.mark.parametrize("module", TREES)
def test_a_docstring_says_what_the_thing_is(module):
    openings = [
        (ast.get_docstring(node) or "").partition(" ")[0] for node in documented(TREES[module])
    ]
    assert "What" not in openings
