"""MathML for formulas, made when the pages are built: viewing needs no script and no network.

A mathematical font is copied along, since not every system has one.
"""

import importlib.resources
import shutil
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

FONT = importlib.resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"


def inline(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line of text."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A displayed formula."""
    translator.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def copy_font(app: Sphinx, error: Exception | None) -> None:
    """Copy the font beside the style sheet that names it."""
    if error is None:
        with importlib.resources.as_file(FONT) as font:
            shutil.copy(font, Path(app.outdir) / "_static")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.config.html_math_renderer = "mathml"
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
