"""The classes of cases. ``run`` returns None, or what is wrong; errors in ``REFUSED`` are clear."""

import contextlib
import csv
import decimal
import fractions
import gzip
import inspect
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import struct
import sys
import time
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
from click.testing import CliRunner

from gatecore import Mechanism, ModelSpec, init, mechanism
from gatecore._checks import show
from gatecore.backends.numpy import Learner
from gatecore.cells import GRU, LSTM, Minimal
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.memory import Memory
from gatecore.tasks import TASKS, Config, SweepConfig, load_run, report, sweep, train
from gatecore.tasks.cli.commands import main
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.memory_chain import MemoryChain
from gatecore.tasks.environments.t_maze import TMaze
from gatecore.tasks.problems.base import plain
from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import ConfigError
from tests.tasks import sweeping
from tests.tasks.test_image_files import write_cifar, write_mnist
from tests.tasks.test_trainer import remains
from tests.tasks.tiny import SETS, SIZES, arguments, tiny

REFUSED = (ConfigError, DataError, RunError, ValueError, TypeError)
NO_NUMBERS = (bool, complex, bytes, fractions.Fraction, decimal.Decimal, np.ma.MaskedArray,
              np.timedelta64, np.datetime64)  # fmt: skip
HOSTILE_TEXT = (
    "", " ", "x" * 5000, "\0", "a\nb", "\x1b[31mred", "\udcff", "$\\frac$", "$(touch canary/ran)",
    "=1+1", "+1", "-1", "@x", "[red]", "[/b]", "../canary/file", "<script>alert(1)</script>", "{}",
    "%s%n", "\u202eabc", "nan", "None", "true", "5", "1e400", "9" * 5000, "[" * 3000, ":smile:",
    "~nobody-here/x", "canary/folder", "/dev/zero", "con", "\ud83d\ude00", "a" * 256, "..", ".",
)  # fmt: skip


def deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def hostile(rng):
    """Any value that a caller could hand over."""
    return rng.choice([
        lambda: rng.choice([-1, 0, 1, 2, 3, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**40]),
        lambda: 10 ** rng.randrange(300, 6000),
        lambda: rng.choice([0.0, -0.0, 0.5, 1.5, 1e-320, 1e38, 1e300, 1e308, math.inf, math.nan]),
        lambda: rng.choice([True, False, np.True_, None, ..., NotImplemented]),
        lambda: rng.choice([np.int8(3), np.int64(-1), np.uint64(2**63), np.float16(0.5),
                            np.float32(math.nan), np.complex64(1j), np.datetime64("2020"),
                            np.array([1, 2]), np.array(3), np.array([]), np.array("5"),
                            np.array([None]), np.zeros((2, 2)), np.ma.array(3), np.ma.masked,
                            np.timedelta64(3, "ns"), np.longdouble(0.5)]),
        lambda: rng.choice([1j, 3 + 0j, fractions.Fraction(1, 3), fractions.Fraction(3), b"5",
                            decimal.Decimal(3), decimal.Decimal("NaN"), bytearray(b"x"), range(3)]),
        lambda: rng.choice(HOSTILE_TEXT),
        lambda: rng.choice([[], (), {}, set(), [1], [None], ["a"], (0.5, 0.5), {"name": "UR"},
                            {"a": {"b": 1}}, [[1]], [math.nan] * 2, deep(50), deep(2000)]),
        lambda: rng.choice([object(), object, len, iter([1]), Path("x"), (k for k in [1])]),
    ])()  # fmt: skip


class Base:
    def __init__(self, folder, canary):
        self.folder, self.canary = folder, canary
        self.cases = 0
        warnings.simplefilter("ignore")
        self.setup()

    def setup(self):
        """What all cases of the class share."""

    def check(self, error):
        """None for a clear error: one short line."""
        text = str(error)
        if not text.strip() or len(text) > 3000 or "\x1b" in text:
            return f"unclear {type(error).__name__}: {text[:200]!r}"
        return None

    def fresh(self):
        """An empty folder for a case; another path each time, as the library caches by path."""
        shutil.rmtree(self.folder / f"case{self.cases}", ignore_errors=True)
        self.cases += 1
        (folder := self.folder / f"case{self.cases}").mkdir()
        return folder


