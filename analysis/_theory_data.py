"""The arrays of the theory's figures, computed by the library."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

import gatecore
from gatecore import Gate, Mechanism
from gatecore.analysis import _theory_plots
from gatecore.analysis._cell_diagram import refined_cell
from gatecore.analysis._style import Curve
from gatecore.analysis.gradients import gradient_bounds
from gatecore.analysis.initial import initial_gate_density
from gatecore.analysis.saturation import precision_loss
from gatecore.analysis.timescales import timescale_quantile


def theory() -> dict[str, Figure]:
    """All figures that need no run, by name; see :func:`gatecore.analysis.figures.theory`."""
    unit = np.linspace(0, 1, 401)
    logit = np.linspace(-6, 6, 401)
    g = np.concatenate([np.logspace(-4, np.log10(0.5), 200), 1 - np.logspace(-4, -0.31, 200)[::-1]])
    steps = np.logspace(0.4, 12, 300)
    bfloat16 = precision_loss(steps, "bfloat16")
    densities = [{label: _density(m) for label, m in panel.items()} for panel in _TABLE4]
    return {"figure1_refined_cell": refined_cell(),
            "figure2a_adjustment": _theory_plots.adjustment(unit),
            "figure2b_band": _theory_plots.effective_band(logit),
            "figure2c_contours": _theory_plots.refine_contours(unit, unit),
            "figure2d_gradient": _theory_plots.gradient_ratio(g, *gradient_bounds(g)),
            "table4_tails": _theory_plots.timescale_tails(*map(_tails, _TABLE4)),
            "table4_densities": _theory_plots.timescale_densities(*densities),
            "precision_float32": _theory_plots.precision(steps, precision_loss(steps), "float32"),
            "precision_bfloat16": _theory_plots.precision(steps, bfloat16, "bfloat16")}  # fmt: skip


_SIZE = 512
_TABLE4: tuple[dict[str, Mechanism], ...] = (
    {"standard": gatecore.mechanism("standard"),
     "C, T_max = 784": gatecore.mechanism("C", t_max=784),
     "C without T_max": gatecore.mechanism("C", t_max=None),
     **{name: gatecore.mechanism(name) for name in ("U", "O", "R")}},
    {"UR, opposed": gatecore.mechanism("UR", refine_bias="opposed"),
     "UR, uniform": gatecore.mechanism("UR"),
     **{name: gatecore.mechanism(name) for name in ("OR", "UM")},
     "OM": gatecore.mechanism("OM", downsize=16)},
)  # fmt: skip


def _tails(mechanisms: Mapping[str, Mechanism]) -> dict[str, Curve]:
    beyond = np.logspace(0, -3.5, 400)
    quantiles = {k: timescale_quantile(m, _SIZE, 1 - beyond) for k, m in mechanisms.items()}
    return {label: (np.minimum(steps, 1e9), beyond) for label, steps in quantiles.items()}


def _density(mechanism: Mechanism) -> Curve:
    """Density of ln D: that of g divided by D; without T_max the continuous analogue."""
    if mechanism.activation == "sigmoid" and mechanism.initial == "constant":
        return timescale_quantile(mechanism, _SIZE, np.array([0.5])), np.ones(1)
    steps = np.logspace(1e-3, 4, 800)
    if mechanism.initial == "chrono" and mechanism.t_max is None:
        steps = steps[steps >= 2]
        return steps, np.log(2) / np.log(steps) ** 2
    return steps, initial_gate_density(mechanism, Gate(1 - 1 / steps, 1 / steps)) / steps
