"""A slow scalar transcription of the paper's equations, the reference of the tests.

It is written from the paper ("Improving the Gating Mechanism of Recurrent Neural Networks"), not
from the library, and imports nothing of it: one number at a time, the formulas as printed. The
comment beside a line is the equation's number there. Layouts (which rows belong to which map) are
those of the table in the design; the GRU is torch's (the reset gate applied after the product).

Every function takes `m`, the module that supplies `exp`, `tanh` and `sqrt`: `math` for floats,
`mpmath` for high precision, `cmath` for complex-step derivatives (no comparison of numbers occurs
anywhere).
"""

import math
from typing import Any, NamedTuple

PACKED = {
    ("lstm", "none"): "i f u o",
    ("lstm", "refine"): "r f u o",
    ("lstm", "untied"): "i f u o r s",  # s: the input gate's own refine gate (Section 2.4)
    ("lstm", "master"): "i f u o F I",
    ("gru", "none"): "q f u",
    ("gru", "refine"): "q f u r",
    ("gru", "untied"): "q f u i r s",
    ("gru", "master"): "q f u F I",
    ("minimal", "none"): "f u",
    ("minimal", "refine"): "f u r",
    ("minimal", "untied"): "f u i r s",
    ("minimal", "master"): "f u F I",
    ("mingru", "none"): "f u",
    ("mingru", "refine"): "f u r",
    ("mingru", "untied"): "f u i r s",
    ("mingru", "master"): "f u F I",
}


class Layer(NamedTuple):
    """The equations of a layer: a core and a gating mechanism."""

    core: str  # "lstm", "gru", "minimal" or "mingru" (whose gates and candidate see x alone)
    activation: str = "sigmoid"  # of the main gate: "sigmoid" or "cumax"
    auxiliary: str = "none"  # "none", "refine", "untied" or "master"
    downsize: int = 1  # units per master gate
    candidate: str = "tanh"  # its activation: "tanh", or "linear" for none


class Trace(NamedTuple):
    """A layer's results as nested lists (time, batch, unit); `state` is the last (batch, unit)."""

    outputs: list
    cells: list  # empty for the cores without a cell state
    forget: list  # effective forget gates
    input: list  # effective input gates
    state: Any  # h, or (h, c) for the LSTM


def sigmoid(x, m=math):
    return 1 / (1 + m.exp(-x))


def cumax(logits, m=math):
    """Cumulative sums of the softmax (Section 2.5)."""
    exponentials = [m.exp(z) for z in logits]
    total = sum(exponentials)
    return [sum(exponentials[: j + 1]) / total for j in range(len(logits))]


def refined(f, r):
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2  # (12), (36)


def mastered(master_forget, master_input, f, i):
    omega = master_forget * master_input  # (21)
    forget = f * omega + (master_forget - omega)  # (22)
    input_ = i * omega + (master_input - omega)  # (23)
    return forget, input_


def repeated(values, times):
    return [value for value in values for _ in range(times)]


def affine(weight, vector, bias):
    """One `L` of (8) or half of it: the rows of `weight` times `vector`, plus `bias`."""
    return [
        sum((w * v for w, v in zip(row, vector, strict=True)), b)
        for row, b in zip(weight, bias, strict=True)
    ]


def packed_rows(layer, hidden):
    """The rows of each map in the packed matrices: letter -> slice."""
    where, start = {}, 0
    for letter in PACKED[layer.core, layer.auxiliary].split():
        width = hidden // layer.downsize if letter in "FI" else hidden
        where[letter] = slice(start, start + width)
        start += width
    return where


def units(layer, params):
    """The number of hidden units that the packed rows make."""
    letters = PACKED[layer.core, layer.auxiliary].split()
    masters = sum(letter in "FI" for letter in letters)
    sizes = len(letters) - masters, masters
    return len(params["bias"]) * layer.downsize // (sizes[0] * layer.downsize + sizes[1])


