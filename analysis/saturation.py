"""What float32 and bfloat16 leave of gates near 1, and what a gate with its complement keeps."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate
from gatecore.analysis._claim import (
    CORRECTED,
    FALSE,
    PRECISION,
    Finding,
    Proposition,
    finding,
)

Floats = np.ndarray
ULP = 2.0**-24  # of float32 at 1, from below
SIGNIFICAND = {"float64": 53, "float32": 24, "bfloat16": 8}


class PrecisionLoss(NamedTuple):
    """Relative errors (...) of a refined timescale, by how 1 − g is formed.

    ``printed``: as 1 − (2rf + (1 − 2r)f²); ``subtracted``: 1 − the accurate g; ``pair``: the
    complement that `gatecore.refine` returns. An infinite timescale has error ∞.
    """

    printed: Floats
    subtracted: Floats
    pair: Floats


def rounded(x: ArrayLike, dtype: str) -> Floats:
    """float64 array (...) of the numbers of ``dtype`` nearest to x (ties to even).

    ``dtype`` is "float64", "float32" or "bfloat16"; exponents are not limited.
    """
    if dtype not in SIGNIFICAND:
        raise ValueError(f"dtype must be one of {', '.join(SIGNIFICAND)}, got {dtype!r}")
    fraction, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    scale = 2.0 ** SIGNIFICAND[dtype]
    return np.ldexp(np.rint(fraction * scale) / scale, exponent)


def largest_timescale(dtype: str) -> float:
    """The longest finite timescale, in steps, of a gate stored as its value alone.

    Examples
    --------
    >>> largest_timescale("float32"), largest_timescale("bfloat16")
    (16777216.0, 256.0)
    """
    return 2.0 ** SIGNIFICAND[dtype]


def precision_loss(
    timescale: ArrayLike, dtype: str = "float32", refine_logit: float = 1.0
) -> PrecisionLoss:
    """How wrong the refined timescale comes out where the main gate's is ``timescale`` steps.

    The gates are computed in float32 from float32 logits, and then rounded to ``dtype``.

    Parameters
    ----------
    timescale : array (...), above 1
    dtype : {"float32", "bfloat16"}
    refine_logit : float

    Examples
    --------
    >>> loss = precision_loss(1e7)
    >>> bool(loss.subtracted > 0.01), bool(loss.pair < 1e-6)
    (True, True)
    """
    steps = np.asarray(timescale, dtype=np.float64)
    if not np.all(steps > 1):
        raise ValueError("timescale must be above 1 step")
    x = np.log(steps - 1).astype(np.float32)
    y = np.full_like(x, refine_logit)
    exact = _refined(x.astype(np.float64), y.astype(np.float64)).complement
    gate = Gate(*(rounded(side, dtype) for side in _refined(x, y)))
    f, r = (rounded(gatecore.sigmoid(logit).value, dtype).astype(np.float32) for logit in (x, y))
    printed = rounded(2 * r * f + (1 - 2 * r) * f**2, dtype)
    with np.errstate(divide="ignore", invalid="ignore"):
        return PrecisionLoss(
            *(abs(exact / side - 1) for side in (1 - printed, 1 - gate.value, gate.complement))
        )


def update_error(timescale: float, steps: int, units: int = 64) -> dict[str, float]:
    """Relative error of a float32 state c after many tied updates, in three forms.

    "lerp": c + ḡ(u − c), as the library's cells have it; "weighted": g·c + ḡ·u; "subtracted":
    g·c + (1 − g)·u. The candidates u are uniform in (0, 1), the same for all and for the float64
    reference.
    """
    rng = np.random.default_rng(0)
    gate = Gate(*(np.float32(side) for side in (1 - 1 / timescale, 1 / timescale)))
    exact = np.zeros(units)
    states = {
        name: np.zeros(units, dtype=np.float32) for name in ("lerp", "weighted", "subtracted")
    }
    wrong = np.float32(1) - gate.value
    for _ in range(steps):
        u = rng.random(units, dtype=np.float32)
        exact += (u - exact) / timescale
        lerp, weighted, subtracted = states.values()
        states = {
            "lerp": gatecore.cells.update(lerp, u, gate),
            "weighted": gate.value * weighted + gate.complement * u,
            "subtracted": gate.value * subtracted + wrong * u,
        }
    return {name: float(np.max(abs(c / exact - 1))) for name, c in states.items()}


def _refined(x: Floats, y: Floats) -> Gate:
    return gatecore.refine(gatecore.sigmoid(x), gatecore.sigmoid(y))


# ---- the claims ------------------------------------------------------------------------------


def worst_errors(reach: float = 40.0, count: int = 321) -> dict[str, float]:
    """Largest relative errors in ulp over a grid of float32 logits ±``reach``."""
    x, y = np.meshgrid(*(np.linspace(-reach, reach, count, dtype=np.float32),) * 2)
    exact = _refined(x.astype(np.float64), y.astype(np.float64))
    pair = _refined(x, y)
    f, r = gatecore.sigmoid(x).value, gatecore.sigmoid(y).value
    twelve = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
    return {
        "value": _ulps(pair.value, exact.value),
        "complement": _ulps(pair.complement, exact.complement),
        "printed": _ulps(twelve, exact.value),
        "subtracted": _ulps(1 - pair.value, exact.complement),
    }


def _ulps(found: Floats, exact: Floats) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(abs(found.astype(np.float64) / exact - 1))) / ULP


def check_float32() -> Finding:
    """D.5's form of (12), and `refine`, in float32."""
    worst = worst_errors()
    last = largest_timescale("float32")
    return finding(
        worst["subtracted"] < 100,
        (f"refine: worst error {worst['value']:.1f} and {worst['complement']:.1f} ulp over logits "
         "+-40", max(worst["value"], worst["complement"]) < 8),
        (f"(12) as printed: {worst['printed']:.0e} ulp, 1 - g: {worst['subtracted']:.0e} ulp",
         min(worst["printed"], worst["subtracted"]) > 1e6),
        ("as a value alone a float32 gate ends at 2^24 steps",
         np.float32(1 - 1 / last) < 1 and np.float32(1 - 1 / (2 * last)) == 1),
        ("refine keeps D = 10^12 to 1e-6", precision_loss(1e12).pair < 2e-6),
    )  # fmt: skip