class Arguments(Base):
    """One argument of a call is replaced; an error names it, an accepted value is kept."""

    def setup(self):
        dense = dict(input="dense", input_size=2, output_size=2, hidden_size=4)
        tasks = ("copying", "adding", "forgetting", "programs", "tmaze", "chain", "match")
        self.calls = [
            *((self.of_task(task), [*TASKS[task].model_fields, *Config.model_fields])
              for task in tasks),
            (lambda **s: SweepConfig.of("copying", **{"mechanisms": "U", **s}),
             list(SweepConfig.model_fields)),
            (lambda **s: ModelSpec(**{**dense, **s}),
             list(inspect.signature(ModelSpec).parameters)),
            (lambda **s: AgentSpec(**{"shape": (3,), "actions": 2, "hidden_size": 4, **s}),
             list(inspect.signature(AgentSpec).parameters)),
            (lambda **s: Memory(**s), list(inspect.signature(Memory).parameters)),
            (lambda **s: Mechanism(**{"name": "x", **s}),
             list(inspect.signature(Mechanism).parameters)),
            (lambda **s: mechanism("UR", **s), list(inspect.signature(Mechanism).parameters)),
            *((lambda kind=kind, **s: kind(**{"input_size": 2, "hidden_size": 4, **s}),
               ["input_size", "hidden_size", "mechanism"]) for kind in (LSTM, GRU, Minimal)),
            (lambda **s: LSTM(2, 4).init(**s), ["rng"]),
            (lambda **s: init.uniform(**{"size": 3, "rng": 0, **s}), ["size", "rng", "width"]),
            (lambda **s: init.chrono(**{"size": 3, "t_max": 9, "rng": 0, **s}),
             ["size", "t_max", "rng"]),
            (lambda **s: Match(**{"size": 2, "phases": (1, 1, 1), **s}),
             list(inspect.signature(Match).parameters)),
            (lambda **s: TMaze(**{"size": 2, "length": 3, **s}), ["size", "length"]),
            (lambda **s: MemoryChain(**{"size": 2, "length": 3, **s}), ["size", "length", "bits"]),
            (lambda **s: Learner(ModelSpec(**dense), **s), ["seed", "betas", "eps", "dtype"]),
        ]  # fmt: skip

    def of_task(self, task):
        def of(**settings):
            config = Config.of(task, "UR", **settings)
            config.spec()
            return config

        return of

    def run(self, rng, say):
        call, names = rng.choice(self.calls)
        name, value = rng.choice(names), hostile(rng)
        say((name, type(value).__name__, show(value)))
        try:
            result = call(**{name: value})
        except RecursionError:
            raise
        except REFUSED as error:
            last = {"size": "width"}.get(name, name.rpartition("_")[2].rstrip("s"))
            if name not in str(error) and last not in str(error):
                return f"does not name {name}: {str(error)[:200]}"
            raise
        kept = getattr(result, name, value)
        return self.wrong(name, value, kept) if isinstance(result, Config | SweepConfig) else None

    def wrong(self, name, value, kept):
        """Whether a number was taken for another one."""
        value = plain(value)
        if (
            isinstance(value, int | float)
            and isinstance(kept, int | float)
            and kept != type(kept)(value)
        ):
            return f"{name} became {kept!r}"
        numeric = isinstance(kept, int | float) and not isinstance(kept, bool)
        if isinstance(value, NO_NUMBERS) and numeric:
            return f"{name} took {value!r} for a number"
        return None


class Commands(Base):
    """Command lines run in this process, with settings that train next to nothing."""

    WORDS = ("train", "sweep", "gates", "report", "upgrade", "figures", "verify", "--version", "x")
    KEYS = (*SIZES, *SETS, "learning_rate", "clip_norm", "zoneout", "mechanism.downsize", "threads",
            "mechanism.t_max", "core", "backend", "dtype", "seed", "path", "data", "layers",
            "memory_slots", "schedule", "lenght", "", "task", "preset")  # fmt: skip
    VALUES = ("-1", "0", "1", "2", "2147483648", "9223372036854775808", "9" * 40, "1e400", "nan",
              ".5", "1e-3", "[0.5,0.5]", "[1,", '{"a":1}', "true", "null", "none", "1,2",
              *(text for text in HOSTILE_TEXT if "\0" not in text))  # fmt: skip

    def setup(self):
        self.runner = CliRunner()

    def value(self, rng):
        return rng.choice(self.VALUES)

    def words(self, rng, out):
        yield (command := rng.choice(self.WORDS[:2] if rng.random() < 0.7 else self.WORDS))
        attacked = {rng.choice(self.KEYS) for _ in range(rng.choice([0, 0, 1, 1, 2]))}
        if command in ("train", "sweep"):
            yield rng.choice([*["copying"] * 8, "adding", self.value(rng)])
            yield from ("--set", "threads=1") if command == "train" else ("--threads", "1")
            for key, kept in {**SIZES, **SETS}.items():
                if key not in attacked:
                    yield from ("--set", f"{key}={kept}") if key != "steps" else ("--steps", "2")
            for key in sorted(attacked):
                yield from ("--set", f"{key}={self.value(rng)}")
            yield from ("--out", self.value(rng) if rng.random() < 0.2 else str(out / "run"))
            if command == "sweep":
                yield from ("--mechanisms", rng.choice(["U", "U,UR", self.value(rng)]))
            elif rng.random() < 0.3:
                yield from ("--mechanism", rng.choice(["U", "standard,U", self.value(rng)]))
        for _ in range(rng.randrange(3) if rng.random() < 0.3 else 0):
            yield rng.choice(["--lr", "--seeds", "--config", "--preset", "--resume", "--x", "-h",
                              "--workers", "--seed", "--hidden-size", "--tensorboard"])  # fmt: skip
            yield self.value(rng)

    def run(self, rng, say):
        out = self.fresh()
        os.chdir(out)
        words = list(self.words(rng, out))
        if words[0] in ("verify", "figures"):
            words.append("--help")
        say(words)
        done = self.runner.invoke(main, words)
        os.chdir(self.folder)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        if done.exit_code not in (0, 1, 2) or "Traceback" in done.output:
            return f"status {done.exit_code}: {done.output[-300:]}"
        return None


