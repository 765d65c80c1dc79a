"""Each way of breaking the library here turns the claims named beside it red.

A mutation is (object, attribute, replacement, claims). Claims on layers are judged on the NumPy
backend's reference alone, and where a mutation names another layer on that.
"""

import functools
import importlib

import numpy as np
import pytest
import sympy

import gatecore
from gatecore import Gate, algebra, backends, cells, init, mechanisms
from gatecore.analysis import chrono, equivalence, gradients, initial, permutation
from gatecore.analysis.claims import propositions
from gatecore.analysis.layers import Layer
from gatecore.backends.numpy import steps
from gatecore.backends.numpy.gating import Gating
from gatecore.tasks.cli import claims as of_tasks
from gatecore.tasks.environments import match
from gatecore.tasks.problems import base, language
from gatecore.tasks.problems import match as match_task
from gatecore.tasks.problems.adding import Adding
from gatecore.tasks.problems.copying import Copying
from gatecore.tasks.problems.forgetting import Forgetting
from gatecore.tasks.problems.pixels import task as pixels

LSTM, UR, OM, ORDERED = (
    "Equations (2)-(8)", "Equations (9)-(15)", "Equations (19)-(23), B.4", "Equations (28), (29)",
)  # fmt: skip
UM, OR, GRU, MINIMAL, ZONEOUT, UNTIED = (
    "Equations (32), (33)", "Equations (34)-(37)", "Section 3.2, GRU", "B.4, simplest gated model",
    "D.2, zoneout", "Section 2.4, input gate",
)  # fmt: skip
REFINE, MASTER, CUMAX, SLOPE = (
    "Equations (12), (16), D.5", "Equations (21)-(23)", "Section 2.5, cumax",
    "Section 2.3, gradient of a gate",
)  # fmt: skip
UPDATE, FOOTNOTE, BIAS, OPPOSED, UM_BIAS, REFINE_BIAS, DEFAULTS = (
    "Equation (1)", "Footnote 4", "Equation (9), D.5", "Equation (18)", "Equations (30), (31)",
    "Section 2.4, refine bias", "Section 3, defaults",
)  # fmt: skip
COPY, ADDING, PIXELS, MATCH, SETTINGS = (
    "Section 3.1, Copy", "Section 3.1, Adding", "D.5, order of the pixels", "Section 3.4, Match",
    "Appendix D, settings",
)  # fmt: skip


# ---- the algebra -----------------------------------------------------------------------------


def weaker_refine(forget, refine):
    """The band f ± f(1 − f)/2, from a coefficient 1 instead of 2."""
    f, r = forget, refine
    value = f.value * (f.value + f.complement / 2 + r.value * f.complement)
    return Gate(value, 1 - value)


def subtracted_refine(forget, refine):
    """Correct as algebra; in floating point the complement cancels."""
    value = forget.value * (forget.value + 2 * refine.value * forget.complement)
    return Gate(value, 1 - value)


def swapped_refine(forget, refine):
    return gatecore.mix(refine, gatecore.both(forget, forget), gatecore.either(forget, forget))


def shorter_timescale(gate):
    with np.errstate(divide="ignore"):
        return 1 / gate.complement - 0.5


def product_master(master_forget, master_input, forget, input):
    """Equations (21)–(23) with the product of the master gates alone."""
    overlap = gatecore.both(master_forget, master_input)
    return gatecore.both(overlap, forget), gatecore.both(overlap, input)


def swapped_master(master_forget, master_input, forget, input):
    return ORIGINAL.master(master_forget, master_input, input, forget)


def reversed_cumax(logit, axis=-1, downsize=1):
    """The sum after each entry instead of the sum up to it."""
    return gatecore.negate(ORIGINAL.cumax(logit, axis, downsize))


def subtracted_cumax(logit, axis=-1, downsize=1):
    value = ORIGINAL.cumax(logit, axis, downsize).value
    return Gate(value, 1 - value)


def tiled(gate, downsize, axis=-1):
    """Unit k takes entry k mod n, not k // C."""
    return Gate(*(np.concatenate([side] * downsize, axis) for side in gate))


def doubled_sigmoid(logit):
    return ORIGINAL.sigmoid(2 * logit)


def subtracted_sigmoid(logit):
    value = ORIGINAL.sigmoid(logit).value
    return Gate(value, 1 - value)


