"""The tutorials as notebooks: made from their pages, run from top to bottom at the build, linked.

A block of ``pycon`` becomes a code cell for each value it shows, a ``{cell}`` one code cell; the
text between them is kept. nbclient runs the notebooks, and an error that the page does not announce
is an error of the build.
"""

import doctest
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DOCS = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in (DOCS / "tutorials").glob("*.md") if path.stem != "index")
MADE = DOCS / "generated" / "notebooks"
BLOCK = re.compile(r"^```(?P<kind>pycon|\{cell\})\n(?P<code>.*?)^```\n?", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!https?:)[^)]+\)")
START = "%matplotlib inline"


def notebook(page: str) -> nbformat.NotebookNode:
    """The notebook of a page of MyST Markdown.

    >>> session = "```pycon\\n>>> x = 2\\n>>> x + 1\\n3\\n\\n```\\n"
    >>> page = "# Title\\n\\n" + session + "See [gates](../gates.md).\\n"
    >>> [(cell.cell_type, cell.source) for cell in notebook(page).cells]
    [('markdown', '# Title'), ('code', '%matplotlib inline'), ('code', 'x = 2\\nx + 1'),
     ('markdown', 'See gates.')]
    """
    cells, position = [], 0
    for block in BLOCK.finditer(page):
        cells += _text(page[position : block.start()])
        cells += _session(block["code"]) if block["kind"] == "pycon" else _cell(block["code"])
        position = block.end()
    cells += _text(page[position:])
    cells.insert(1, new_code_cell(START))
    made = new_notebook(cells=cells)
    made.metadata.kernelspec = dict(name="python3", display_name="Python 3", language="python")
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # not random: the same page gives the same file
    return made


def _text(text: str) -> list[nbformat.NotebookNode]:
    """Links to other pages lead nowhere from a file: their words stay, their pictures do not."""
    plain = LINK.sub(lambda link: "" if link[1] else link[2], text).strip()
    return [new_markdown_cell(plain)] if plain else []


def _session(code: str) -> list[nbformat.NotebookNode]:
    """A code cell for each value that a session shows."""
    cells, lines = [], ""
    for example in doctest.DocTestParser().get_examples(code):
        lines += example.source
        if example.want:
            cells.append(new_code_cell(lines.rstrip()))
            if example.exc_msg is not None:
                cells[-1].metadata.tags = ["raises-exception"]
            lines = ""
    return [*cells, *([new_code_cell(lines.rstrip())] if lines else [])]


def _cell(code: str) -> list[nbformat.NotebookNode]:
    """The code of a ``{cell}`` without its options."""
    return [new_code_cell(re.sub(r"\A(:[\w-]+:.*\n)+", "", code).strip())]


def make(app: Sphinx) -> None:
    """Write the notebook of each tutorial, with its outputs, unless the page is unchanged."""
    MADE.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        file = MADE / f"{page.stem}.ipynb"
        if file.exists() and file.stat().st_mtime > page.stat().st_mtime:
            continue
        made = notebook(page.read_text(encoding="utf-8"))
        try:
            quiet = ["--Application.log_level=ERROR"]
            NotebookClient(made, timeout=600, extra_arguments=quiet).execute()
        except CellExecutionError as error:
            raise ExtensionError(f"{page.name} as a notebook: {error}") from error
        nbformat.write(made, file)


def link(app: Sphinx, docname: str, source: list[str]) -> None:
    """End a tutorial with a link to its notebook."""
    folder, _, name = docname.rpartition("/")
    if folder == "tutorials" and name != "index":
        source[0] += (
            f"\n\n{{download}}`This page as a notebook <../generated/notebooks/{name}.ipynb>`\n"
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", make)
    app.connect("source-read", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