class Damage(Base):
    """A file of a run is damaged; whatever is then read was written by the run."""

    def setup(self):
        self.config = tiny("copying", "UR")
        self.whole, self.stopped = self.folder / "whole", self.folder / "stopped"
        train(self.config, self.whole)

        def stop(step, _):
            if step == 7:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            train(self.config, self.stopped, on_step=stop)
        self.expected = remains(self.whole)
        self.read = {folder: self.values(folder) for folder in (self.whole, self.stopped)}

    def values(self, folder):
        run = load_run(folder)
        gates = [run.gates(when) for when in ("before", "after")]
        return (run.config, run.metrics, run.summary,
                [gate and [side.tobytes() for side in gate] for gate in gates])  # fmt: skip

    def damage(self, rng, data, others):
        kind, at = rng.randrange(8), rng.randrange(max(len(data), 1))
        if kind == 0:
            return data[:at]
        if kind == 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        if kind == 2:
            return data + rng.randbytes(rng.randrange(1, 50))
        if kind == 3:
            return data[:at] + data[at + rng.randrange(1, 20) :]
        if kind == 4:
            return rng.choice(
                [b"", b"{}", b"[]", b"null", b"NaN", b"[" * 5000, b"\xff\xfe", b"\0" * 99]
            )
        if kind == 5:  # a number replaced
            return re.sub(rb"\d+", lambda m: rng.choice([m[0], b"7", b"1e999", b"9" * 400]), data)
        if kind == 6:
            return rng.choice(others)
        return re.sub(rb'"sha256": ?"\w+"', b'"sha256": "%064x"' % rng.getrandbits(256), data)

    def run(self, rng, say):
        source = rng.choice([self.whole, self.stopped])
        folder = self.fresh() / "run"
        shutil.copytree(source, folder)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        path, others = rng.choice(files), [file.read_bytes() for file in files]
        removed = rng.random() < 0.1
        if removed:
            path.unlink()
        else:
            path.write_bytes(self.damage(rng, path.read_bytes(), others))
        action = rng.choice(["load", "resume", "report"])
        say((source.name, path.name, "removed" if removed else "damaged", action))
        if action == "report":
            result = report.read(folder.parent)
            report.write(result, self.folder / "page")
            return None
        if action == "resume":
            train(self.config, folder, resume=True)
            if source == self.stopped:  # the other has ended: it is read, as below
                return None if remains(folder) == self.expected else "another result"
        values = self.values(folder)
        whole = self.read[source]
        changed = [k for k, (a, b) in enumerate(zip(values, whole, strict=True)) if a != b]
        if source == self.stopped and values[1] == whole[1][: len(values[1])]:
            changed = [k for k in changed if k != 1]  # lines since the checkpoint may be lost
        lost = path.name in ("summary.json", "gates.safetensors", "metrics.jsonl") and removed
        return None if lost or not changed else f"other values: {changed}"


