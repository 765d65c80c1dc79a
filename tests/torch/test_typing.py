"""A type checker sees what layers and cells return."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
api = pytest.importorskip("mypy.api", reason="mypy is not installed")

HERE = Path(__file__).parent


def test_types_of_calls():
    config = str(HERE.parents[1] / "pyproject.toml")
    options = ["--config-file", config, "--follow-imports=silent"]
    report, errors, _ = api.run([*options, str(HERE / "typed_calls.py")])
    assert report.startswith("Success"), report + errors
