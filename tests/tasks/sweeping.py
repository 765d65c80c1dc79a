"""Sweeps small enough for a test, and their results."""

import json
import os
import signal
import subprocess
import sys
import time

from gatecore.tasks import SweepConfig, load_run
from tests.tasks.tiny import SETS, SIZES


def tiny_sweep(out, **settings):
    """A sweep over U and UR whose trials are those of `tiny`."""
    sizes = {name: value for name, value in {**SIZES, **SETS}.items() if name != "steps"}
    values = sizes | settings.pop("set", {})
    settings = {"steps": SIZES["steps"], "mechanisms": "U,UR", **settings}
    return SweepConfig.of("copying", out=out, set=values, **settings)


def command(out, *extra, **changes):
    """The command line of the same sweep."""
    settings = {**SIZES, **SETS, **changes}
    words = ["--steps", settings.pop("steps"), "--out", out]
    words += [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
    names = () if "--mechanisms" in extra else ("--mechanisms", "U,UR")
    return list(map(str, [sys.executable, "-m", "gatecore.tasks.cli", "sweep", "copying", *names,
                          *words, *extra]))  # fmt: skip


def start(out, *extra, **changes):
    """A sweep as a process of its own."""
    return subprocess.Popen(
        command(out, *extra, **changes), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(happened, seconds=120):
    """The first true value of `happened()`."""
    end = time.monotonic() + seconds
    while not (value := happened()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return value


def step(folder):
    """The step of a run's last checkpoint."""
    try:
        return json.loads((folder / "state.json").read_text())["step"]
    except FileNotFoundError:
        return 0


def worker(folder):
    """The process that trains in a folder now; None without one."""
    try:
        return int((folder / ".lock").read_text().rpartition(" ")[2])
    except (OSError, ValueError):
        return None


def killed(pid):
    """Kill a process; whether it was alive."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def strike(folders, hit=killed, after=0):
    """The first folder with a checkpoint beyond a step whose process ``hit`` returns true for."""

    def struck():
        for folder in folders:
            if step(folder) > after and (pid := worker(folder)) and hit(pid):
                return folder

    return wait_for(struck)


def kill(folder, after=0):
    """Kill the process that trains in a folder; the step of its last checkpoint."""
    return step(strike([folder], after=after))


def record(out):
    """The events in a sweep's record."""
    lines = (out / "sweep.jsonl").read_text().splitlines()
    return [(line["trial"], line["event"]) for line in map(json.loads, lines)]


def ends(out):
    """How often each trial ended, by the record."""
    names = [trial for trial, event in record(out) if event in ("finished", "diverged")]
    return {name: names.count(name) for name in names}


def results(out):
    """Metrics and test scores of all trials."""
    runs = [load_run(path.parent) for path in out.glob("*/config.json")]
    return {run.folder.name: (run.metrics, run.summary["test"]) for run in runs}