class Links(Base):
    """A link or a device is planted in a folder that a stranger made; the canary stays."""

    NAMES = ("config.json", "checkpoint.safetensors", "metrics.jsonl", "summary.json", "state.json",
             "gates.safetensors", ".lock", ".config.json.part", ".results.csv.part", "results.csv",
             "results.json", "report.html", ".report.html.part", "sweep.jsonl", ".sweep.lock",
             "comparison.png", "copying-U-seed0", "run", ".gatecore", ".metrics.jsonl.part",
             ".checkpoint.safetensors.part", "events.out.tfevents.1")  # fmt: skip

    def setup(self):
        self.runner = CliRunner()
        self.config = tiny("copying", "U", steps=2)
        train(self.config, self.folder / "made")
        self.corpus = self.folder / "corpus"
        self.corpus.mkdir()
        for stem in ("train", "valid", "test"):
            (self.corpus / f"{stem}.txt").write_text("a b c a b\n" * 60)

    def plant(self, rng, place):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        kind = rng.randrange(6)
        if kind == 0:
            os.mkfifo(place)
        elif kind == 1:
            place.hardlink_to(self.canary / "file")
        else:
            targets = [self.canary / "file", self.canary / "folder", self.canary / "new",
                       Path("/dev/zero"), place, self.canary / "folder" / "inner"]  # fmt: skip
            place.symlink_to(rng.choice(targets))
        return kind

    def run(self, rng, say):
        folder = self.fresh()
        action = rng.choice(
            ["train", "resume", "sweep", "report", "report-into", "upgrade", "corpus"]
        )
        if action == "corpus":
            shutil.copytree(self.corpus, folder, dirs_exist_ok=True)
            if rng.random() < 0.7:
                self.cache(folder, rng)
        elif action in ("resume", "report", "report-into", "upgrade"):
            shutil.copytree(self.folder / "made", folder / "run")
        place = rng.choice([folder, folder / "run"]) / rng.choice(self.NAMES)
        if action == "corpus" and (made := sorted(folder.rglob(".gatecore/**/*"))):
            place = rng.choice([*made, made[0].parent / ".lock"])
        place.parent.mkdir(exist_ok=True)
        say((action, str(place.relative_to(self.folder)), self.plant(rng, place)))
        training = ["train", "copying", "--mechanism", "U", *arguments(steps=2)]
        words = {
            "train": [*training, "--out", folder / "run"],
            "resume": [*training, "--resume", "--out", folder / "run"],
            "sweep": sweeping.command(folder, "--mechanisms", "U", "--workers", "1", steps=2)[3:],
            "report": ["report", folder],
            "report-into": ["report", folder, "--out", folder],
            "upgrade": ["upgrade", folder / "run"],
            "corpus": ["train", "language", "--data", "files", "--path", folder, "--bptt", "4",
                       "--steps", "1", "--hidden-size", "4", "--batch-size", "2", "--out",
                       folder / "run-of"],
        }[action]  # fmt: skip
        done = self.runner.invoke(main, list(map(str, words)))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return None if done.exit_code in (0, 1, 2) else f"status {done.exit_code}"

    def cache(self, folder, rng):
        TASKS["language"](data="files", path=str(folder))


class Files(Base):
    """Data files cut, changed or built to be expensive; a reader refuses them or reads them."""

    def setup(self):
        rng = np.random.default_rng(0)
        self.sources = {}
        for name in ("mnist", "mnist-gz", "python", "binary", "text", "cached"):
            folder = self.folder / "sources" / name
            folder.mkdir(parents=True)
            if name == "mnist":
                write_mnist(folder, rng)
            elif name == "mnist-gz":
                write_mnist(folder, rng, pack=gzip.compress, suffix=".gz")
            elif name in ("python", "binary"):
                write_cifar(folder, rng, name)
            else:
                for stem in ("train", "valid", "test"):
                    (folder / f"{stem}.txt").write_text("the cat sat on a mat\n" * 30)
                if name == "cached":
                    TASKS["language"](data="files", path=str(folder)).baselines()
            self.sources[name] = folder
        self.bomb = gzip.compress(bytes(300 << 20), 1)
        marker = self.canary / "ran"
        self.evil = pickle.dumps(_Evil(f"touch {marker}"), protocol=2)
        self.perplexity = TASKS["language"](
            data="files", path=str(self.sources["text"])
        ).baselines()

    def damage(self, rng, data):
        kind, at = rng.randrange(9), rng.randrange(max(len(data), 1))
        return [
            lambda: data[:at],
            lambda: data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :],
            lambda: rng.randbytes(rng.randrange(1000)),
            lambda: struct.pack(">4I", *(rng.choice([0, 2051, 2049, 2**31, 2**32 - 1, 28])
                                         for _ in range(4))) + data[16:],
            lambda: self.bomb,
            lambda: self.evil,
            lambda: b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b"}." if rng.random() < 0.5
            else b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
            lambda: b"\xff\xfe\0" * 50,
            lambda: data * 3,
        ][kind]()  # fmt: skip

    def run(self, rng, say):
        name = rng.choice(list(self.sources))
        folder = self.fresh()
        shutil.copytree(self.sources[name], folder, dirs_exist_ok=True)
        path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
        path.write_bytes(self.damage(rng, path.read_bytes()))
        say((name, str(path.relative_to(folder)), path.stat().st_size))
        if name in ("text", "cached"):
            task = TASKS["language"](data="files", path=str(folder))
            task.batch(0, 0, 2)
            same = task.baselines() == self.perplexity
            return "another perplexity" if ".gatecore" in path.parts and not same else None
        task = TASKS["pixels"](
            data="mnist" if name.startswith("mnist") else "cifar10", path=str(folder)
        )
        task.batch(0, 0, 2)
        return None


