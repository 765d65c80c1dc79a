"""The kept benchmark: its table is the one that its JSON gives."""

import importlib.util
import json
import re

import pytest

from tests.packaging.layout import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def report(name="report"):
    """The module that writes the tables; benchmarks/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LAYERS = sorted(RESULTS.glob("cpu-layers-*.json"))


@pytest.mark.parametrize("file", LAYERS, ids=lambda file: file.stem)
def test_the_kept_table_is_that_of_the_kept_json(file):
    result = json.loads(file.read_text(encoding="utf-8"))
    assert report().markdown(result) == file.with_suffix(".md").read_text(encoding="utf-8")


def test_the_page_of_jax_quotes_the_kept_speed_of_the_scan():
    result = json.loads((RESULTS / "cpu-jax-scan.json").read_text(encoding="utf-8"))
    kept = (RESULTS / "cpu-jax-scan.md").read_text(encoding="utf-8")
    assert report().markdown(result) == kept
    table = report().relative(result, "flax.nnx.OptimizedLSTMCell")
    assert table in (ROOT / "docs" / "jax.md").read_text(encoding="utf-8")


def test_the_readme_quotes_a_kept_result():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (linked,) = set(re.findall(r"benchmarks/results/(cpu-layers-[\w-]+)\.md", readme))
    result = json.loads((RESULTS / f"{linked}.json").read_text(encoding="utf-8"))
    assert report().readme_table(result) in readme
    assert result["date"] in readme
    assert result["cpu"] in readme


def test_the_readme_states_the_range_where_it_is_wide_or_holds_the_reference():
    def rounds(*times):
        run = {"tiny": {"torch.nn.LSTM": [1.0] * len(times), "torch UR": list(times)}}
        return {"reference": "torch.nn.LSTM", "shapes": ["tiny"], "seconds": {"kept": run}}

    assert "| torch | 2.00 |" in report().readme_table(rounds(0.5, 0.5, 0.5))
    assert "| torch | 2.00 (1.40–2.00) |" in report().readme_table(rounds(0.5, 0.5, 0.8))
    assert "| torch | 1.00 (0.98–1.02) |" in report().readme_table(rounds(0.98, 1.0, 1.03))


@pytest.mark.parametrize(
    ("instructions", "title"),
    [("avx512f", "AVX-512"), ("avx2", "AVX2"), ("portable", "portable vectors")],
)
def test_the_heading_names_instruction_set_processor_and_date(instructions, title):
    result = {"instructions": instructions, "cpu": "A CPU", "date": "2026-11-23"}
    assert report().heading(result) == f"{title}: A CPU, 2026-11-23"


@pytest.fixture
def long_sequences(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # it imports the others
    return report("long_sequences")


@pytest.mark.parametrize("name", ["cpu-long-sequences", "cpu-lengths"])
def test_the_kept_tables_of_long_sequences_are_those_of_the_kept_json(name, long_sequences):
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    table = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert long_sequences.markdown(result) == table


SINGLE = sorted(RESULTS.glob("cpu-single-sequences-*.json"))


@pytest.mark.parametrize("file", SINGLE, ids=lambda file: file.stem)
def test_the_kept_tables_of_single_sequences_are_those_of_the_kept_json(file, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    result = json.loads(file.read_text(encoding="utf-8"))
    table = file.with_suffix(".md").read_text(encoding="utf-8")
    assert report("single_sequences").markdown(result) == table


def test_results_of_one_machine_alone_are_joined(long_sequences):
    same = {"cpu": "x", "cores": 2, "instructions": "", "versions": {}, "threads": 2}
    old = {**same, "seconds": {"race": {"pixel": 1}, "lengths": {"T=4096": 2, "T=65536": 3}}}
    new = {**same, "seconds": {"lengths": {"T=1024": 4, "T=4096": 5}}}
    seconds = long_sequences.joined(old, new)["seconds"]
    assert seconds["race"] == {"pixel": 1}
    assert list(seconds["lengths"].items()) == [("T=1024", 4), ("T=4096", 5), ("T=65536", 3)]
    with pytest.raises(ValueError, match="differ in cpu: measure all parts"):
        long_sequences.joined(old, {**new, "cpu": "y"})


def test_a_ratio_above_one_means_faster_than_the_reference():
    times = {"reference": [2.0, 3.0, 4.0], "own": [1.0, 1.0, 1.0]}
    assert report().speed(times, "reference", "own") == "3.00 (2.20–3.80)"


def test_an_implementation_with_fewer_rounds_is_compared_in_those():
    times = {"reference": [4.0, 4.0, 4.0, 9.0], "slow": [8.0, 8.0, 8.0]}
    assert report().speed(times, "reference", "slow") == "0.50 (0.50–0.50)"


def test_other_counts_of_threads_and_the_ratio_to_torch_have_tables():
    run = {"tiny": {"torch.nn.LSTM": [2.0], "torch UR": [1.0], "NumPy UR": [1.2]}}
    memory = {name: {"ready_mb": 10, "peak_mb": 30} for name in run["tiny"]}
    result = {
        "date": "", "cpu": "", "instructions": "", "cores": 2, "load": 0, "versions": {},
        "threads": 2, "rounds": 1, "reference": "torch.nn.LSTM",
        "shapes": {"tiny": {"time": 1, "batch": 1, "input": 1, "hidden": 1}},
        "seconds": {"kept": run, "default": run}, "other_threads": {"1": run},
        "inference": run, "memory": {"tiny": memory},
    }  # fmt: skip
    text = report().markdown(result)
    assert "| NumPy UR | 1.20 (1.20–1.20) |" in text  # of torch's time
    assert text.count("| NumPy UR | 1.67 (1.67–1.67) |") == 4  # the faster beside torch.nn.LSTM
    assert "with 1 thread, memory-reusing allocator" in text
    assert "| torch UR | 30 (1.00; 20) |" in text