def printed_logit(gate):
    """Listing 2's form, infinite where the value rounds to 1."""
    value = gate.value if isinstance(gate, Gate) else gate
    with np.errstate(divide="ignore"):
        return -(sympy if isinstance(value, sympy.Basic) else np).log(1 / value - 1)


class ORIGINAL:
    """The functions before a test replaces them."""

    sigmoid, cumax, master = map(
        staticmethod, (gatecore.sigmoid, gatecore.cumax, gatecore.master)
    )  # fmt: skip
    uniform, chrono = map(staticmethod, (init.uniform_quantile, init.chrono_quantile))
    draw, biases, main_bias = init.uniform, gatecore.Mechanism.biases, gatecore.Mechanism._main_bias
    step, parameters = cells.LSTM.step, cells.Cell.init
    split, combine = cells.Cell.split, gatecore.Mechanism.combine
    update, zoneout = cells.update, cells.zoneout
    refine_vjp, sigmoid_vjp, cumax_vjp, master_vjp = map(
        staticmethod,
        (gatecore.refine_vjp, gatecore.sigmoid_vjp, gatecore.cumax_vjp, gatecore.master_vjp),
    )
    refine_backward = Gating._refine_backward
    sample, adding = Copying.sample, Adding.sample


ALGEBRA = [
    (gatecore, "refine", weaker_refine, (
        REFINE, "Figure 2b, band", "Section 2.3, alpha", "Proposition 2",
        "Proposition 4, each gate", "Proposition 4, one gate", "Listing 2, initial law",
        "Section 2.4, uniform refine", "Listing 2, other starts", "Appendix C, gradient",
        "Appendix C, norm", "Figure 2d, upper bound", "Figure 2d, lower bound",
        "Figure 2d, forget logit alone", "Section 2.3, saturation",
    )),
    (gatecore, "refine", swapped_refine, (
        REFINE, "Proposition 2", "Figure 2b, band", "Section 2.3, alpha", "Listing 2, initial law",
        "Appendix C, gradient",
    )),
    (gatecore, "refine", subtracted_refine, ("D.5, in float32", "Section 2.2, in bfloat16")),
    (mechanisms, "refine", swapped_refine, (UR, OR)),
    (gatecore, "timescale", shorter_timescale, (
        "Proposition 1", "Proposition 1, truncated", "Proposition 2", "Table 4, constant bias",
        "Table 4, chrono with T_max", "Table 4, uniform gates", "Table 4, cumax", "Footnote 2",
        "B.4, time warps", "B.3, order of the laws",
    )),
    (gatecore, "master", product_master, (
        MASTER, "Proposition 3, forget gate", "Proposition 3, sum", "Proposition 4, rescaling",
    )),
    (gatecore, "master", swapped_master, (MASTER,)),
    (mechanisms, "master", swapped_master, (OM, UM)),
    (gatecore, "cumax", reversed_cumax, (
        "B.4, ordered master gates", "(19), (28), (34), last unit", "Table 4, cumax", CUMAX,
    )),
    (gatecore, "cumax", subtracted_cumax, (CUMAX,)),
    (algebra, "spread", tiled, (CUMAX,)),
    (mechanisms, "spread", tiled, (OM, UM)),
    (gatecore, "sigmoid", doubled_sigmoid, (
        "Appendix C, gradient", "Table 4, constant bias", "Table 4, chrono with T_max", SLOPE,
    )),
    (gatecore, "sigmoid", subtracted_sigmoid, ("D.5, in float32", BIAS)),
    (gatecore, "negate", lambda a: a, (REFINE,)),
    (gatecore, "both", lambda a, b: Gate(a.value * b.value, a.complement * b.complement),
     (REFINE,)),
    (gatecore, "either", lambda a, b: gatecore.both(a, b), (REFINE,)),
    (gatecore, "mix", lambda s, high, low: low, (REFINE,)),
    (gatecore, "logit", printed_logit, (BIAS,)),
    (gatecore, "logit", lambda gate: -algebra.logit(gate), (BIAS,)),
    (gatecore, "refine_vjp", lambda f, r, v: (v * f.value, v * r.value), ("Appendix C, gradient",)),
    (gatecore, "refine_vjp", lambda f, r, v: ORIGINAL.refine_vjp(f, r, v)[::-1],
     ("Appendix C, gradient",)),
    (gatecore, "sigmoid_vjp", lambda x, v: 2 * ORIGINAL.sigmoid_vjp(x, v), (SLOPE,)),
    (gatecore, "sigmoid_vjp", lambda x, v: v * ORIGINAL.sigmoid(x).value ** 2, (SLOPE,)),
    (gatecore, "sigmoid_vjp",
     lambda x, v: v * ORIGINAL.sigmoid(x).value * (1 - ORIGINAL.sigmoid(x).value), (SLOPE,)),
    (gatecore, "cumax_vjp", lambda z, v, downsize: -ORIGINAL.cumax_vjp(z, v, -1, downsize),
     (CUMAX,)),
    (gatecore, "cumax_vjp", lambda z, v, downsize: ORIGINAL.cumax_vjp(z, v[: len(z)]), (CUMAX,)),
    (gatecore, "master_vjp", lambda *args: ORIGINAL.master_vjp(*args[:5], 0), (MASTER,)),
    (gatecore, "master_vjp",
     lambda *args: (*ORIGINAL.master_vjp(*args)[:2], *ORIGINAL.master_vjp(*args)[:1:-1]),
     (MASTER,)),
]  # fmt: skip


