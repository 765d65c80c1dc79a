"""Sphinx settings: MyST pages, docstrings as reference, mathematics as MathML in the pages."""

import os
import sys
from pathlib import Path

import gatecore

os.environ.setdefault("KERAS_BACKEND", "torch")  # the reference imports the Keras layers
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "gatecore"
author = "gatecore contributors"
copyright = "2026, gatecore contributors"
release = gatecore.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
    "generated",
    "cells",
    "notebooks",
]
exclude_patterns = ["_build", "generated"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
viewcode_follow_imported_members = False  # inherited members would give links to no target
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give shapes, which say more than `Any`
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "furo"
html_title = f"gatecore {release}"
html_static_path = ["_static"]
html_css_files = ["gatecore.css"]
html_show_sphinx = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
