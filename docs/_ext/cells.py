"""Directives that run when a page is built: ``{cell}`` runs Python, ``{claim}`` checks a claim.

All cells of a page share one namespace. The value of a cell's last line is printed below it: a
matplotlib figure as a picture, a SymPy expression as a formula, anything else by its repr. An
error in a cell is an error of the build.
"""

import ast
import contextlib
import functools
import io
from pathlib import Path
from typing import Any, ClassVar

import matplotlib
import numpy as np
import sympy
from docutils import nodes
from docutils.parsers.rst import directives
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import gatecore
from gatecore import analysis
from gatecore.analysis import claims
from gatecore.tasks.cli.claims import propositions

PICTURES = Path(__file__).resolve().parents[1] / "generated" / "cells"
SOURCES = [
    file
    for package in (gatecore, analysis)
    for file in sorted(Path(str(package.__file__)).parent.glob("*.py"))
]
_namespaces: dict[str, dict[str, Any]] = {}


class Cell(SphinxDirective):
    """Python code followed by its result."""

    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged, "hide-code": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Nodes of the code, of its output and of its value."""
        for file in SOURCES:
            self.env.note_dependency(str(file))
        space = _namespaces.setdefault(self.env.docname, {"np": np, "gatecore": gatecore})
        code = "\n".join(self.content)
        printed, value = execute(code, space)
        output: list[nodes.Node] = []
        if "hide-code" not in self.options:
            output.append(nodes.literal_block(code, code, language="python"))
        if printed:
            output.append(nodes.literal_block(printed, printed, language="text"))
        return [*output, *self._value(value)]

    def _value(self, value: Any) -> list[nodes.Node]:
        if value is None:
            return []
        if isinstance(value, Figure):
            return [nodes.image(uri=self._picture(value), alt=self.options["alt"])]
        if isinstance(value, sympy.Basic):
            text = sympy.latex(value)
            return [
                nodes.math_block(text, text, number=None, label=None, docname=None, nowrap=False)
            ]
        text = repr(value)
        return [nodes.literal_block(text, text, language="text")]

    def _picture(self, figure: Figure) -> str:
        PICTURES.mkdir(parents=True, exist_ok=True)
        name = f"{self.env.docname.replace('/', '-')}-{self.lineno}.svg"
        with matplotlib.rc_context({"svg.hashsalt": name}):
            figure.savefig(PICTURES / name, metadata={"Date": None})
        return f"/generated/cells/{name}"


class Claim(SphinxDirective):
    """A claim of the paper by its name, with its verdict and the evidence."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """An admonition: the paper's statement, the truth and the evidence."""
        for file in SOURCES:
            self.env.note_dependency(str(file))
        claim = checked_claims()[self.arguments[0]]
        if not claim.ok:
            raise self.error(f"{claim.name}: {claim.verdict}: {claim.evidence}")
        box = nodes.admonition(classes=["claim"])
        box += nodes.title("", f"{claim.name}: {claim.verdict}")
        for label, text in (("The paper", claim.statement), ("True", claim.truth)):
            if not text:  # the paper does not state it
                continue
            box += nodes.paragraph("", "", nodes.strong("", f"{label}: "), nodes.Text(f"{text}."))
        facts = nodes.bullet_list()
        for fact in claim.evidence.split("; "):
            facts += nodes.list_item("", nodes.paragraph("", fact))
        box += nodes.paragraph("", "", nodes.strong("", f"Evidence, by {claim.method}:"))
        box += facts
        return [box]


class Claims(SphinxDirective):
    """The table of all claims and verdicts; of ``findings`` with that argument."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A table."""
        found = [c for c in checked_claims().values() if bool(c.statement) != bool(self.arguments)]
        rows = "\n".join(f"| {c.name} | {c.verdict} | {c.method} |" for c in found)
        return self.parse_text_to_nodes(
            f"| claim | verdict | how |\n|---|---|---|\n{rows}\n".replace("~", "\\~")
        )


class Measurements(SphinxDirective):
    """The table of the paper's claims on measurements, and the state of our evidence."""

    def run(self) -> list[nodes.Node]:
        """A table."""
        rows = "\n".join(
            f"| {e.claim} | {e.state} | {e.note} | {'; '.join(group for _, group in e.runs)} |"
            for e in claims.empirical()
        )
        head = "| the paper | evidence | ours | runs |\n|---|---|---|---|\n"
        return self.parse_text_to_nodes(f"{head}{rows}\n")


@functools.cache
def checked_claims() -> dict[str, claims.Claim]:
    """All claims by name, checked once for a build."""
    return {claim.name: claim for claim in (p.judge() for p in propositions())}


def execute(code: str, space: dict[str, Any]) -> tuple[str, Any]:
    """The output of the code, and the value of its last line if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), space)  # noqa: S102
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last else None  # noqa: S307
    return printed.getvalue().rstrip(), value


def fresh(app: Sphinx, docname: str, source: list[str]) -> None:
    """Drop the namespace of a page that is read again."""
    _namespaces.pop(docname, None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("cell", Cell)
    app.add_directive("claim", Claim)
    app.add_directive("claims", Claims)
    app.add_directive("measurements", Measurements)
    app.connect("source-read", fresh)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