# ---- initial biases and mechanisms -----------------------------------------------------------


def biases_with(change):
    """`Mechanism.biases` with its result changed."""

    def biases(mechanism, core, hidden_size, rng):
        return change(dict(ORIGINAL.biases(mechanism, core, hidden_size, rng)))

    return biases


def zeroed(biases):
    return {name: 0 * array for name, array in biases.items()}


def same_sign(biases):
    return biases | {
        name: abs(biases[name]) for name in ("input", "master_input") if name in biases
    }


def opposed_refine(biases):
    return biases | ({"refine": -biases["forget"]} if "refine" in biases else {})


def neutral_if_ordered(biases):
    ordered = "refine" in biases and not biases["forget"].any()
    return biases | ({"refine": 0 * biases["forget"]} if ordered else {})


def own_width(mechanism, size, hidden_size, rng):
    return ORIGINAL.main_bias(mechanism, size, size, rng)


def longer_chrono(mechanism, size, hidden_size, rng):
    wider = 10 * hidden_size if mechanism.initial == "chrono" else hidden_size
    return ORIGINAL.main_bias(mechanism, size, wider, rng)


def unbiased(cell, rng):
    params = ORIGINAL.parameters(cell, rng)
    return params | {"bias": 0 * params["bias"]}


def wrong_rows(mechanism, core, hidden_size):
    return 5 * hidden_size if mechanism.auxiliary == "master" else 4 * hidden_size


def exchanged(mechanism, gates):
    return ORIGINAL.combine(mechanism, gates)[::-1]


def ungated_masters(mechanism, gates):
    unrefined = {**gates, "input": gates["forget"]} if "input" in gates else gates
    return ORIGINAL.combine(mechanism, unrefined)


MECHANISMS = [
    (gatecore.init, "uniform_quantile", lambda u, width: ORIGINAL.uniform(u, 2 * width),
     ("Proposition 1, truncated", BIAS, UM_BIAS)),
    (gatecore.init, "chrono_quantile", lambda u, t_max: ORIGINAL.chrono(u, t_max + 1),
     ("Table 4, chrono with T_max",)),
    (gatecore.init, "chrono_quantile", lambda u, t_max: np.log(t_max / 2) + 0 * u,
     ("Section 3.3, T_max",)),
    (gatecore.init, "CHRONO_NORMALISER", 3.3877, ("Table 4, chrono without T_max",)),
    (gatecore.init, "chrono_unbounded_quantile", lambda u: np.log(2) / (1 - u),
     ("Table 4, chrono without T_max",)),
    (gatecore.init, "uniform", lambda size, rng, width=None: np.zeros(size), (BIAS,)),
    (gatecore.init, "uniform", lambda size, rng, width=None: -ORIGINAL.draw(size, rng, width),
     (BIAS,)),
    (gatecore.init, "constant", lambda size, value: np.zeros(size), (DEFAULTS,)),
    (gatecore.Mechanism, "biases", biases_with(zeroed), (BIAS, OPPOSED, UM_BIAS, DEFAULTS)),
    (gatecore.Mechanism, "biases", biases_with(same_sign), (OPPOSED, UM_BIAS)),
    (gatecore.Mechanism, "biases", biases_with(opposed_refine), (REFINE_BIAS,)),
    (gatecore.Mechanism, "biases", biases_with(neutral_if_ordered), (REFINE_BIAS,)),
    (gatecore.Mechanism, "biases", biases_with(lambda b: b | {"forget": b["forget"][::-1]}),
     (OPPOSED,)),
    (gatecore.Mechanism, "_main_bias", own_width, (UM_BIAS,)),
    (gatecore.Mechanism, "_main_bias", longer_chrono, (DEFAULTS,)),
    (gatecore.Mechanism, "rows", wrong_rows, ("Section 2.6, parameters",
                                              "Section 2.4, parameters of a GRU")),
    (gatecore.Mechanism, "negated", lambda self, slot: False, (ORDERED, OM)),
    (gatecore.Mechanism, "combine", exchanged, (LSTM, UR, GRU, MINIMAL)),
    (gatecore.Mechanism, "combine", ungated_masters, (LSTM, OM, UM)),
    (gatecore.Mechanism, "ties_gates", lambda self, core: True, (LSTM, OM, UNTIED)),
    (gatecore.cells.Cell, "init", unbiased, (BIAS, OPPOSED, DEFAULTS, "Figure 4, start")),
]  # fmt: skip


