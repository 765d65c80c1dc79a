"""Find the runs below a folder, and group those that can be compared."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatecore import MECHANISMS
from gatecore.tasks.reports.aggregate import NO_RESULT, Group, Note, Report, Trial, Variant, shared
from gatecore.tasks.training.run_folder import FILES, RunError, load_run


def collect(root: str | os.PathLike[str]) -> Report:
    """Read every run below a folder, the folder itself included.

    What cannot be read, or contradicts itself, becomes a note.

    Raises
    ------
    RunError
        ``root`` is no folder, or cannot be listed.
    """
    root = Path(root)
    trials: list[Trial] = []
    notes: list[Note] = []

    def closed(error: OSError) -> None:
        name = _readable(os.path.relpath(error.filename, root))
        notes.append(Note(name, f"cannot be read: {error.strerror}"))

    for folder in run_folders(root, closed):
        name = _readable(folder.relative_to(root))
        try:
            trials.append(Trial.of(load_run(folder), name))
        except RunError as error:
            reason = str(error).replace(f"{folder}{os.sep}", "").replace(str(folder), name)
            notes.append(Note(name, reason))
    trials, twice = _once_each(trials)
    return Report(_readable(root.absolute().name), tuple(_groups(trials)), (*notes, *twice))


def run_folders(root: Path, closed: Callable[[OSError], None] | None = None) -> list[Path]:
    """Folders below ``root`` that hold any file of a run, in the order of their names.

    ``closed`` is told of a folder that cannot be listed. Hidden folders are passed by.
    """
    try:
        os.listdir(root)  # walk() is silent about a folder that is none
    except OSError as error:
        raise RunError(f"{root} cannot be read as a folder of runs: {error.strerror}") from error
    found = []
    for path, folders, files in os.walk(root, onerror=closed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if set(FILES) & set(files):
            found.append(Path(path))
    return found


def _once_each(trials: Sequence[Trial]) -> tuple[list[Trial], list[Note]]:
    """One run for each config; an ended one rather than an unfinished one, else the first."""
    kept: dict[str, Trial] = {}
    notes = []
    for trial in sorted(trials, key=lambda t: t.status == "unfinished"):
        settings = {k: v for k, v in trial.settings().items() if k not in NO_RESULT}
        first = kept.setdefault(repr(sorted(settings.items())), trial)
        if first is not trial:
            notes.append(Note(trial.folder, f"left out: {first.folder} has the same settings"))
    return sorted(kept.values(), key=lambda trial: trial.folder), notes


def _groups(trials: Sequence[Trial]) -> Iterator[Group]:
    """By task title, then by the settings that differ."""
    alike: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        agreed = {k: v for k, v in trial.settings().items() if shared(k)}
        alike.setdefault((trial.config.task.title, repr(sorted(agreed.items()))), []).append(trial)
    for (title, key), members in sorted(alike.items(), key=lambda item: item[0]):
        settings = {k: v for k, v in members[0].settings().items() if shared(k)}
        others = [ts[0].settings() for (name, k), ts in alike.items() if name == title and k != key]
        differing = {k: v for k, v in settings.items() if any(o.get(k) != v for o in others)}
        yield Group(title, settings, differing, _variants(members), _baselines(members))


def _variants(trials: Sequence[Trial]) -> tuple[Variant, ...]:
    """By mechanism, in the order of the table; names are told apart by the fields that differ."""
    alike: dict[Any, list[Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.config.mechanism, []).append(trial)
    order = [*MECHANISMS]

    def place(mechanism: Any) -> tuple[int, str]:
        known = mechanism.name in order
        return (order.index(mechanism.name) if known else len(order), repr(mechanism))

    variants = []
    for mechanism in sorted(alike, key=place):
        fields = dataclasses.asdict(mechanism)
        namesakes = [dataclasses.asdict(m) for m in alike if m.name == mechanism.name]
        own = [f"{k}={v}" for k, v in fields.items() if any(n[k] != v for n in namesakes)]
        label = mechanism.name + (f" ({', '.join(own)})" if own else "")
        variants.append(Variant(label, tuple(alike[mechanism])))
    return tuple(variants)


def _baselines(trials: Sequence[Trial]) -> Mapping[str, Mapping[str, float]]:
    """As the first run that ended recorded them; else computed, where the task's data are here."""
    for trial in trials:
        recorded: Any = (trial.run.summary or {}).get("baselines")
        if _are_baselines(recorded):
            return recorded
    try:
        return trials[0].config.task.baselines()
    except (OSError, ValueError, RunError):
        return {}


def _are_baselines(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(scores, Mapping) and all(_is_number(score) for score in scores.values())
        for scores in value.values()
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _readable(path: str | os.PathLike[str]) -> str:
    """A name that can be written as text, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "replace")
