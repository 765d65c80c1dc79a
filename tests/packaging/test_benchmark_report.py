"""The kept benchmark: its table is the one that its JSON gives."""

import importlib.util
import json

from tests.packaging.layout import ROOT

RESULTS = ROOT / "benchmarks" / "results"


def report():
    """The module that writes the tables; benchmarks/ is a folder of scripts, not a package."""
    spec = importlib.util.spec_from_file_location("report", ROOT / "benchmarks" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_kept_table_is_that_of_the_kept_json():
    result = json.loads((RESULTS / "cpu-layers.json").read_text(encoding="utf-8"))
    assert report().markdown(result) == (RESULTS / "cpu-layers.md").read_text(encoding="utf-8")


def test_a_ratio_above_one_means_faster_than_the_reference():
    times = {"reference": [2.0, 3.0, 4.0], "own": [1.0, 1.0, 1.0]}
    assert report()._speed(times, "reference", "own") == "3.00 (2.20–3.80)"
