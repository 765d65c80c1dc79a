"""Who may import whom: the rules of docs/architecture, checked on the syntax of every module."""

import ast
import sys

import pytest

from tests.packaging.layout import modules

CORE = {"numpy", "array_api_compat"}
# A backend's own framework; what several backends share may import nothing beyond the core's own.
FRAMEWORKS = {
    "numpy": set(),
    "cupy": {"cupy"},
    "torch": {"torch"},
    "jax": {"jax", "flax", "optax"},
}
ANALYSIS = {"numpy", "sympy", "mpmath", "scipy", "matplotlib"}
TASKS = {
    "PIL",
    "click",
    "distributed",
    "gymnasium",
    "joblib",
    "jinja2",
    "markupsafe",
    "matplotlib",
    "numpy",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "tensorboardX",
    "threadpoolctl",
}


MODULES = list(modules())


def imported(source):
    """Dotted names that a module's source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.module in ("gatecore", "gatecore.backends"):  # `from gatecore import tasks`
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module):
    """The folder that a module of gatecore belongs to."""
    second = [*module.split("."), ""][1]
    return second if second in ("analysis", "backends", "tasks") else "gatecore"


def backend(module):
    """Which backend a module belongs to; None for what they share."""
    third = [*module.split("."), "", ""][2]
    return third if part(module) == "backends" and third in FRAMEWORKS else None


def allowed_third_party(module):
    """Top-level names outside gatecore and the standard library that a module may import."""
    if part(module) == "backends":
        return CORE | FRAMEWORKS.get(backend(module), set())
    return {"gatecore": CORE, "analysis": ANALYSIS, "tasks": TASKS}[part(module)]


def allowed_own(module, target):
    """Whether `module` may import `target`, both of gatecore."""
    reach = {
        "gatecore": {"gatecore"},
        "backends": {"gatecore", "backends"},
        "analysis": {"gatecore", "analysis"},
        "tasks": {"gatecore", "backends", "analysis", "tasks"},
    }
    if part(module) == "backends" and backend(target) not in (None, backend(module)):
        return False
    if part(module) == "tasks" and part(target) == "backends":
        return target in ("gatecore.backends", "gatecore.backends.load")
    return part(target) in reach[part(module)]


def violations(module, source):
    """The imports of `source` that the rules do not allow to `module`."""
    for name in imported(source):
        top = name.partition(".")[0]
        if top == "gatecore":
            if not allowed_own(module, name):
                yield name
        elif top not in sys.stdlib_module_names and top not in allowed_third_party(module):
            yield name


@pytest.mark.parametrize(("module", "file"), MODULES, ids=[name for name, _ in MODULES])
def test_a_module_imports_only_what_its_layer_may(module, file):
    assert not list(violations(module, file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gatecore.algebra", "import scipy"),
        ("gatecore.algebra", "from gatecore import backends"),
        ("gatecore.algebra", "from . import init"),
        ("gatecore.backends.numpy", "import torch"),
        ("gatecore.backends.torch", "def late():\n    import gatecore.backends.jax"),
        ("gatecore.backends.explicit.sequence", "from gatecore.backends import numpy"),
        ("gatecore.backends.explicit.sequence", "import cupy"),
        ("gatecore.backends.numpy", "import gatecore.tasks"),
        ("gatecore.analysis.figures", "from gatecore.backends import load"),
        ("gatecore.tasks.trainer", "import gatecore.backends.numpy"),
        ("gatecore.tasks.trainer", "import jax.numpy as jnp"),
        ("gatecore.tasks.cli", "import tasks.trainer"),
    ],
)
def test_the_rules_refuse(module, source):
    assert list(violations(module, source))