def normalized(row, gain, bias, m=math):
    """Layer normalization, equation (4) of Ba et al. 2016, with 1e-5 added to the variance."""
    mean = sum(row) / len(row)
    deviation = m.sqrt(sum((a - mean) ** 2 for a in row) / len(row) + m.exp(0) / 10**5)
    return [g * (a - mean) / deviation + b for g, a, b in zip(gain, row, bias, strict=True)]


def maps(layer, params, x, h, m=math):
    """The pre-activations L?(x, h) of (8), letter -> list; for the GRU `u` lacks its h part."""
    zeros = [0] * len(params["bias"])
    from_x = affine(params["weight_ih"], x, zeros)
    if "norm_ih" in params:
        from_x = normalized(from_x, params["norm_ih"], zeros, m)
    from_x = [a + b for a, b in zip(from_x, params["bias"], strict=True)]
    if layer.core == "mingru":
        return {letter: from_x[rows] for letter, rows in packed_rows(layer, len(h)).items()}
    from_h = affine(params["weight_hh"], h, zeros)
    if "norm_hh" in params:
        from_h = normalized(from_h, params["norm_hh"], zeros, m)
    result = {}
    for letter, rows in packed_rows(layer, len(h)).items():
        if layer.core == "gru" and letter == "u":
            result["u"] = from_x[rows]
            result["Uh"] = [p + b for p, b in zip(from_h[rows], params["bias_n"], strict=True)]
        else:
            result[letter] = [a + b for a, b in zip(from_x[rows], from_h[rows], strict=True)]
    return result


def main_gate(layer, logits, m):
    """A main gate: (2), (10), (32) with the sigmoid, (19), (28), (34) with cumax."""
    if layer.activation == "cumax":
        return cumax(logits, m)
    return [sigmoid(z, m) for z in logits]


def input_gate(layer, logits, m):
    """A main input gate: (3), (33) with the sigmoid, (20), (29) with cumax."""
    if layer.activation == "cumax":
        return [1 - value for value in cumax(logits, m)]
    return [sigmoid(z, m) for z in logits]


def effective_gates(layer, z, m=math):
    """The gates that the state update uses: forget and input, one value per unit."""
    if layer.auxiliary == "refine":
        f = main_gate(layer, z["f"], m)  # (10), (34)
        r = [sigmoid(y, m) for y in z["r"]]  # (11), (35)
        g = [refined(a, b) for a, b in zip(f, r, strict=True)]
        return g, [1 - value for value in g]  # (13), (37)
    if layer.auxiliary == "untied":  # Section 2.4: (5) with each gate refined by (11), (12)
        f, i = main_gate(layer, z["f"], m), input_gate(layer, z["i"], m)
        return tuple(
            [refined(a, sigmoid(y, m)) for a, y in zip(gate, z[letter], strict=True)]
            for gate, letter in ((f, "r"), (i, "s"))
        )
    if layer.auxiliary == "master":
        master_f = repeated(main_gate(layer, z["F"], m), layer.downsize)  # (19), (32)
        master_i = repeated(input_gate(layer, z["I"], m), layer.downsize)  # (20), (33)
        f = [sigmoid(y, m) for y in z["f"]]  # (2)
        i = [sigmoid(y, m) for y in z["i"]] if "i" in z else [1 - a for a in f]  # (3); no map: tied
        pairs = [mastered(*four) for four in zip(master_f, master_i, f, i, strict=True)]
        return [a for a, _ in pairs], [b for _, b in pairs]
    f = main_gate(layer, z["f"], m)  # (2), (28)
    i = input_gate(layer, z["i"], m) if "i" in z else [1 - a for a in f]  # (3), (29); no map: tied
    return f, i


def candidate(layer, z, m=math):
    if layer.core == "gru":
        reset = [sigmoid(y, m) for y in z["q"]]
        return [m.tanh(a + q * b) for a, q, b in zip(z["u"], reset, z["Uh"], strict=True)]
    if layer.candidate == "linear":
        return z["u"]
    return [m.tanh(y) for y in z["u"]]  # (4)


