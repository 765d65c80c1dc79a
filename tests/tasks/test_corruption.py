"""A damaged run folder gives a RunError, or what the run wrote: never a traceback or other numbers.

Random damage to any of its files: bytes changed, cut out, put in, cut off; the file of another run
or another file in its place; a folder in its place, or nothing.
"""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatecore.tasks import load_run, train
from gatecore.tasks.training.run_folder import FILES, RunError
from tests.tasks.test_trainer import Killed, die_at, remains
from tests.tasks.tiny import tiny

SETTINGS = {"hidden_size": 4, "steps": 8, "checkpoint_every": 3, "log_every": 1, "test_size": 4}
KINDS = ("finished", "broken off", "diverged")


def config(**other):
    return tiny(**{**SETTINGS, **other})


@pytest.fixture(scope="module", autouse=True)
def without_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run of each kind, and for each another one, whose config differs by the seed alone."""
    found = {}
    for kind in KINDS:
        for seed in (0, 1):
            folder = found[kind, seed] = tmp_path_factory.mktemp("runs") / "run"
            if kind == "broken off":
                with pytest.raises(Killed):
                    train(config(seed=seed), folder, on_step=die_at(7))
            else:
                rate = {"learning_rate": 1e30} if kind == "diverged" else {}
                train(config(seed=seed, **rate), folder)
    return found


@st.composite
def damages(draw):
    """A function of a file's content, of another run's, and of another file's."""
    how = draw(st.sampled_from(["change", "cut", "insert", "truncate", "bit", "other", "wrong"]))
    where, some = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))
    length = draw(st.integers(1, 40))

    def damage(content, other, wrong):
        at = int(where * max(0, len(content) - 1))
        bit = bytes([content[at] ^ 1 << length % 8]) if content else b""
        return {
            "change": content[:at] + some + content[at + len(some) :],
            "cut": content[:at] + content[at + length :],
            "insert": content[:at] + some + content[at:],
            "truncate": content[:at],
            "bit": content[:at] + bit + content[at + 1 :],
            "other": other,
            "wrong": wrong,
        }[how]

    return damage


def told(folder):
    """All that a run's readers get from it."""
    run = load_run(folder)
    gates = [None if g is None else [side.tolist() for side in g]
             for g in (run.gates("before"), run.gates("after"))]  # fmt: skip
    return run.config, run.environment, run.metrics, run.summary, gates


def could_be(told, original):
    """Whether it is what the run wrote, or what it had written a while before.

    A file that is missing altogether is no damage: the run may not have come so far.
    """
    same = told[:2] == original[:2]
    lines = told[2] == original[2][: len(told[2])]
    if told[3] is not None:
        lines = told[2] == original[2]
    parts = all(mine in (None, theirs) for mine, theirs in zip(told[4], original[4], strict=True))
    return same and lines and told[3] in (None, original[3]) and parts


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(KINDS), name=st.sampled_from(FILES), wrong=st.sampled_from(FILES),
    damage=st.one_of(st.sampled_from(["missing", "folder"]), damages()),
)  # fmt: skip
def test_damage_is_refused_or_changes_nothing(folders, kind, name, wrong, damage):
    source, other = folders[kind, 0], folders[kind, 1]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        shutil.copytree(source, folder)
        content = (folder / name).read_bytes() if (folder / name).exists() else b""
        (folder / name).unlink(missing_ok=True)
        if damage == "folder":
            (folder / name).mkdir()
        elif damage != "missing":
            theirs = [f.read_bytes() if f.exists() else b"" for f in (other / name, source / wrong)]
            (folder / name).write_bytes(damage(content, *theirs))
        if refusal(told, folder) is None:
            assert could_be(told(folder), told(source))
        if kind == "broken off" and refusal(train, config(), folder, resume=True) is None:
            assert remains(folder) == remains(folders["finished", 0])


def refusal(function, *arguments, **keywords):
    """What a RunError says, with the folder's name or a file's in it; None without one."""
    try:
        function(*arguments, **keywords)
    except RunError as error:
        message = str(error)
    else:
        return None
    assert "/run" in message
    return message
