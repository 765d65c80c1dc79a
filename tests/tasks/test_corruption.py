"""Reading a damaged run folder raises a RunError, or returns values that the run wrote.

Any file is damaged at random: bytes changed, removed, inserted or truncated; replaced by the file
of another run, by another file or by a folder; or removed.
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
KINDS = ("finished", "interrupted", "diverged")


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
    by_kind = {}
    for kind in KINDS:
        for seed in (0, 1):
            folder = by_kind[kind, seed] = tmp_path_factory.mktemp("runs") / "run"
            if kind == "interrupted":
                with pytest.raises(Killed):
                    train(config(seed=seed), folder, on_step=die_at(7))
            else:
                rate = {"learning_rate": 1e30} if kind == "diverged" else {}
                train(config(seed=seed, **rate), folder)
    return by_kind


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


def readings(folder):
    """All values that can be read from a run."""
    run = load_run(folder)
    gates = [None if g is None else [side.tolist() for side in g]
             for g in (run.gates("before"), run.gates("after"))]  # fmt: skip
    return run.config, run.environment, run.metrics, run.summary, gates


def could_be(values, original):
    """Whether the values are those of the run, or its earlier ones.

    A missing file is no damage: the run may not have written it yet.
    """
    same = values[:2] == original[:2]
    lines = values[2] == original[2][: len(values[2])]
    if values[3] is not None:
        lines = values[2] == original[2]
    parts = all(value in (None, other) for value, other in zip(values[4], original[4], strict=True))
    return same and lines and values[3] in (None, original[3]) and parts


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(KINDS), name=st.sampled_from(FILES), wrong=st.sampled_from(FILES),
    damage=st.one_of(st.sampled_from(["missing", "folder"]), damages()),
)  # fmt: skip
def test_damage_is_an_error_or_changes_no_value(folders, kind, name, wrong, damage):
    source, other = folders[kind, 0], folders[kind, 1]
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "run"
        shutil.copytree(source, folder)
        content = (folder / name).read_bytes() if (folder / name).exists() else b""
        (folder / name).unlink(missing_ok=True)
        if damage == "folder":
            (folder / name).mkdir()
        elif damage != "missing":
            others = [f.read_bytes() if f.exists() else b"" for f in (other / name, source / wrong)]
            (folder / name).write_bytes(damage(content, *others))
        if message(readings, folder) is None:
            assert could_be(readings(folder), readings(source))
        if kind == "interrupted" and message(train, config(), folder, resume=True) is None:
            assert remains(folder) == remains(folders["finished", 0])


def message(function, *arguments, **keywords):
    """The message of a RunError, which names the folder or a file; None without an error."""
    try:
        function(*arguments, **keywords)
    except RunError as error:
        text = str(error)
    else:
        return None
    assert "/run" in text
    return text
