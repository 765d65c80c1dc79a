"""Initial biases: equations (9), (18), (30), (31), and the defaults of Sections 2.4 and 3."""

import numpy as np
import sympy
from scipy import stats

import gatecore
from gatecore import Gate, init
from gatecore.analysis._claim import HOLDS, PRECISION, SAMPLED, Result, claim
from gatecore.analysis._exact import same

_D = 64  # hidden size of the layers that are drawn


def _drawn(name: str, count: int = 1, **fields: int) -> dict[str, np.ndarray]:
    """Initial biases by slot, of the LSTMs that ``cells.LSTM.init`` draws from ``count`` seeds."""
    cell = gatecore.cells.LSTM(1, _D, gatecore.mechanism(name, **fields))
    return cell.split(np.stack([cell.init(seed)["bias"] for seed in range(count)]))


def _is_uniform(biases: np.ndarray, width: int = _D) -> bool:
    """Whether the sigmoid of the biases is a sample of U[1/width, 1 − 1/width], at level 1e-4."""
    shares = (gatecore.sigmoid(biases).value.ravel() - 1 / width) / (1 - 2 / width)
    inside = shares.min() > -1e-12 and shares.max() < 1 + 1e-12
    return bool(inside and stats.kstest(shares, "uniform").pvalue > 1e-4)


@claim("Equation (9), D.5", HOLDS, "b_f is the inverse sigmoid of a draw from U[1/d, 1-1/d]",
       "As stated: U- and UR-LSTMs start so, the widest gates at 1/d and 1-1/d",
       SAMPLED)  # fmt: skip
def _check_uniform_bias() -> Result:
    u = sympy.Symbol("u", positive=True)
    x = np.concatenate([np.linspace(-700, 700, 999), np.logspace(-9, 0, 99)])
    back = gatecore.logit(gatecore.sigmoid(x))
    plain = np.array([1e-9, 0.2, 0.5 + 1e-9, 0.9])
    exact = np.log(plain) - np.log1p(-plain)
    draws = np.random.default_rng(7).random(_D)
    gates = gatecore.sigmoid(init.uniform(_D, 7)).value
    return True, [
        ("logit is log(u/(1-u))", same(gatecore.logit(Gate(u, 1 - u)), sympy.log(u / (1 - u)))),
        ("it inverts sigmoid to 1e-14 over logits +-700",
         np.allclose(back, x, rtol=1e-14, atol=4e-16)
         and np.allclose(gatecore.logit(plain), exact, rtol=1e-14, atol=4e-16)),
        ("init.uniform(d, rng) is that of 1/d + u(1-2/d)",
         np.allclose(gates, 1 / _D + draws * (1 - 2 / _D), rtol=1e-13)),
        ("200 U- and UR-LSTMs have this law",
         all(_is_uniform(_drawn(name, 200)["forget"]) for name in ("U", "UR")))]  # fmt: skip


@claim("Equation (18)", HOLDS, "b_i = -b_f is a good approximation of tying the gates at "
       "initialization", "Exact at logits (b, -b); off by s in sum, i/(1-f) is between 1 and exp "
       "s, and |f + i - 1| at most tanh(|s|/4)")  # fmt: skip
def _check_opposed_bias() -> Result:
    w, q = sympy.symbols("w q", positive=True)  # exp of the forget logit, exp(−s)
    forget, input = (gatecore.sigmoid(sympy.log(odds)) for odds in (w, 1 / (w * q)))
    ratio = sympy.cancel(sympy.together(input.value / forget.complement))
    excess = sympy.together(forget.value + input.value - 1)
    largest = sympy.simplify(excess.subs(w, 1 / sympy.sqrt(q)))
    drawn = [_drawn("U"), _drawn("C"), _drawn("UR", tied=False), _drawn("UM")]
    biases = [(layer[f"{main}forget"], layer[f"{main}input"])
              for layer, main in zip(drawn, ("", "", "", "master_"), strict=True)]  # fmt: skip
    mean, worst = _initial_excess()
    return True, [
        ("C, U, UM and untied UR start at b and -b",
         all(np.array_equal(f, -i) and f.std() > 0.3 for f, i in biases)),
        ("i = 1-f at these logits", same(ratio.subs(q, 1), 1)),
        ("i/(1-f) = (1+w)/(1+wq), w = exp L_f, q = exp -s: from 1 at w = 0 to 1/q = exp s",
         same(ratio, (1 + w) / (1 + w * q))
         and same(sympy.diff(ratio, w), (1 - q) / (1 + w * q) ** 2)
         and sympy.limit(ratio, w, sympy.oo) == 1 / q),
        ("|f + i - 1| is largest, tanh(|s|/4), at w^2 q = 1",
         same(sympy.diff(excess, w).subs(w, 1 / sympy.sqrt(q)), 0)
         and same(largest, (1 - sympy.sqrt(q)) / (1 + sympy.sqrt(q)))),
        (f"a U-LSTM of 256 units at its initial weights, x and h in +-1: |f + i - 1| is {mean:.3f} "
         f"in the mean, {worst:.2f} at most", mean < 0.1)]  # fmt: skip