def gated(forget, input_, old, new):
    return [f * a + i * b for f, i, a, b in zip(forget, input_, old, new, strict=True)]  # (1)


def zoned(p, old, new):
    """Zoneout with probabilities or masks p: p·old + (1 − p)·new."""
    return [k * a + (1 - k) * b for k, a, b in zip(p, old, new, strict=True)]


def step(layer, params, x, h, c, zoneout_cell, zoneout_hidden, m=math):
    """One step for one sequence: (h, c, effective forget gates, effective input gates)."""
    z = maps(layer, params, x, h, m)
    forget, input_ = effective_gates(layer, z, m)
    new = candidate(layer, z, m)
    if layer.core != "lstm":
        return zoned(zoneout_hidden, h, gated(forget, input_, h, new)), None, forget, input_
    cell = gated(forget, input_, c, new)  # (5), (13)
    o = [sigmoid(y, m) for y in z["o"]]  # (6), (14)
    shown = cell
    if "norm_c" in params:
        shown = normalized(cell, params["norm_c"], params["norm_c_bias"], m)
    output = [a * m.tanh(b) for a, b in zip(o, shown, strict=True)]  # (7), (15)
    return zoned(zoneout_hidden, h, output), zoned(zoneout_cell, c, cell), forget, input_


def zoneout_at(zoneout, t, b, hidden):
    """Zoneout at one step of one sequence, from a number or a (T, B, d) nest."""
    if isinstance(zoneout, (int, float)):
        return [zoneout] * hidden
    return zoneout[t][b]


def run(layer, params, xs, state=None, resets=None, zoneout=None, m=math):
    """A whole layer over xs (time, batch, features), everything nested lists of numbers.

    state: h (batch, units), or (h, c) for the LSTM; None is zero. resets: (time, batch) booleans,
    state zeroed before that step. zoneout: probabilities or masks, (cell, hidden) for the
    LSTM, hidden otherwise, each a number or a nest (time, batch, units).
    """
    hidden, batch = units(layer, params), len(xs[0])
    zeros = [[0.0] * hidden for _ in range(batch)]
    h, c = (zeros, zeros) if state is None else state if layer.core == "lstm" else (state, zeros)
    zoneout_c, zoneout_h = (
        (0.0, 0.0) if zoneout is None else (zoneout if layer.core == "lstm" else (0.0, zoneout))
    )
    trace = Trace([], [], [], [], None)
    for t, x in enumerate(xs):
        if resets is not None:
            h = [zeros[b] if resets[t][b] else h[b] for b in range(batch)]
            c = [zeros[b] if resets[t][b] else c[b] for b in range(batch)]
        rows = [
            step(
                layer,
                params,
                x[b],
                h[b],
                c[b],
                zoneout_at(zoneout_c, t, b, hidden),
                zoneout_at(zoneout_h, t, b, hidden),
                m,
            )
            for b in range(batch)
        ]
        h, c = [row[0] for row in rows], [row[1] for row in rows]
        trace.outputs.append(h)
        if layer.core == "lstm":
            trace.cells.append(c)
        trace.forget.append([row[2] for row in rows])
        trace.input.append([row[3] for row in rows])
        if layer.core != "lstm":
            c = zeros
    return trace._replace(state=(h, c) if layer.core == "lstm" else h)


def run_stacked(layer, params, xs, states=None, resets=None, zoneout=None, m=math):
    """Layers one above the other, each reading the one below; lists with one entry per layer."""
    traces = []
    for k, own in enumerate(params):
        state = None if states is None else states[k]
        keep = None if zoneout is None else zoneout[k]
        traces.append(run(layer, own, xs, state, resets, keep, m))
        xs = traces[-1].outputs
    return traces