# ---- cells -----------------------------------------------------------------------------------


def imprecise_update(state, candidate, forget, input=None):
    return forget.value * state + (1 - forget.value) * candidate


def without_input_gate(state, candidate, forget, input=None):
    return ORIGINAL.update(state, candidate, forget, input and Gate(1.0, 0.0))


def reset_ignored(self, logits, gates, states, params):
    inner = logits["candidate"] + logits[cells.STATE_CANDIDATE]
    return (self._update(states[0], np.tanh(inner), gates),)


def reset_of_the_input(self, logits, gates, states, params):
    reset = gatecore.sigmoid(logits["reset"]).value
    inner = reset * logits["candidate"] + logits[cells.STATE_CANDIDATE]
    return (self._update(states[0], np.tanh(inner), gates),)


def swapped_gates(self, logits, gates, states, params):
    """The GRU's convention with its gates exchanged."""
    reset = gatecore.sigmoid(logits["reset"]).value
    inner = np.tanh(logits["candidate"] + reset * logits[cells.STATE_CANDIDATE])
    return (self._update(inner, states[0], gates),)


def linear_candidate(self, logits, gates, states, params):
    return (self._update(states[0], logits["candidate"], gates),)


def without_output_gate(self, logits, gates, states, params):
    cell = self._update(states[1], np.tanh(logits["candidate"]), gates)
    return np.tanh(cell), cell


def doubled_step(cell, params, x, state):
    output, state = ORIGINAL.step(cell, params, x, state)
    return 2 * output, state


def exchanged_split(self, packed):
    slots = ORIGINAL.split(self, packed)
    return slots | {"forget": slots["candidate"], "candidate": slots["forget"]}


CELLS = [
    (cells, "update", imprecise_update, (UPDATE, "Equation (13), in float32", LSTM)),
    (cells, "update", without_input_gate, (UPDATE, LSTM, OM, UNTIED)),
    (mechanisms, "REFINE_SLOTS", {"forget": "refine_input", "input": "refine"}, (UNTIED,)),
    (cells, "update", lambda c, u, f, i=None: f.value * c + u,
     (UPDATE, "B.4, time warps", MINIMAL)),
    (cells, "update", lambda c, u, f, i=None: ORIGINAL.update(c, u, gatecore.negate(f), i),
     (UPDATE, LSTM, UR, FOOTNOTE)),
    (cells.GRU, "_next", reset_ignored, (GRU,)),
    (cells.GRU, "_next", reset_of_the_input, (GRU,)),
    (cells.GRU, "_next", swapped_gates, (GRU, FOOTNOTE)),
    (cells.Minimal, "_next", linear_candidate, (MINIMAL, FOOTNOTE)),
    (cells.LSTM, "_next", without_output_gate, (LSTM, UR)),
    (cells.LSTM, "step", doubled_step, ("Listings 1 and 2",)),
    (cells, "_zoneout", lambda old, new, p: ORIGINAL.zoneout(new, old, p), (ZONEOUT,)),
    (cells.Cell, "project", lambda self, params, x: x @ params["weight_ih"].T, (LSTM,)),
    (cells.Cell, "split", exchanged_split, (LSTM, MINIMAL)),
]  # fmt: skip


# ---- what trains -----------------------------------------------------------------------------


def changed(original, after):
    """A method that runs the original, then changes its last argument or the object in place."""

    @functools.wraps(original)
    def method(self, *arguments):
        result = original(self, *arguments)
        after(self, *arguments)
        return result

    return method


def unscaled(self, slot, t, v, out):
    """The cotangent of a sigmoid's logit without its complement."""
    self.xp.multiply(v, self.value[slot][t], out=out[:, self.layout.columns[slot]])


