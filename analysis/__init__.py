"""Checks of the paper's claims, initial distributions and figures (extra ``analysis``).

:func:`verify` checks every claim of the paper on the library's own functions. Modules and names
are imported on first use, so importing the package alone is fast.
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

_MODULE_OF = {
    "Claim": "claims", "ExpectedGates": "ordered", "expected_gates": "ordered",
    "gradient_bounds": "gradients", "initial_gate_density": "initial",
    "sample_timescales": "timescales", "timescale_quantile": "timescales", "verify": "claims",
}  # fmt: skip

__all__ = [
    "Claim", "ExpectedGates", "biases", "chrono", "claims", "decay", "equivalence",
    "expected_gates", "figures", "gradient_bounds", "gradients", "initial", "initial_gate_density",
    "layers", "ordered", "permutation", "sample_timescales", "saturation", "timescale_quantile",
    "timescales", "verify",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """A module of the package, or a name exported by one, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, name)}")
    return getattr(module, name) if name in _MODULE_OF else module


def __dir__() -> list[str]:
    return sorted(__all__)


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # an import hook blocks the package
        return False


if _missing := [name for name in ("matplotlib", "scipy", "sympy") if not _installed(name)]:
    raise ModuleNotFoundError(
        f"gatecore.analysis needs {' and '.join(_missing)}, not installed here: run "
        "pip install '.[analysis]' in gatecore's source folder",
        name=_missing[0],
    )