def check_bfloat16() -> Finding:
    """Long timescales with bfloat16 gates."""
    steps = np.array([256.0, 511.0, 512.0, 1e3])
    values = rounded(1 - 1 / steps, "bfloat16")
    loss = precision_loss(np.array([1e3, 1e18]), "bfloat16")
    complement = rounded(1 / 300, "bfloat16")
    fixed = complement / (1 - rounded(1 - 1 / 300, "bfloat16"))
    return finding(
        np.all(values < 1),
        ("the value alone is 1 from D = 512 on: g c + (1-g)u then never forgets",
         list(values < 1) == [True, True, False, False]),
        (f"D = 300: g c + (1-g)u tends to {fixed:.3f} u, c + (1-g)(u-c) to u",
         abs(fixed - 1) > 0.1),
        ("the complement of a pair keeps 0.4 %", np.all(loss.pair < 2.0**-8)),
    )  # fmt: skip


def check_update() -> Finding:
    """The state update (13) in float32 at D = 10^6."""
    error = update_error(1e6, 20000)
    shown = ", ".join(f"{name} {value:.0e}" for name, value in error.items())
    return finding(
        error["subtracted"] < 1e-4,
        (f"relative error after 20000 steps: {shown}",
         error["lerp"] < 1e-4 < error["weighted"] < error["subtracted"]),
    )  # fmt: skip


CLAIMS = (
    Proposition(
        "D.5, in float32",
        "(12) can instead be implemented as 2rf + (1-2r)f^2",
        "As algebra; but 1-g, which sets the timescale, is lost by either: both sides are needed",
        PRECISION, CORRECTED, check_float32,
    ),
    Proposition(
        "Section 2.2, in bfloat16",
        "Timescales of any length are covered by gates near 1",
        "Not by values in bfloat16: they are 1 from D = 512 on",
        PRECISION, FALSE, check_bfloat16,
    ),
    Proposition(
        "Equation (13), in float32",
        "c' = g c + (1-g)u",
        "As c + (1-g)(u-c), with 1-g from its own formula, it keeps long memories",
        PRECISION, CORRECTED, check_update,
    ),
)  # fmt: skip
