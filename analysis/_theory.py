"""The arrays of the theory's figures, from the library's own functions."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

import gatecore
from gatecore import Gate, Mechanism
from gatecore.analysis import _plates
from gatecore.analysis._cell_diagram import refined_cell
from gatecore.analysis._style import Curve
from gatecore.analysis.gradients import gradient_bounds
from gatecore.analysis.initial import initial_gate_density
from gatecore.analysis.saturation import precision_loss
from gatecore.analysis.timescales import timescale_quantile


def theory() -> dict[str, Figure]:
    """All figures that need no run, by name, each made of arrays that the library computes."""
    unit = np.linspace(0, 1, 401)
    logit = np.linspace(-6, 6, 401)
    g = np.concatenate([np.logspace(-4, np.log10(0.5), 200), 1 - np.logspace(-4, -0.31, 200)[::-1]])
    steps = np.logspace(0.4, 12, 300)
    return {
        "figure1_refined_cell": refined_cell(),
        "figure2a_adjustment": _plates.adjustment(unit),
        "figure2b_band": _plates.effective_band(logit),
        "figure2c_contours": _plates.refine_contours(unit, unit),
        "figure2d_gradient": _plates.gradient_ratio(g, *gradient_bounds(g)),
        "table4_tails": _plates.timescale_tails(*map(_tails, _TABLE4)),
        "table4_densities": _plates.timescale_densities(*map(_densities, _TABLE4)),
        "precision_float32": _plates.precision(steps, precision_loss(steps), "float32"),
        "precision_bfloat16": _plates.precision(
            steps, precision_loss(steps, "bfloat16"), "bfloat16"
        ),
    }


_SIZE = 512
_TABLE4: tuple[dict[str, str | Mechanism], ...] = (
    {
        "standard": "standard",
        "C, T_max = 784": gatecore.mechanism("C", t_max=784),
        "C without T_max": gatecore.mechanism("C", t_max=None),
        "U": "U",
        "O": "O",
    },
    {
        "R": "R",
        "UR, opposed": "UR",
        "UR, uniform": gatecore.mechanism("UR", refine_bias="uniform"),
        "OR": "OR",
        "UM": "UM",
        "OM": gatecore.mechanism("OM", downsize=16),
    },
)


def _tails(mechanisms: Mapping[str, str | Mechanism]) -> dict[str, Curve]:
    beyond = np.logspace(0, -3.5, 400)
    return {
        label: (np.minimum(timescale_quantile(row, _SIZE, 1 - beyond), 1e9), beyond)
        for label, row in mechanisms.items()
    }


def _densities(mechanisms: Mapping[str, str | Mechanism]) -> dict[str, Curve]:
    return {label: _density(gatecore.mechanism(row)) for label, row in mechanisms.items()}


def _density(row: Mechanism) -> Curve:
    """Density of ln D, which is g's over D; without T_max the continuous analogue's."""
    if row.activation == "sigmoid" and row.initial == "constant":
        return timescale_quantile(row, _SIZE, np.array([0.5])), np.ones(1)
    steps = np.logspace(1e-3, 4, 800)
    if row.initial == "chrono" and row.t_max is None:
        return steps[steps >= 2], np.log(2) / np.log(steps[steps >= 2]) ** 2
    return steps, initial_gate_density(row, Gate(1 - 1 / steps, 1 / steps)) / steps