class _Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Names(Base):
    """Folders and mechanisms of hostile names, trained, printed and reported."""

    def setup(self):
        self.runner = CliRunner()

    def run(self, rng, say):
        folder = self.fresh()
        name, label = (rng.choice(HOSTILE_TEXT) for _ in range(2))
        place = folder / (re.sub(r"[/\0]|^\.*$", "_", name)[:100])
        say((place.name, label))
        custom = Mechanism(name=label, auxiliary="refine")
        train(tiny("copying", custom, steps=2, hidden_size=4), place)
        done = self.runner.invoke(main, ["report", str(folder), "--out", str(folder / "page")])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        page = (folder / "page" / "report.html").read_bytes()
        table = (folder / "page" / "results.csv").read_text(encoding="utf-8")
        json.loads((folder / "page" / "results.json").read_text())
        if b"<script>alert" in page or "\x1b" in done.output or "\x1b" in table:
            return "markup or an escape was passed on"
        cells = [cell for row in csv.reader(io.StringIO(table)) for cell in row]
        formulas = [cell for cell in cells if re.match(r"[=+@]|-(?!\d)", cell)]
        return f"a formula in the table: {formulas[:3]}" if formulas else None


class Kills(Base):
    """A run or a sweep is killed at random moments and continued, to the same bits."""

    KINDS: ClassVar = {
        "numpy": lambda: tiny(checkpoint_every=1, log_every=1, evaluate_every=2),
        "torch": lambda: tiny(backend="torch", checkpoint_every=1, log_every=1, evaluate_every=2),
        "gru-zoneout": lambda: tiny(core="gru", zoneout=(0.0, 0.2), checkpoint_every=2),
        "language": lambda: Config.of("language", hidden_size=8, batch_size=4, steps=8,
                                      evaluate_every=50, checkpoint_every=2),
        "agent": lambda: Config.of("tmaze", length=3, hidden_size=8, batch_size=4, steps=8,
                                   evaluate_every=4, checkpoint_every=2, validation_size=4,
                                   test_size=4),
    }  # fmt: skip

    def setup(self):
        self.expected = {}

    def start(self, kind, folder):
        """A process group that trains."""
        if pid := os.fork():
            return pid
        os.setsid()
        if kind == "sweep":
            sweep(sweeping.tiny_sweep(folder, workers=1))
        else:
            train(self.KINDS[kind](), folder, resume=True)
        os._exit(0)

    def ended(self, pid, kind, killed=False):
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in (0, -signal.SIGKILL):
            raise AssertionError(f"{kind} ended with {status}")
        return status == 0

    def results(self, kind, folder):
        runs = sorted(folder.glob("copying-*")) if kind == "sweep" else [folder]
        left = [p.name for p in folder.rglob("*") if p.name.startswith(".") or ".part" in p.name]
        return [remains(run) for run in runs], left

    def run(self, rng, say):
        kind = rng.choice([*self.KINDS, "sweep"])
        if kind not in self.expected:
            start = time.monotonic()
            whole = self.folder / f"whole-{kind}"
            assert self.ended(self.start(kind, whole), kind)
            self.expected[kind] = self.results(kind, whole), time.monotonic() - start
        expected, seconds = self.expected[kind]
        folder, kills = self.fresh() / "run", 0
        moments = [rng.uniform(0, seconds) for _ in range(rng.randrange(1, 4))]
        say((kind, [round(moment, 3) for moment in moments]))
        for moment in moments:
            pid = self.start(kind, folder)
            time.sleep(moment)
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                os.kill(pid, signal.SIGKILL)
            kills += not self.ended(pid, kind)
        if not self.ended(self.start(kind, folder), kind):
            return "killed without a kill"
        runs, left = self.results(kind, folder)
        if left != expected[1]:
            return f"leaves {left}, undisturbed {expected[1]}"
        return None if runs == expected[0] else "another result than undisturbed"


sys.setrecursionlimit(1000)
