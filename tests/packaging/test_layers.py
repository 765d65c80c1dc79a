"""Who may import whom: the rules of docs/architecture, checked on the syntax of every module."""

import ast
import graphlib
import sys

import pytest

from tests.packaging.layout import modules

CORE = {"numpy", "array_api_compat"}
# A backend's own framework; what several backends share may import nothing beyond the core's own.
FRAMEWORKS = {
    "numpy": set(),
    "cupy": {"cupy"},
    "torch": {"torch", "lightning", "wandb"},  # the last two by the callback alone
    "jax": {"jax", "equinox", "flax", "optax"},
    "keras": {"keras"},  # torch or JAX only through gatecore.backends.load
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
    "wandb",
}


MODULES = list(modules())


def imported(source):
    """Dotted names that a module's source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if (node.module or "").startswith("gatecore"):  # `from gatecore import tasks`
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


# A subpackage imports its own modules and those of the ranks before it, never of a later one.
RANKS = {
    "gatecore.backends": ("common", "native", "numpy", "cuda", "cupy torch jax", "keras"),
    "gatecore.backends.torch": (
        "sequence",
        "nn",
        "inspect",
        "memory_cores",
        "training",
        "rl",
    ),
    "gatecore.tasks": ("environments", "problems", "training", "sweeps reports", "cli"),
}
MOST_ARROWS = {"gatecore.backends.torch": 20, "gatecore.tasks": 16}


def part(module):
    """The folder that a module of gatecore belongs to."""
    second = [*module.split("."), ""][1]
    return second if second in ("analysis", "backends", "tasks") else "gatecore"


def subpackage(module, package):
    """The first folder or module below `package` that holds `module`, or None."""
    inside = module.startswith(f"{package}.")
    return module.removeprefix(f"{package}.").partition(".")[0] if inside else None


def rank(module, package):
    """The number of the rank of `package` that `module` is in, or None."""
    name = subpackage(module, package)
    for number, names in enumerate(RANKS[package]):
        if name in names.split():
            return number
    return None


def allowed_third_party(module):
    """Top-level names outside gatecore and the standard library that a module may import."""
    if part(module) == "backends":
        return CORE | FRAMEWORKS.get(subpackage(module, "gatecore.backends"), set())
    return {"gatecore": CORE, "analysis": ANALYSIS, "tasks": TASKS}[part(module)]


def goes_up(module, target):
    """Whether `target` is of a later rank than `module`, or another subpackage of the same."""
    for package in RANKS:
        here, there = rank(module, package), rank(target, package)
        same_subpackage = subpackage(module, package) == subpackage(target, package)
        if None not in (here, there) and not same_subpackage and there >= here:
            return True
    return False


def allowed_own(module, target):
    """Whether `module` may import `target`, both of gatecore."""
    reach = {
        "gatecore": {"gatecore"},
        "backends": {"gatecore", "backends"},
        "analysis": {"gatecore", "analysis"},
        "tasks": {"gatecore", "backends", "analysis", "tasks"},
    }
    if goes_up(module, target):
        return False
    if part(module) == "tasks" and part(target) == "backends":
        return target in ("gatecore.backends", "gatecore.backends.load")
    if subpackage(module, "gatecore.backends") == "keras" and part(target) == "backends":
        return subpackage(target, "gatecore.backends") in (None, "load", "common", "keras")
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
        ("gatecore.backends.native.layer", "from gatecore.backends.numpy import bptt"),
        ("gatecore.backends.torch.sequence.native", "import gatecore.backends.torch.nn.layers"),
        ("gatecore.tasks.problems.base", "from gatecore.tasks.training import config"),
        ("gatecore.tasks.reports.report", "from gatecore.tasks.sweeps import config"),
        ("gatecore.backends.torch", "def late():\n    import gatecore.backends.jax"),
        ("gatecore.backends.numpy.bptt", "import cupy"),
        ("gatecore.backends.jax", "import gatecore.backends.keras"),
        ("gatecore.backends.keras.layers", "import torch"),
        ("gatecore.backends.keras.layers", "from gatecore.backends.torch import lstm"),
        ("gatecore.backends.numpy", "import gatecore.tasks"),
        ("gatecore.analysis.figures", "from gatecore.backends import load"),
        ("gatecore.tasks.training.trainer", "import gatecore.backends.numpy"),
        ("gatecore.tasks.training.trainer", "import jax.numpy as jnp"),
        ("gatecore.tasks.cli", "import tasks.trainer"),
    ],
)
def test_the_rules_refuse(module, source):
    assert list(violations(module, source))


def arrows(package):
    """The pairs of different subpackages of `package` of which the first imports the second."""
    pairs = set()
    for module, file in MODULES:
        for target in imported(file.read_text(encoding="utf-8")):
            pair = subpackage(module, package), subpackage(target, package)
            if (
                None not in pair
                and pair[0] != pair[1]
                and None
                not in (
                    rank(module, package),
                    rank(target, package),
                )
            ):
                pairs.add(pair)
    return sorted(pairs)


@pytest.mark.parametrize("package", MOST_ARROWS)
def test_few_imports_run_between_subpackages(package):
    found = arrows(package)
    print(f"{package}: {len(found)} arrows")
    print(*(f"  {importer} -> {imported}" for importer, imported in found), sep="\n")
    assert len(found) <= MOST_ARROWS[package]


def test_every_folder_of_a_ranked_package_has_a_rank():
    for package, ranks in RANKS.items():
        folder = dict(MODULES)[package].parent
        folders = {path.name for path in folder.iterdir() if (path / "__init__.py").is_file()}
        assert folders <= set(" ".join(ranks).split())


def test_no_modules_import_each_other_in_a_circle():
    names = {module for module, _ in MODULES}
    sorter = graphlib.TopologicalSorter()
    for module, file in MODULES:
        targets = {t for t in imported(file.read_text(encoding="utf-8")) if t in names}
        packages = {t for t in targets if any(other.startswith(f"{t}.") for other in targets)}
        sorter.add(module, *(targets - packages - {module}))
    sorter.prepare()  # raises CycleError, with the circle
