"""The layers that train, forward and backward, against the paper's cells (equations 1-37)."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import sympy

import gatecore
from gatecore.analysis import _transcription as paper
from gatecore.analysis._claim import CORRECTED, HOLDS, PRINTED, Proposition, Result, claim
from gatecore.analysis._exact import same, symbolic_gate

Arrays = dict[str, np.ndarray]
_TIME, _BATCH, _INPUTS, _SIZE = 3, 2, 3, 4
_STEP = 1e-30  # of the complex-step derivative, which loses nothing to rounding


class Layer(NamedTuple):
    """An implementation of a whole layer: a backend's ``layer_vjp``, and the dtype it takes."""

    name: str
    vjp: Callable[..., tuple[Any, dict[str, Any]]]
    dtype: str = "float64"


class _Case(NamedTuple):
    core: str
    mechanism: str = "standard"
    zoneout: Any = None  # of c and h, or of h

    def arrays(self) -> tuple[Arrays, np.ndarray]:
        """Random parameters, x and state by name, exact in float32, and a cotangent."""
        rng = np.random.default_rng(8)
        cell = self.cell
        shapes = cell.parameter_shapes() | {"x": (_TIME, _BATCH, _INPUTS)}
        shapes |= dict.fromkeys(cell.state_names, (_BATCH, _SIZE))
        *arrays, cotangent = (rng.standard_normal(shape).astype(np.float32).astype(float)
                              for shape in (*shapes.values(), (_TIME, _BATCH, _SIZE)))  # fmt: skip
        return dict(zip(shapes, arrays, strict=True)), cotangent

    @property
    def cell(self) -> gatecore.cells.Cell:
        return gatecore.cells.CELLS[self.core](_INPUTS, _SIZE, self.gating)

    @property
    def gating(self) -> gatecore.Mechanism:
        by_end = {"M": {"downsize": 2}, "RR": {"tied": False}}
        fields: Any = next((by_end[end] for end in by_end if self.mechanism.endswith(end)), {})
        return gatecore.mechanism(self.mechanism.replace("RR", "R"), **fields)

    def printed(self, arrays: Arrays) -> np.ndarray:
        """The outputs by the paper's equations."""
        keep = (0, 0) if self.zoneout is None else np.atleast_1d(self.zoneout)[::-1]
        return paper.outputs(self.core, self.mechanism, arrays, keep)

    def by_cell(self, arrays: Arrays) -> np.ndarray:
        """The outputs by ``gatecore.cells``: its scan, or its steps with zoneout."""
        cell = self.cell
        state = cell.state([arrays[name] for name in cell.state_names])
        if self.zoneout is None:
            return cell.scan(arrays, arrays["x"], state)[0]
        outputs = []
        for x in arrays["x"]:
            output, state = cell.step(arrays, x, state, self.zoneout)
            outputs.append(output)
        return np.stack(outputs)

    def slope(self, arrays: Arrays, cotangent: np.ndarray, name: str, along: np.ndarray) -> float:
        """The derivative of ⟨cotangent, outputs⟩ by one array, in the direction ``along``."""
        moved = arrays | {name: arrays[name] + 1j * _STEP * along}
        return float(np.sum(cotangent * self.printed(moved).imag)) / _STEP

    def errors(self, layer: Layer) -> tuple[float, float]:
        """Relative errors of a layer's outputs and of its gradient, the worst over all arrays."""
        arrays, cotangent = self.arrays()
        given = {name: array.astype(layer.dtype) for name, array in arrays.items()}
        above = cotangent.astype(layer.dtype)
        outputs, gradient = layer.vjp(self.core, given, above, self.gating, zoneout=self.zoneout)
        worst, rng = 0.0, np.random.default_rng(9)
        for name, array in arrays.items():
            along = rng.standard_normal(array.shape)
            exact = self.slope(arrays, cotangent, name, along)
            error = abs(float(np.sum(np.asarray(gradient[name], float) * along)) - exact)
            worst = max(worst, error / (abs(exact) + float(np.linalg.norm(along))))
        return _distance(outputs, self.printed(arrays)), worst


def _distance(values: Any, exact: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(values) - exact) / np.linalg.norm(exact))


def _check(cases: Iterable[_Case], layers: Iterable[Layer]) -> Result:
    cell = max(_distance(case.by_cell(case.arrays()[0]), case.printed(case.arrays()[0]))
               for case in cases)  # fmt: skip
    facts: list[tuple[str, Any]] = [(f"gatecore.cells: error {cell:.0e}", cell < 1e-13)]
    for layer in layers:
        errors = np.array([case.errors(layer) for case in cases]).max(axis=0)
        limit = 1e-12 if layer.dtype == "float64" else 2e-6
        text = f"{layer.name}: error {errors[0]:.0e}, of the gradient {errors[1]:.0e}"
        facts.append((text, errors.max() < limit))
    return True, facts


