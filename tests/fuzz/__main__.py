"""Hostile input and faults, at random: ``make fuzz``, or ``python -m tests.fuzz --seconds 600``.

Each class of cases runs in child processes, so that a crash, a hang or a flood of memory ends one
case and not the campaign. Equal seeds give equal cases. The classes, with the counts of a full
campaign:

kills      SIGKILLs at random moments, compared file by file with undisturbed runs
arguments  values of every kind for the arguments of settings, models and environments
commands   command lines
damage     run folders with damaged files: an error, or the values that were written
links      links and devices planted in folders of runs, sweeps, reports and corpora
files      data files that are damaged or built to crash their reader
names      folders and mechanisms with names that are markup, escapes, formulas or code

The exit status is 1 if any case ended with a traceback, a hang (10 s), a crash, a wrong result, a
file written outside its folder, or more than 1 GB of memory.
"""

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

CLASSES = {  # cases of a full campaign, share of the budget, seconds after which a case hangs
    "kills": (120, 0.25, 120),
    "arguments": (20_000, 0.2, 10),
    "commands": (500, 0.15, 10),
    "damage": (1000, 0.15, 10),
    "links": (200, 0.1, 10),
    "files": (500, 0.1, 10),
    "names": (100, 0.05, 10),
}
START = 60  # seconds that a child may take until its first case


def child(name, seed, first, folder):
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.worker", name, seed, first, folder]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=os.environ | {"HOME": folder, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def lines(process):
    """A queue of the child's lines, with None at its end, and the thread that fills it."""
    found = queue.Queue()

    def read():
        for line in process.stdout:
            found.put(line)
        found.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return found, reader


def campaign(name, seed, seconds, count, patience):
    """Cases of one class until its count or its time is reached: how many, and the findings."""
    done, findings, end = 0, [], time.monotonic() + seconds
    while done < count and time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="gatecore-fuzz-", ignore_cleanup_errors=True) as to:
            process = child(name, seed, done, to)
            (found, reader), case, wait = lines(process), "its start", START
            while done < count and time.monotonic() < end:
                try:
                    line = found.get(timeout=wait)
                except queue.Empty:
                    findings.append(f"case {done}: hangs: {case}")
                    done += 1
                    break
                if line is None:
                    error = process.stderr.read()[-400:]
                    findings.append(f"case {done}: ended with {process.wait()}: {case} {error}")
                    done += 1
                    break
                record, wait = json.loads(line), patience
                if "case" in record:
                    case = record["case"]
                    continue
                if record["finding"]:
                    findings.append(f"case {done}: {record['finding']}: {case}")
                done += 1
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
            process.stdout.close()
            process.stderr.close()
    return done, findings


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("classes", nargs="*", help=f"default: {' '.join(CLASSES)}")
    parser.add_argument("--seconds", type=float, default=1800, help="budget of all together")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.classes or list(CLASSES)
    total, failed = sum(CLASSES[name][1] for name in names), 0
    for name in names:
        count, share, patience = CLASSES[name]
        start = time.monotonic()
        budget = options.seconds * share / total
        done, findings = campaign(name, options.seed, budget, count, patience)
        failed += len(findings)
        print(f"{name:<10} {done:>6} of {count} cases, {len(findings)} findings, "
              f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
        for finding in findings[:50]:
            print(f"    {finding[:600]}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