def coarse_refined(self, side, other, refine, out):
    """f(f + r f̄): the coefficient 2 is missing."""
    self.xp.multiply(refine, other, out=out)
    self.xp.add(out, side, out=out)
    return self.xp.multiply(out, side, out=out)


def half_refined(self, slot, refine, t, v, out):
    ORIGINAL.refine_backward(self, slot, refine, t, v, out)
    out[:, self.layout.columns[refine]] *= 0.5


def refine_of_the_forget_gate(self, slot, refine, t, v, out):
    """The input gate's refine gate gets the forget gate's slope."""
    ORIGINAL.refine_backward(self, slot, "refine", t, v, out)


def no_cross(self, slot, t, out, inner, other, cross):
    CROSS(self, slot, t, out, inner, other, (0 * cross[0], cross[1]))


def one_sided(self, t, forget, old, new):
    """The tied update of every gate."""
    u, gate = self.candidate[t], self.gating.forget_complement[t]
    new[...] = old + gate * (u - old)


def linear(self, cotangent, value):
    """A tanh whose derivative is 1."""


def identity(self, t, d_candidate, d_logits):
    d_logits[:, self.layout.columns[cells.STATE_CANDIDATE]] = d_candidate
    d_logits[:, self.layout.columns["reset"]] = 0


CROSS = Gating._master_gate_backward
NEGATED = changed(Gating._cumax_backward, lambda self, slot, t, v, out: np.negative(out, out=out))
BACKWARD = [
    (Gating, "_refined", coarse_refined, (UR, OR)),
    (Gating, "_refine_backward", half_refined, (UR, OR, UNTIED)),
    (Gating, "_refine_backward", refine_of_the_forget_gate, (UNTIED,)),
    (Gating, "_to_logit", unscaled, (LSTM, OM)),
    (Gating, "_cumax_backward", NEGATED, (ORDERED, OR, OM)),
    (Gating, "_master_gate_backward", no_cross, (OM, UM)),
    (Gating, "_mastered", lambda self, master, other, inner, out: out.fill(0.5), (OM, UM)),
    (steps.Steps, "_update", one_sided, (LSTM, OM)),
    (steps.Steps, "_tanh_backward", linear, (LSTM, MINIMAL)),
    (steps.Steps, "_sigmoid_backward", linear, (LSTM, GRU)),
    (steps.Steps, "_zoneout", lambda self, p, old, new: None, (ZONEOUT,)),
    (steps.GRUSteps, "_candidate_backward", identity, (GRU,)),
    (steps.LSTMSteps, "direct", True, (LSTM,)),
]  # fmt: skip


# ---- tasks -----------------------------------------------------------------------------------


def reversed_targets(self, rng, size):
    batch = ORIGINAL.sample(self, rng, size)
    return batch._replace(targets=batch.targets[::-1])


def product_targets(self, rng, size):
    batch = ORIGINAL.adding(self, rng, size)
    return batch._replace(targets=batch.targets**2)


TASKS = [
    (pixels, "bit_reversal", lambda n: np.arange(n)[::-1], (PIXELS,)),
    (pixels, "bit_reversal", lambda n: np.roll(permutation.bit_reversal(n), 1), (PIXELS,)),
    (permutation, "bit_reversal", lambda n: np.arange(n)[::-1], ("D.5, bit reversal",)),
    (Copying, "baselines", lambda self: {"any": {"loss": np.log(10)}}, (COPY,)),
    (Copying, "sample", reversed_targets, (COPY,)),
    (Adding, "baselines", lambda self: {"any": {"loss": 1 / 12}}, (ADDING,)),
    (Adding, "sample", product_targets, (ADDING,)),
    (match, "APPLES", 9, (MATCH,)),
    (match_task, "_DISCOUNTS", {}, (MATCH,)),
    (match_task.VisualMatch, "presets", {"paper": dict(match_task.VisualMatch.presets["paper"],
                                                       distractor=300)}, (MATCH,)),
    (base.Task, "downsize", 8, (SETTINGS,)),
    (language.task.Language, "downsize", 16, (SETTINGS,)),
    (Forgetting, "mechanism_defaults", lambda self, mechanism: {"forget_bias": 1.0}, (SETTINGS,)),
]  # fmt: skip

