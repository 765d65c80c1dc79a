"""Find the runs below a folder, and group those that can be compared."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatecore import MECHANISMS, Mechanism
from gatecore.tasks.reports.aggregate import Group, Note, Report, Variant
from gatecore.tasks.reports.trial import Trial
from gatecore.tasks.safe_files import printable, reason
from gatecore.tasks.training.run import load_run
from gatecore.tasks.training.run_folder import FILES, RunError

IRRELEVANT = ("preset", "threads", "log_every", "checkpoint_every", "checkpoint_seconds")
_DEEPEST = 50  # folders within each other
VARIED = ("seed", "learning_rate")  # within a group, with all of the mechanism's fields


def read(folder: str | os.PathLike[str]) -> Report:
    """Read all runs below a folder, except in hidden folders; it may be a run's folder itself.

    The ``groups`` of the :class:`.Report` hold runs that differ in gates, learning rate and seed
    alone, its ``notes`` the folders that could not be read or contradict themselves, with a reason.
    RunError if ``folder`` is no folder, or cannot be listed.

    >>> import tempfile
    >>> from gatecore.tasks import Config, report, train
    >>> config = Config.of("copying", length=4, hidden_size=8, steps=2, test_size=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(config, f"{folder}/run")
    ...     results = report.read(folder)
    >>> results.groups[0].title, [trial.folder for trial in results.trials]
    ('Copy, N=4', ['run'])
    """
    root = Path(folder)
    trials: list[Trial] = []
    notes: list[Note] = []

    def unreadable(error: OSError) -> None:
        folder = os.path.relpath(error.filename, root)
        notes.append(Note(_readable(folder), f"cannot be read: {reason(error)}"))

    for path in run_folders(root, unreadable):
        name = _readable(path.relative_to(root))
        try:
            trials.append(Trial.of(load_run(path), name))
        except RunError as error:
            message = str(error).replace(f"{path}{os.sep}", "").replace(str(path), name)
            notes.append(Note(name, printable(message)))
    trials, repeated = _without_repetitions(trials)
    return Report(_readable(root.absolute().name), tuple(_groups(trials)), (*notes, *repeated))


def run_folders(root: Path, onerror: Callable[[OSError], None] | None = None) -> list[Path]:
    """Folders below ``root`` that hold any file of a run, by name; ``onerror`` as for os.walk."""
    try:
        os.listdir(root)  # walk() reports no error about it
    except OSError as error:
        raise RunError(f"{root} cannot be read as a folder of runs: {reason(error)}; name "
                       "another one") from error  # fmt: skip
    paths = []
    for path, folders, files in os.walk(root, onerror=onerror):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        deep = len(Path(path).relative_to(root).parts) >= _DEEPEST
        for name in [n for n in folders if deep or os.path.islink(os.path.join(path, n))]:
            folders.remove(name)
            if onerror:
                problem = "below too many folders" if deep else "a symbolic link"
                onerror(OSError(errno.ELOOP, f"it is {problem}", os.path.join(path, name)))
        if set(FILES) & set(files):
            paths.append(Path(path))
    return paths


def is_shared(key: str) -> bool:
    """Whether runs of one group agree in this setting."""
    return key not in VARIED and key not in IRRELEVANT and not key.startswith("mechanism.")


def _without_repetitions(trials: Sequence[Trial]) -> tuple[list[Trial], list[Note]]:
    """One run for each config: an ended one rather than an unfinished one, else the first."""
    unique: dict[str, Trial] = {}
    notes = []
    for trial in sorted(trials, key=lambda t: t.status == "unfinished"):
        settings = {k: v for k, v in trial.settings().items() if k not in IRRELEVANT}
        first = unique.setdefault(repr(sorted(settings.items())), trial)
        if first is not trial:
            notes.append(Note(trial.folder, f"left out: {first.folder} has the same settings"))
    return sorted(unique.values(), key=lambda trial: trial.folder), notes


def _groups(trials: Sequence[Trial]) -> Iterator[Group]:
    """By the task's title, then by the settings that differ."""
    members: dict[tuple[str, str], list[Trial]] = {}
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    for trial in trials:
        shared = {k: v for k, v in trial.settings().items() if is_shared(k)}
        key = printable(trial.config.task.title), repr(sorted(shared.items()))
        members.setdefault(key, []).append(trial)
        settings.setdefault(key, shared)
    for key in sorted(members):
        others = [values for k, values in settings.items() if k[0] == key[0] and k != key]
        differing = {k: v for k, v in settings[key].items() if any(o.get(k) != v for o in others)}
        group = members[key]
        yield Group(key[0], settings[key], differing, _variants(group), _baselines(group))


def _variants(trials: Sequence[Trial]) -> tuple[Variant, ...]:
    """By mechanism, in the table's order."""
    alike: dict[Mechanism, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.config.mechanism, []).append(trial)
    order = {name: place for place, name in enumerate(MECHANISMS)}
    label = labels(alike)
    return tuple(Variant(label[mechanism], tuple(alike[mechanism])) for mechanism in
                 sorted(alike, key=lambda m: (order.get(m.name, len(order)), repr(m))))  # fmt: skip


def labels(mechanisms: Iterable[Mechanism]) -> dict[Mechanism, str]:
    """Their names, with the fields in which those of one name differ; no two are equal."""
    every = set(mechanisms)
    found: dict[Mechanism, str] = {}
    for one in sorted(every, key=repr):
        namesakes = [vars(m) for m in every if m.name == one.name]
        special = [f"{k}={v}" for k, v in vars(one).items() if any(n[k] != v for n in namesakes)]
        label = printable(one.name + (f" ({', '.join(special)})" if special else ""))
        while label in found.values():  # a stranger's name may be another one's label
            label += "′"
        found[one] = label
    return found


def _baselines(trials: Sequence[Trial]) -> Mapping[str, Mapping[str, float]]:
    """As the first run that ended recorded them; else computed, if the task's data are there."""
    for trial in trials:
        if (recorded := trial.summary.get("baselines")) is not None:
            return recorded
    task = trials[0].config.task
    if getattr(task, "path", None) is None:  # which a stranger's run may point anywhere
        with contextlib.suppress(OSError, ValueError, RunError):
            return task.baselines()
    return {}


def _readable(path: str | os.PathLike[str]) -> str:
    """A name as text, whatever its bytes."""
    return printable(os.fsencode(path).decode("utf-8", "replace"))