_CLAIMS = {
    "Equations (2)-(8)": ("The LSTM: f, i, o = sigmoid(L), u = tanh(L), c' = f c + i u, "
                          "h' = o tanh(c')", [_Case("lstm")]),
    "Equations (9)-(15)": (
        "The UR-LSTM: c' = g c + (1-g)u, with g from f and r by (12)", [_Case("lstm", "UR")]),
    "Equations (19)-(23), B.4": ("The OM-LSTM: cumax master gates, each for C neighbours, over "
                                 "sigmoid gates", [_Case("lstm", "OM")]),
    "Equations (28), (29)": (
        "The O-LSTM: f = cumax(L_f), i = 1 - cumax(L_i)", [_Case("lstm", "O")]),
    "Equations (32), (33)": (
        "The UM-LSTM: sigmoid master gates in (21)-(23)", [_Case("lstm", "UM")]),
    "Equations (34)-(37)": (
        "The OR-LSTM: f = cumax(L_f), refined by r, and i = 1 - g", [_Case("lstm", "OR")]),
    "Section 2.4, input gate": ("An independent input gate can be modified by its own refine gate",
                                [_Case(core, "URR") for core in ("lstm", "gru", "minimal")]),
    "Section 3.2, GRU": ("The same gating mechanisms are applied to the GRU",
                         [_Case("gru", name) for name in ("standard", "UR", "OM")]),
    "B.4, simplest gated model": ("h' = f h + (1-f) tanh(L_u), f = sigmoid(L_f)",
                                  [_Case("minimal", name) for name in ("standard", "UR", "OM")]),
    "D.2, zoneout": ("The UR-LSTM with zoneout .5 and .05 and the UR-GRU with .1 keep so much of "
                     "the old states", [_Case("lstm", "UR", (0.5, 0.05)), _Case("gru", "UR", 0.1)]),
}  # fmt: skip


def propositions(layers: Iterable[Layer]) -> tuple[Proposition, ...]:
    """The claims on cells, checked on ``gatecore.cells`` and on these layers."""
    layers = tuple(layers)
    truth = "As stated, forward and backward, in every backend that is installed"
    return tuple(Proposition(name, statement, truth, PRINTED, HOLDS,
                             functools.partial(_check, cases, layers))
                 for name, (statement, cases) in _CLAIMS.items())  # fmt: skip


@claim("Equation (1)", HOLDS, "h' = f h + i u with gates f and i in [0, 1]; with f + i = 1 it is f "
       "h + (1-f)u", "As stated, and `cells.update` computes it for gates of any size")  # fmt: skip
def _check_update() -> Result:
    state, candidate = sympy.symbols("h u")
    (f, forget), (i, input) = map(symbolic_gate, "fi")
    untied, tied = (gatecore.cells.update(state, candidate, forget, *g) for g in ((input,), ()))
    rng = np.random.default_rng(0)
    f_, i_ = (gatecore.sigmoid(8 * rng.standard_normal(999)) for _ in range(2))
    c, u = rng.standard_normal((2, 999))
    exact = f_.value * c + i_.value * u
    error = abs(gatecore.cells.update(c, u, f_, i_) - exact) / (abs(c) + abs(u))
    return True, [("f h + i u", same(untied, f * state + i * candidate)),
                  ("tied: f h + (1-f)u", same(tied, f * state + (1 - f) * candidate)),
                  (f"999 random gates in floating point: error {error.max():.0e}",
                   error.max() < 1e-15)]  # fmt: skip


@claim("Footnote 4", CORRECTED, "The simplest gated model is the JANET, a GRU without reset gate, "
       "a recurrent highway network of depth 1", "The last two as stated; JANET also shifts the "
       "input gate's logit by a constant, here 0", PRINTED)  # fmt: skip
def _check_footnote() -> Result:
    case, full = _Case("minimal"), _Case("gru")
    arrays, _ = case.arrays()
    outputs = case.by_cell(arrays)
    ungated = {name: np.concatenate([np.zeros_like(arrays[name][:_SIZE]), arrays[name]])
               for name in case.cell.parameter_shapes()}  # fmt: skip
    ungated["bias"][:_SIZE] = 800  # the reset gate is 1
    as_gru = full.by_cell(arrays | ungated | {"bias_n": np.zeros(_SIZE)})
    h, highway = arrays["h"], []
    for x in arrays["x"]:  # Zilly et al.: s' = h∘t + s∘(1 − t), t the transform gate
        z = x @ arrays["weight_ih"].T + arrays["bias"] + h @ arrays["weight_hh"].T
        transform = paper.sigmoid(-z[:, :_SIZE])
        h = np.tanh(z[:, _SIZE:]) * transform + h * (1 - transform)
        highway.append(h)
    return False, [
        ("a GRU with reset gate 1 and b_n = 0 has its outputs", _distance(as_gru, outputs) < 1e-14),
        ("so has a highway layer with transform gate 1-f, carry gate f",
         _distance(np.stack(highway), outputs) < 1e-14)]  # fmt: skip