OWN = [
    (equivalence, "LISTING_2_INITIALIZATION", "u = 1", ("Listings 1 and 2",)),
    (chrono, "mean_bias", np.log, ("Section 3.3, T_max",)),
    (gradients, "gradient_bounds", lambda g, logits="both": (g, 2 - g),
     ("Figure 2d, upper bound",)),
    (gradients, "gradient_bounds", lambda g, logits="both": (1 + 0 * g, 2 + 0 * g),
     ("Figure 2d, lower bound",)),
    (initial, "initial_gate_density", lambda m, g: 1 + 0 * g, ("Listing 2, initial law",)),
]  # fmt: skip

MUTATIONS = [*ALGEBRA, *MECHANISMS, *CELLS, *BACKWARD, *TASKS, *OWN]


def layer(backend, impl, dtype="float64"):
    vjp = functools.partial(backends.load(backend).layer_vjp, impl=impl)
    return Layer(f"{backend}, {impl}", vjp, dtype)


@functools.cache
def judged(*layers):
    """The claims by name, those on layers judged on these."""
    own = [p for p in of_tasks.propositions() if p.name in (COPY, ADDING, PIXELS, MATCH, SETTINGS)]
    return {p.name: p for p in (*propositions(layers), *own)}


@pytest.fixture(autouse=True)
def no_caches():
    """Nothing computed before a mutation, or with it, is kept."""
    for cached in (pixels._splits, match_task._baselines):
        cached.cache_clear()
    yield
    for cached in (pixels._splits, match_task._baselines):
        cached.cache_clear()


def notice(monkeypatch, holder, attribute, wrong, names, *layers):
    claims = judged(*layers or [layer("numpy", "reference")])
    monkeypatch.setattr(holder, attribute, wrong)
    for name in names:
        claim = claims[name].judge()
        assert not claim.ok, f"{name}: {claim.evidence}"
        assert "the check raised" not in claim.evidence, name


@pytest.mark.parametrize(
    ("holder", "attribute", "wrong", "names"), MUTATIONS,
    ids=[f"{k}-{holder.__name__.rpartition('.')[2]}.{attribute}"
         for k, (holder, attribute, *_) in enumerate(MUTATIONS)],
)  # fmt: skip
def test_a_broken_library_is_noticed(holder, attribute, wrong, names, monkeypatch):
    notice(monkeypatch, holder, attribute, wrong, names)


# ---- the other layers ------------------------------------------------------------------------


def halved(result):
    """A nest of arrays, each times one half."""
    if isinstance(result, dict):
        return {name: halved(part) for name, part in result.items()}
    if isinstance(result, list | tuple):
        return type(result)(map(halved, result))
    return result if result is None else result * 0.5


IMPLEMENTATIONS = [
    ("numpy", "native", "float32", "gatecore.backends.native.layer:NativeLayer.backward"),
    ("torch", "native", "float32", "gatecore.backends.torch.sequence.native:Native.backward"),
    ("torch", "reference", "float64",
     "gatecore.backends.torch.sequence.numpy_bptt:NumpyBptt.backward"),
    ("torch", "plain", "float64", "gatecore.backends.torch.sequence.stepping:advance"),
    ("jax", "reference", "float32", "gatecore.backends.common.derivative:refine_vjp"),
    ("jax", "reference", "float32", "gatecore.backends.common.derivative:sigmoid_vjp"),
]  # fmt: skip


@pytest.mark.parametrize(("backend", "impl", "dtype", "place"), IMPLEMENTATIONS)
def test_a_broken_implementation_is_noticed(backend, impl, dtype, place, monkeypatch):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"{backend} is not installed")
    if f"{backend}, {impl}" not in [layer.name for layer in of_tasks.trained()]:
        pytest.skip("the native library is not built")
    module, _, path = place.partition(":")
    *owners, attribute = path.split(".")
    holder = functools.reduce(getattr, owners, importlib.import_module(module))
    original = getattr(holder, attribute)
    monkeypatch.setattr(holder, attribute, lambda *args, **kw: halved(original(*args, **kw)))
    claim = judged(layer(backend, impl, dtype))[UR].judge()
    assert f"FAILED: {backend}, {impl}: error" in claim.evidence


def test_the_library_is_broken_in_at_least_sixty_ways():
    assert len(MUTATIONS) + len(IMPLEMENTATIONS) >= 60
    assert all(names for *_, names in MUTATIONS)


def test_every_claim_is_noticed_by_some_mutation():
    noticing = {name for *_, names in MUTATIONS for name in names}
    assert noticing == {proposition.name for proposition in of_tasks.propositions()}
