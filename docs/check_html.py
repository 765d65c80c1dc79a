"""Check of the built pages: rendered formulas, valid internal links, no external resources.

python docs/check_html.py docs/_build/html
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

TEX = re.compile(r"\\(?:frac|bar|hat|sigma|operatorname|begin|left|text|sum|log)\b|\$[^$\s][^$]*\$")
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src")}
NOT_FETCHED = {"canonical", "search", "index", "next", "prev", "author", "copyright"}


class Page(HTMLParser):
    """The text of a page, its links, and the resources that a browser fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.fetched, self.anchors = [], [], set()
        self.text, self.code = [], 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect links, anchors and fetched resources."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        for name in ("src", "href"):
            if (tag, name) in FETCHED and name in values and values.get("rel") not in NOT_FETCHED:
                self.fetched.append(values[name])
        if tag in ("pre", "code", "script", "style"):
            self.code += 1

    def handle_endtag(self, tag: str) -> None:
        """End of code, where a dollar is no formula."""
        if tag in ("pre", "code", "script", "style"):
            self.code -= 1

    def handle_data(self, data: str) -> None:
        """Collect prose."""
        if not self.code:
            self.text.append(data)


def problems(root: Path) -> list[str]:
    """The errors of the pages under ``root``."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    errors = [] if pages else [f"no pages under {root}"]
    for path, page in pages.items():
        name = path.relative_to(root)
        errors += [
            f"{name}: TeX left unrendered: {m.group()}" for t in page.text for m in TEX.finditer(t)
        ]
        errors += [f"{name}: fetches {url}" for url in page.fetched if urlsplit(url).netloc]
        errors += [
            f"{name}: broken link {url}" for url in page.links if not _leads(path, url, pages)
        ]
    return errors


def _leads(path: Path, url: str, pages: dict[Path, Page]) -> bool:
    """Whether a link has a target; links to other sites are not followed."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        return True
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
    if not target.exists():
        return False
    page = {p.resolve(): page for p, page in pages.items()}.get(target)
    return page is None or not parts.fragment or unquote(parts.fragment) in page.anchors


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    print("\n".join(wrong) or "all formulas rendered, all links valid, no external resources")
    sys.exit(bool(wrong))
