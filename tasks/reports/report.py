"""The report of a folder of runs: an HTML page, JSON and CSV."""

import os
from pathlib import Path

from gatecore.tasks.reports.aggregate import Report
from gatecore.tasks.reports.collect import read
from gatecore.tasks.reports.export import data, table
from gatecore.tasks.safe_files import descriptor
from gatecore.tasks.training.atomic_files import RunError, output_folder, replace

__all__ = ["Report", "check_free", "data", "read", "table", "write"]

PAGE, DATA, TABLE = NAMES = ("report.html", "results.json", "results.csv")
_MARK = b'<meta name="generator" content="gatecore '


def write(report: Report, out: str | os.PathLike[str]) -> Path:
    """Write report.html, results.json and results.csv to the folder ``out``, made if missing.

    Return the page's path. Equal runs give an equal page, byte for byte. RunError if ``out`` cannot
    be written, or holds files of these names that are not a report's.

    >>> import tempfile
    >>> from gatecore.tasks import report
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report.write(report.read(folder), folder).name
    'report.html'
    """
    from gatecore.tasks.reports.html import render  # matplotlib and Jinja take a second to load

    check_free(out := Path(out))
    with output_folder(out):
        out.mkdir(parents=True, exist_ok=True)
    texts = {TABLE: table(report), DATA: data(report), PAGE: render(report)}
    for name, text in texts.items():
        replace(out / name, text.encode("utf-8", "replace"))
    return out / PAGE


def check_free(out: Path) -> None:
    """Raise RunError if a report in ``out`` would replace other files. Writes nothing."""
    with output_folder(out):
        present = [name for name in NAMES if os.path.lexists(out / name)]
        head = b""
        if PAGE in present:
            with open(descriptor(out / PAGE), "rb") as stream:
                head = stream.read(4096)
    if present and _MARK not in head:
        raise RunError(f"{out / present[0]} is not of a report of gatecore, and would be replaced: "
                       "move it, or choose another output folder")  # fmt: skip
