"""Load every page in a browser, narrow and wide, light and dark, and list what is wrong.

``python docs/check_browser.py docs/_build/html``. A page is wrong if it scrolls sideways, raises an
error, has a picture that does not load or has no description, has no main part or language, or has
text of a contrast below 4.5 to its background (3 for large text). Without Chromium nothing is
checked, and the last line says so.
"""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

BROWSERS = "chromium", "chromium-browser", "google-chrome"
TRIES = 3  # a headless browser sometimes ends before the page has
WIDTHS = 390, 1280  # CSS pixels: a phone, a small laptop
BATCH = 6  # pages for one browser: in one that loads them all, the last ones may not load
SCRIPT = """
<!doctype html><title></title><script>
const pages = %s, widths = %s, wrong = [];
async function look(page, width, theme) {
  const frame = document.createElement("iframe"), where = `${page} at ${width} px, ${theme}`;
  frame.style.cssText = `width: ${width}px; height: 900px`;
  localStorage.setItem("theme", theme);
  const loaded = new Promise(done => { frame.onload = done; });
  frame.src = page;
  document.body.append(frame);
  const inside = frame.contentWindow;
  inside.addEventListener("error", event => wrong.push(`${where}: ${event.message}`));
  await loaded;
  const root = frame.contentDocument.documentElement;
  if (root.scrollWidth > root.clientWidth)
    wrong.push(`${where}: scrolls sideways, ${root.scrollWidth} px`);
  for (const image of frame.contentDocument.images) {
    const name = image.getAttribute("src");
    image.loading = "eager";
    await image.decode().catch(() => wrong.push(`${where}: ${name} is missing`));
    if (!image.alt.trim()) wrong.push(`${where}: ${name} has no description`);
  }
  if (!root.lang || !frame.contentDocument.querySelector("main, [role=main]"))
    wrong.push(`${where}: no language or no main part`);
  for (const found of faint(inside, root)) wrong.push(`${where}: ${found}`);
  frame.remove();
}
// the colour of a style as (red, green, blue, opacity), and its relative luminance (WCAG 2)
const parts = color => [...color.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
const luminance = color => parts(color).slice(0, 3)
  .map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
  .reduce((sum, x, k) => sum + x * [0.2126, 0.7152, 0.0722][k], 0);
// text that hardly differs from its background, once for each pair of colours
function faint(view, root) {
  const seen = new Map();
  for (const element of root.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join("");
    if (!text.trim() || !element.checkVisibility({visibilityProperty: true})) continue;
    const style = view.getComputedStyle(element);
    let behind = element, back = style.backgroundColor;
    while (parts(back)[3] < 1 && (behind = behind.parentElement))
      back = view.getComputedStyle(behind).backgroundColor;
    if (!behind || !/^rgb/.test(style.color)) continue;
    const [low, high] = [luminance(style.color), luminance(back)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < needed)
      seen.set(style.color + back, `contrast ${ratio.toFixed(1)} of "${text.trim().slice(0, 30)}"`);
  }
  return seen.values();
}
onload = async () => {
  for (const width of widths)
    for (const theme of ["light", "dark"])
      for (const page of pages) await look(page, width, theme);
  document.title = JSON.stringify(wrong);
};
</script><body></body>
"""


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    """A server of the folder on a free port of the loopback interface."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def problems(browser: str, folder: Path) -> list[str]:
    """What is wrong with the pages of a folder, in the browser's words."""
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    pages = [page for page in pages if not page.startswith("_modules/")]  # the sources
    check = folder / "check-browser.html"
    server = serve(folder)
    found = []
    try:
        for batch in (pages[start : start + BATCH] for start in range(0, len(pages), BATCH)):
            check.write_text(SCRIPT % (json.dumps(batch), json.dumps(WIDTHS)), "utf-8")
            address = f"http://127.0.0.1:{server.server_port}/{check.name}"
            for _ in range(TRIES):
                if (answer := _problems(browser, address)) is not None:
                    break
            found += ["the browser did not finish"] if answer is None else answer
    finally:
        server.shutdown()
        check.unlink()
    return found


def _problems(browser: str, address: str) -> list[str] | None:
    """The problems that a page with ``SCRIPT`` finds; None if it was left before its end."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu",
                   f"--user-data-dir={profile}", "--window-size=1600,1000",
                   "--virtual-time-budget=600000", "--dump-dom", address]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    if not title or not title[1]:
        return None
    found: list[str] = json.loads(html.unescape(title[1]))
    return found


def main() -> None:
    """Print the problems; the exit status is 1 if there are any."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium: the pages were not loaded in a browser")
        return
    found = problems(browser, Path(sys.argv[1]))
    print("\n".join(found) or "every page loads and fits at 390 and 1280 px, light and dark")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
