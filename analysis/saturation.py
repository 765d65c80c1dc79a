"""Precision of gates near 1 in float32 and bfloat16, with and without their complement."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, _checks
from gatecore.analysis._claim import CORRECTED, HOLDS, PRECISION, Result, claim

Floats = np.ndarray
ULP = 2.0**-24  # spacing of float32 just below 1
SIGNIFICAND = {"float64": 53, "float32": 24, "bfloat16": 8}  # in bits


class PrecisionLoss(NamedTuple):
    """Relative errors (...) of a refined timescale for three ways to form 1 − g.

    ``printed``: 1 − (2rf + (1 − 2r)f²), Appendix D.5; ``subtracted``: 1 minus the accurate g;
    ``pair``: the complement that `gatecore.refine` returns. An infinite timescale has error ∞.
    """

    printed: Floats
    subtracted: Floats
    pair: Floats


def rounded(x: ArrayLike, dtype: str) -> Floats:
    """x rounded to the nearest numbers of ``dtype``, ties to even, as a float64 array (...).

    ``dtype`` is "float64", "float32" or "bfloat16", with unlimited exponents.
    """
    fraction, exponent = np.frexp(np.asarray(_checks.unmasked("x", x), dtype=np.float64))
    scale = largest_timescale(dtype)  # 2ᵖ
    return np.ldexp(np.rint(fraction * scale) / scale, exponent)


def largest_timescale(dtype: str) -> float:
    """Longest finite timescale in steps of a gate stored as its value alone: 2ᵖ for p bits.

    ``dtype`` is "float64", "float32" or "bfloat16", else ValueError.

    >>> largest_timescale("float32"), largest_timescale("bfloat16")
    (16777216.0, 256.0)
    """
    return 2.0 ** SIGNIFICAND[_checks.choice("dtype", dtype, SIGNIFICAND)]


def precision_loss(timescale: ArrayLike, dtype: str = "float32",
                   refine_logit: float = 1.0) -> PrecisionLoss:  # fmt: skip
    """Relative error, in [0, ∞], of the refined timescale (equation 12, D.5) in low precision.

    The gates are computed in float32 from float32 logits, and then rounded to ``dtype``: "float64",
    "float32" or "bfloat16". ``timescale`` (...), in steps, is that of the main gate. ValueError if
    one is 1 step or less, or if ``dtype`` is unknown.

    >>> loss = precision_loss(1e7)
    >>> bool(loss.subtracted > 0.01), bool(loss.pair < 1e-6)
    (True, True)
    """
    steps = np.asarray(_checks.unmasked("timescale", timescale), dtype=np.float64)
    if not np.all(steps > 1):
        raise ValueError(f"timescale must be above 1 step, got {np.min(steps)}: leave out gates at "
                         "0, whose timescale is 1")  # fmt: skip
    x = np.log(steps - 1).astype(np.float32)
    y = np.full_like(x, refine_logit)
    exact = _refined(x.astype(np.float64), y.astype(np.float64)).complement
    gate = Gate(*(rounded(side, dtype) for side in _refined(x, y)))
    f, r = (rounded(gatecore.sigmoid(logit).value, dtype).astype(np.float32) for logit in (x, y))
    printed = rounded(2 * r * f + (1 - 2 * r) * f**2, dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = 1 - printed, 1 - gate.value, gate.complement
        return PrecisionLoss(*(abs(exact / side - 1) for side in sides))


def update_error(timescale: float, steps: int, units: int = 64) -> dict[str, float]:
    """Relative error of a float32 state after many tied updates (equation 13), in three forms.

    These are "lerp": ``cells.update``, which is c + ḡ(u − c) where g ≥ ½, a ``timescale`` of 2
    steps or more, and else the sum "weighted": g·c + ḡ·u; and "subtracted": g·c + (1 − g)·u. The
    candidates u are uniform in (0, 1), the same for all forms and for the float64 reference.
    ``timescale`` is above 1, the error the largest of ``units`` states.

    >>> error = update_error(1e6, 1000)
    >>> error["lerp"] < error["subtracted"]
    True
    """
    rng = np.random.default_rng(0)
    gate = Gate(*(np.float32(side) for side in (1 - 1 / timescale, 1 / timescale)))
    forms = {
        "lerp": lambda c, u: gatecore.cells.update(c, u, gate),
        "weighted": lambda c, u: gate.value * c + gate.complement * u,
        "subtracted": lambda c, u: gate.value * c + (np.float32(1) - gate.value) * u,
    }
    exact = np.zeros(units)
    states = {name: np.zeros(units, dtype=np.float32) for name in forms}
    for _ in range(steps):
        u = rng.random(units, dtype=np.float32)
        exact += (u - exact) / timescale
        states = {name: update(states[name], u) for name, update in forms.items()}
    return {name: float(np.max(abs(c / exact - 1))) for name, c in states.items()}


def _refined(x: Floats, y: Floats) -> Gate:
    return gatecore.refine(gatecore.sigmoid(x), gatecore.sigmoid(y))


# ---- the claims ------------------------------------------------------------------------------


def worst_errors(reach: float = 40.0, count: int = 321) -> dict[str, float]:
    """Largest relative errors of equation (12) in ulp, over a grid of float32 logits ±``reach``."""
    x, y = np.meshgrid(*(np.linspace(-reach, reach, count, dtype=np.float32),) * 2)
    exact = _refined(x.astype(np.float64), y.astype(np.float64))
    pair = _refined(x, y)
    f, r = gatecore.sigmoid(x).value, gatecore.sigmoid(y).value
    printed = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
    return {"value": _ulps(pair.value, exact.value),
            "complement": _ulps(pair.complement, exact.complement),
            "printed": _ulps(printed, exact.value),
            "subtracted": _ulps(1 - pair.value, exact.complement)}  # fmt: skip


def _ulps(values: Floats, exact: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(abs(values.astype(np.float64) / exact - 1))) / ULP


@claim("D.5, in float32", CORRECTED, "(12) can instead be implemented as 2rf + (1-2r)f^2",
       "As algebra; but either loses 1-g, which sets the timescale: both sides are needed",
       PRECISION)  # fmt: skip
def _check_float32() -> Result:
    worst = worst_errors()
    last = largest_timescale("float32")
    return worst["subtracted"] < 100, [
        (f"refine: worst error {worst['value']:.1f} and {worst['complement']:.1f} ulp over logits "
         "+-40", max(worst["value"], worst["complement"]) < 8),
        (f"(12) as printed: {worst['printed']:.0e} ulp, 1 - g: {worst['subtracted']:.0e} ulp",
         min(worst["printed"], worst["subtracted"]) > 1e6),
        ("stored as a value alone, a float32 gate has at most 2^24 steps",
         np.float32(1 - 1 / last) < 1 and np.float32(1 - 1 / (2 * last)) == 1),
        ("refine keeps D = 10^12 to 1e-6", precision_loss(1e12).pair < 2e-6)]  # fmt: skip


@claim("Section 2.2, in bfloat16", HOLDS, "", "As values in bfloat16 gates do not cover long "
       "timescales: they are 1 from D = 512 on", PRECISION)  # fmt: skip
def _check_bfloat16() -> Result:
    steps = np.array([256.0, 511.0, 512.0, 1e3])
    values = rounded(1 - 1 / steps, "bfloat16")
    loss = precision_loss(np.array([1e3, 1e18]), "bfloat16")
    complement = rounded(1 / 300, "bfloat16")
    limit = complement / (1 - rounded(1 - 1 / 300, "bfloat16"))
    return True, [
        ("the value alone is 1 from D = 512 on: g c + (1-g)u then never forgets",
         list(values < 1) == [True, True, False, False]),
        (f"D = 300: g c + (1-g)u tends to {limit:.3f} u, c + (1-g)(u-c) to u",
         abs(limit - 1) > 0.1),
        ("the complement of a pair is accurate to 0.4 %", np.all(loss.pair < 2.0**-8))]  # fmt: skip


@claim("Equation (13), in float32", CORRECTED, "c' = g c + (1-g)u", "As c + (1-g)(u-c), with 1-g "
       "from its own formula, it is accurate at long timescales", PRECISION)  # fmt: skip
def _check_update() -> Result:
    error = update_error(1e6, 20000)
    text = ", ".join(f"{name} {value:.0e}" for name, value in error.items())
    return error["subtracted"] < 1e-4, [
        (f"relative error after 20000 steps: {text}",
         error["lerp"] < 1e-4 < error["weighted"] < error["subtracted"])]  # fmt: skip
