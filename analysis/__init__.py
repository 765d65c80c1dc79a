"""What the mechanisms do, as mathematics and as pictures (extra ``analysis``).

``verify`` judges the paper's claims on the library's own functions; the other names are for
researchers. Modules and names are loaded when they are first used: the import itself is light.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatecore.analysis.claims import Claim, verify
    from gatecore.analysis.gradients import gradient_bounds
    from gatecore.analysis.initial import initial_gate_density
    from gatecore.analysis.ordered import ExpectedGates, expected_gates
    from gatecore.analysis.timescales import sample_timescales, timescale_quantile

_NEEDED = ("matplotlib", "scipy", "sympy")
_NAMES = {
    "Claim": "claims",
    "ExpectedGates": "ordered",
    "expected_gates": "ordered",
    "gradient_bounds": "gradients",
    "initial_gate_density": "initial",
    "sample_timescales": "timescales",
    "timescale_quantile": "timescales",
    "verify": "claims",
}

__all__ = [
    "Claim",
    "ExpectedGates",
    "chrono",
    "claims",
    "decay",
    "equivalence",
    "expected_gates",
    "figures",
    "gradient_bounds",
    "gradients",
    "initial",
    "initial_gate_density",
    "ordered",
    "permutation",
    "sample_timescales",
    "saturation",
    "timescale_quantile",
    "timescales",
    "verify",
]


def __getattr__(name: str) -> Any:
    """A module of the package, or a name exported from one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_NAMES.get(name, name)}")
    return getattr(module, name) if name in _NAMES else module


def __dir__() -> list[str]:
    return sorted(__all__)


def _missing() -> list[str]:
    return [name for name in _NEEDED if not _found(name)]


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # a finder that refuses it
        return False


if _missing():
    raise ModuleNotFoundError(
        f"gatecore.analysis needs {' and '.join(_missing())}, not installed here: "
        "pip install 'gatecore[analysis]'",
        name=_missing()[0],
    )
