"""A child of the campaign: runs the cases of one class, and reports each in a line of JSON.

``python -m tests.fuzz.worker CLASS SEED FIRST FOLDER``
"""

import json
import os
import random
import resource
import sys
import traceback
from pathlib import Path

from tests.fuzz import classes

LIMIT = 1 << 30  # bytes that a case may add


def snapshot(folder):
    """Names, kinds and contents below a folder."""
    content = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            content[str(path)] = path.read_bytes() if path.is_file() else path.is_dir()
    return content


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def data_size():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))


def main(name, seed, first, folder):
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is none of the records
    folder = Path(folder)
    canary = folder / "canary"
    (canary / "folder").mkdir(parents=True)
    (canary / "file").write_text("unchanged")
    (canary / "folder" / "inner").write_text("unchanged")
    os.chdir(folder)
    cases = getattr(classes, name.capitalize())(folder, canary)
    untouched, k = snapshot(canary), int(first)
    if Path("/proc/self/status").exists():  # a flood ends as a MemoryError, not with the machine
        resource.setrlimit(resource.RLIMIT_DATA, (data_size() + 4 * LIMIT,) * 2)
    while True:
        rng, before = random.Random(f"{name} {seed} {k}"), peak()

        def say(case):
            report.write(json.dumps({"case": repr(case)[:400]}) + "\n")
            report.flush()

        try:
            finding = cases.run(rng, say)
        except classes.REFUSED as error:
            finding = cases.check(error)
        except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
            where = traceback.extract_tb(error.__traceback__)[-1]
            finding = (
                f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
            )
        if peak() - before > LIMIT:
            finding = f"took {(peak() - before) >> 20} MB; {finding}"
        if snapshot(canary) != untouched:
            finding = f"wrote outside its folder; {finding}"
            untouched = snapshot(canary)
        report.write(json.dumps({"finding": finding}) + "\n")
        report.flush()
        k += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
