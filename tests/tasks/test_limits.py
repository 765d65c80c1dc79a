"""Ranges of settings: every number has two bounds, checked first; what is refused names itself."""

import dataclasses
import json
import re
import time
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from gatecore import Mechanism, ModelSpec
from gatecore.cells import LSTM
from gatecore.contracts.memory import Memory
from gatecore.tasks import TASKS, Config, SweepConfig, train
from gatecore.tasks.cli.settings import read_value, read_values
from gatecore.tasks.environments.t_maze import TMaze
from gatecore.tasks.training import capacity
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import ConfigError

KINDS = (Config, SweepConfig, *TASKS.values())
UPPER, LOWER = {"maximum", "exclusiveMaximum"}, {"minimum", "exclusiveMinimum"}
SMALL = dict(length=4, hidden_size=8, batch_size=4, steps=4, validation_size=4, test_size=4)
LARGEST = {"seed": 2**63 - 1, "learning_rate": 1e38, "clip_norm": 1e38, "gain": 1e38,
           "checkpoint_seconds": 1e38}  # fmt: skip
ABSURD = (2**62, 2**63, 10**40, 10**5000, -(2**70))


def numbers(schema):
    """Every integer or number in a JSON schema."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield schema
        for part in schema.values():
            yield from numbers(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from numbers(part)


def own_fields(kind):
    schema = kind.model_json_schema(mode="validation")["properties"]
    return {name: list(numbers(part)) for name, part in schema.items() if name != "set"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_number_has_two_stated_bounds(kind):
    found = {name: parts for name, parts in own_fields(kind).items() if parts}
    assert found
    for name, parts in found.items():
        for part in parts:
            assert part.keys() & UPPER, name
            assert part.keys() & LOWER, name


@pytest.mark.parametrize("task", TASKS)
def test_absurd_numbers_are_refused_by_name_at_once(task):
    fields = own_fields(TASKS[task]) | own_fields(Config)
    start = time.monotonic()
    for name in (name for name, parts in fields.items() if parts):
        for value in ABSURD:
            if 0 < value <= LARGEST.get(name, 0):
                continue
            with pytest.raises(ConfigError) as caught:
                Config.of(task, **{name: value})
            message = str(caught.value)
            assert name in message
            assert len(message) < 400
            assert "\n" not in message
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("value", [2**62, 10**40, 10**5000], ids=["2**62", "10**40", "10**5000"])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("hidden_size", lambda n: ModelSpec(
            input="dense", input_size=1, output_size=1, hidden_size=n)),
        ("layers", lambda n: ModelSpec(
            input="dense", input_size=1, output_size=1, hidden_size=4, layers=n)),
        ("input_size", lambda n: LSTM(n, 8)),
        ("slots", lambda n: Memory(slots=n)),
        ("length", lambda n: TMaze(4, n)),
        ("size", lambda n: TMaze(n, 4)),
        ("downsize", lambda n: Mechanism(name="x", downsize=n)),
        ("forget_bias", lambda n: Mechanism(name="x", forget_bias=n)),
    ],
)  # fmt: skip
def test_a_size_beyond_an_int_is_refused_by_name(name, call, value):
    with pytest.raises(ValueError, match=rf"^{name} must (be at most|lie in)") as caught:
        call(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", ["8", b"8", True, np.True_, 8 + 0j, "eight", None, [8]])
@pytest.mark.parametrize("name", ["hidden_size", "seed", "learning_rate"])
def test_text_and_truth_values_are_no_numbers(name, value):
    with pytest.raises(ConfigError, match=f"^{name}="):
        Config.of("copying", **{name: value})


def test_text_within_a_tuple_is_no_number():
    with pytest.raises(ConfigError, match=r"zoneout=.*not text"):
        Config.of("copying", zoneout=("0.5", 0))
    with pytest.raises(ConfigError, match=r"zoneout=.*true or false"):
        Config.of("copying", zoneout=(np.True_, 0))


def test_numpy_numbers_are_the_values_they_hold():
    of_numpy = Config.of(
        "copying", length=np.int64(7), hidden_size=np.uint8(8), learning_rate=np.float32(0.5),
        zoneout=np.array([0.5, 0.25]), seed=np.array(3),
    )  # fmt: skip
    plain = Config.of(
        "copying", length=7, hidden_size=8, learning_rate=0.5, zoneout=(0.5, 0.25), seed=3
    )
    assert of_numpy == plain
    assert json.loads(of_numpy.model_dump_json()) == json.loads(plain.model_dump_json())


@pytest.mark.parametrize(
    "value",
    [Decimal(2), Fraction(2), 2 + 0j, b"2", np.ma.array(2), np.timedelta64(2, "ns"),
     np.datetime64(2, "ns"), np.array([2]), {2}, iter([2])],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_other_kinds_of_numbers_are_refused_by_name(value):
    for name in ("length", "learning_rate", "threads", "seed", "zoneout"):
        setting = (value, 0.0) if name == "zoneout" else value
        with pytest.raises(ConfigError, match=rf"^{name}.*(should|must)"):
            Config.of("copying", **{name: setting})
    with pytest.raises(ConfigError, match=r"^forget_bias must be a number"):
        Config.of("copying", "R", **{"mechanism.forget_bias": value})
    lists = () if isinstance(value, np.ndarray) else ("lr", "seeds")
    for name in ("steps", "workers", *lists):
        with pytest.raises(ConfigError, match=rf"^{name}.*should"):
            SweepConfig.of("copying", **{name: value})
    with pytest.raises(ConfigError, match=r"^length=.*should be a valid integer"):
        SweepConfig.of("copying", set={"length": [[value]]}).trials()


def test_a_number_of_seeds_is_an_integer():
    with pytest.raises(ConfigError, match=r"^seeds=3\.0: a number of seeds should be 1 to 10000"):
        SweepConfig.of("copying", seeds=3.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [(".5", 0.5), ("1_000", 1000), ("07", 7), ("5.", 5.0), ("nan", "nan"), ("data2", "data2"),
     ("[" * 3000, "[" * 3000), ("9" * 5000, float("inf"))],
    ids=lambda value: str(value)[:8],
)  # fmt: skip
def test_numbers_on_the_command_line(text, value):
    assert read_value(text) == value
    assert read_values(f"{text},1") == [value, 1]


def test_deep_nesting_is_one_sentence():
    deep = [1]
    for _ in range(5000):
        deep = [deep]
    for settings in ({"hidden_size": deep}, {"hidden_size": "[" * 2000}):
        with pytest.raises(ConfigError) as caught:
            Config.of("copying", **settings)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_a_sweep_names_its_own_keys():
    for lr in (0, 0.0, -1, 2.5e38):
        with pytest.raises(ConfigError, match="^lr.0=" + re.escape(str(lr))):
            SweepConfig.of("copying", lr=lr)
    with pytest.raises(ConfigError, match=r"^seeds\.0=9223372036854775808"):
        SweepConfig.of("copying", seeds=[2**63])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Mechanism)])
def test_a_mechanism_takes_no_other_object(field):
    with pytest.raises((TypeError, ValueError), match=field):
        Mechanism(**{"name": "x", field: object()})


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 1_000_000},
        {"length": 1_000_000, "batch_size": 1_000_000},
        {"length": 1_000_000, "validation_size": 1_000_000},
        {"core": "dnc", "memory_slots": 1_000_000, "memory_width": 1_000_000},
    ],
    ids=lambda sizes: ",".join(sizes),
)
def test_more_memory_than_the_machine_has_is_refused_by_name(tmp_path, sizes):
    if sizes.get("core") == "dnc":
        pytest.importorskip("torch", reason="the core dnc is torch's")
    config = Config.of("copying", **sizes)
    tracemalloc.start()
    with pytest.raises(RunError, match=r"not enough memory: .* GiB or more") as caught:
        train(config, tmp_path / "run")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert all(f"{name}={value}" in str(caught.value) for name, value in sizes.items()
               if not name.startswith(("core", "memory")))  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("core", ["lstm", "minimal", "dnc"])
def test_the_estimate_of_memory_is_a_lower_bound(task, core):
    """The parameters are not more than the learner's, and a batch is small."""
    pytest.importorskip("torch", reason="some tasks are torch's")
    config = Config.of(task, core=core)
    parameters = config.learner().parameters.values()
    size = 4 * 4 * sum(int(np.prod(value.shape)) for value in parameters)
    batch = Config.of(task, core=core, hidden_size=2 * config.hidden_size)
    least = capacity.needed(config)
    assert least < size + 2**28
    assert core == "dnc" or least > 0.5 * size
    assert capacity.needed(batch) > least


def test_a_container_may_have_less_memory_than_the_machine(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(capacity, "_CGROUP", limit)
    whole = capacity.memory_of_machine()
    limit.write_text("1000000\n")
    assert capacity.memory_of_machine() == 1_000_000
    limit.write_text("max\n")
    assert capacity.memory_of_machine() == whole > 1e8


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_an_enormous_learning_rate_diverges(tmp_path, backend, rate):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    config = Config.of("copying", **SMALL, backend=backend, learning_rate=rate)
    run = train(config, tmp_path / "run")
    assert run.status == "diverged"
    assert run.summary["test"] is None
