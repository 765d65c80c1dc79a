"""The blocks of code and the commands of the README and of the documentation's pages."""

import re
import shlex
from typing import NamedTuple

from tests.packaging.layout import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if "generated" not in page.parts),
]
FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1 *$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^[$#] (.*)", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its page, its language, its text."""

    page: str
    language: str
    text: str


def blocks():
    """Every fenced block of every page."""
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for fence in FENCE.finditer(page.read_text(encoding="utf-8")):
            yield Block(name, fence[2].strip(), fence[3])


def commands():
    """Every command after a prompt: its page and its words, without comments."""
    for block in blocks():
        if block.language in ("console", "bash"):
            text = re.sub(r"\\\n *", "", block.text)
            lines = PROMPT.findall(text) if block.language == "console" else text.splitlines()
            for line in lines:
                if words := shlex.split(line, comments=True):
                    yield block.page, words