def _initial_excess() -> tuple[float, float]:
    """Mean and maximum of |f + i − 1| in a U-LSTM of 256 units with random inputs and states."""
    cell, rng = gatecore.cells.LSTM(16, 256, "U"), np.random.default_rng(0)
    x, h = rng.uniform(-1, 1, (64, 16)), rng.uniform(-1, 1, (64, 256))
    forget, input = cell.gates(cell.init(rng), x, (h, h))
    excess = abs(forget.value + input.value - 1)
    return float(excess.mean()), float(excess.max())


@claim("Equations (30), (31)", HOLDS, "The UM-LSTM's master gates start at b_f = sigmoid^-1(u) and "
       "-b_f, u ~ U(0, 1)", "As stated; U[1/d, 1-1/d] with the hidden size d also where there are "
       "d/C of them", SAMPLED)  # fmt: skip
def _check_master_biases() -> Result:
    drawn = _drawn("UM", 200, downsize=4)
    inner = np.stack([drawn["forget"], drawn["input"]])
    return True, [("200 layers of 64/4 master gates have this law, with d = 64",
                   drawn["master_forget"].shape[-1] == 16 and _is_uniform(drawn["master_forget"])),
                  ("the input side has the opposite bias",
                   np.array_equal(drawn["master_input"], -drawn["master_forget"])),
                  ("the inner gates start at 0", not inner.any())]  # fmt: skip


@claim("Section 2.4, refine bias", HOLDS, "The refine gate is initialized uniformly whenever both "
       "UGI and refine gates are used", "As stated for UR, by a draw of its own, and for OR; R has "
       "bias 0", SAMPLED)  # fmt: skip
def _check_refine_bias() -> Result:
    drawn = {name: _drawn(name, 200) for name in ("UR", "OR", "R")}
    correlation = np.corrcoef(drawn["UR"]["forget"].ravel(), drawn["UR"]["refine"].ravel())[0, 1]
    return True, [("200 UR- and OR-LSTMs have this law",
                   all(_is_uniform(drawn[name]["refine"]) for name in ("UR", "OR"))),
                  (f"independent of the forget gate's: correlation {correlation:.3f}",
                   abs(correlation) < 0.04),
                  ("R starts neutral", not drawn["R"]["refine"].any())]  # fmt: skip


@claim("Section 3, defaults", HOLDS, "The vanilla LSTM uses forget bias 1.0; T_max is proportional "
       "to the hidden size unless tuned", "As stated, with the factor 1; cumax gates start at "
       "equal logits", PRECISION)  # fmt: skip
def _check_defaults() -> Result:
    plain, chrono, ordered = (_drawn(name, 40) for name in ("standard", "C", "O"))
    others = [array for name, array in plain.items() if name != "forget"]
    steps = gatecore.timescale(gatecore.sigmoid(chrono["forget"]))
    return True, [("the LSTM's forget bias is 1, its others 0",
                   np.all(plain["forget"] == 1) and not np.any(others)),
                  (f"T_max = d: 40 C-LSTMs start at up to {steps.max():.1f} steps of 64",
                   0.97 * _D < steps.max() <= _D and steps.min() >= 2
                   and stats.kstest((steps.ravel() - 2) / (_D - 2), "uniform").pvalue > 1e-4),
                  ("all biases of the O-LSTM are 0",
                   not any(array.any() for array in ordered.values()))]  # fmt: skip


@claim("Figure 4, start", HOLDS, "UR-LSTM starts with the same distribution of forget gates f_t as "
       "U-LSTM", "As stated of f_t; the effective gate g starts with another, see Listing 2's law "
       "and Section 2.4's")  # fmt: skip
def _check_equal_starts() -> Result:
    plain, refined = (gatecore.sigmoid(_drawn(name)["forget"]) for name in ("U", "UR"))
    effective = gatecore.mechanism("UR").gates(_drawn("UR"))[0].value
    return True, [
        ("equal seeds draw equal f_t", np.array_equal(plain.value, refined.value)),
        (f"standard deviation of f_t {refined.value.std():.3f}, of g {effective.std():.3f}",
         effective.std() > refined.value.std())]  # fmt: skip
