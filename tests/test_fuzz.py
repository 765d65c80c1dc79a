"""The campaign of ``make fuzz`` itself: it finds what it is to find, and counts."""

import subprocess
import sys

import pytest

from tests.fuzz import __main__ as fuzz

SAY = "import json, os, sys, time; say = lambda **r: print(json.dumps(r), flush=True); "


@pytest.mark.parametrize(
    ("script", "findings"),
    [
        ("say(case='a'); say(finding=None); say(case='b'); say(finding=None)", []),
        ("say(case='a'); say(finding='wrong'); say(case='b'); say(finding=None)", ["wrong: a"]),
        ("say(case='a'); time.sleep(60)", ["hangs: a", "hangs: a"]),
        ("say(case='a'); os.kill(os.getpid(), 11)", ["ended with -11: a", "ended with -11: a"]),
    ],
    ids=["sound", "wrong", "hang", "crash"],
)
def test_a_campaign_finds_wrong_results_hangs_and_crashes(monkeypatch, script, findings):
    def child(*_):
        return subprocess.Popen(
            [sys.executable, "-c", SAY + script], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    monkeypatch.setattr(fuzz, "child", child)
    done, found = fuzz.campaign("any", 0, seconds=60, count=2, patience=1)
    assert done == 2
    assert [text.partition(": ")[2].strip() for text in found] == findings


def test_hundreds_of_arguments_are_taken_or_refused_by_name():
    done, found = fuzz.campaign("arguments", 1, seconds=60, count=1000, patience=30)
    assert (done, found) == (1000, [])
