"""Take the picture of a report that docs/report.md shows, ``docs/_static/report.png``.

``make run``, then ``python docs/screenshot.py runs/report.html``. Needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from check_browser import BROWSERS

PICTURE = Path(__file__).resolve().parent / "_static" / "report.png"
SIZE = "1280,1470"  # CSS pixels: the summary, the table and the first figures


def main() -> None:
    """Write the picture of the page that is named on the command line."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"needs Chromium: none of {', '.join(BROWSERS)} was found")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   f"--user-data-dir={profile}", f"--window-size={SIZE}", f"--screenshot={PICTURE}",
                   Path(sys.argv[1]).resolve().as_uri()]  # fmt: skip
        subprocess.run(command, capture_output=True, timeout=120, check=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
