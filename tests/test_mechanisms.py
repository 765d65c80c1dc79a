"""The registered mechanisms are those of the paper's Table 1."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

import gatecore
from gatecore import MECHANISMS, Mechanism, mechanism, sigmoid, timescale

TABLE = {  # name: activation, initial, auxiliary, refine bias (of refine rows), forget bias
    "standard": ("sigmoid", "constant", "none", None, 1.0),
    "C": ("sigmoid", "chrono", "none", None, None),
    "O": ("cumax", "constant", "none", None, 0.0),
    "U": ("sigmoid", "uniform", "none", None, None),
    "R": ("sigmoid", "constant", "refine", "neutral", 1.0),
    "UR": ("sigmoid", "uniform", "refine", "uniform", None),
    "OR": ("cumax", "constant", "refine", "uniform", 0.0),
    "OM": ("cumax", "constant", "master", None, 0.0),
    "UM": ("sigmoid", "uniform", "master", None, None),
}
CROSSINGS = {
    "M": ("sigmoid", "constant", "master", None, 1.0),
    "CR": ("sigmoid", "chrono", "refine", "neutral", None),
    "CM": ("sigmoid", "chrono", "master", None, None),
}
D = 24


def letters(mechanism, core, size=D):
    return tuple(name for name, _ in mechanism.slots(core, size))


# --- names and fields ---------------------------------------------------------------------------


def test_the_nine_mechanisms_of_the_paper_are_registered():
    assert set(MECHANISMS) == set(TABLE)
    assert all(MECHANISMS[name].name == name for name in MECHANISMS)


@pytest.mark.parametrize("name", TABLE | CROSSINGS)
def test_a_name_gives_the_papers_fields(name):
    activation, initial, auxiliary, refine_bias, forget_bias = (TABLE | CROSSINGS)[name]
    row = mechanism(name)
    assert (row.activation, row.initial, row.auxiliary) == (activation, initial, auxiliary)
    assert refine_bias is None or row.refine_bias == refine_bias
    assert forget_bias is None or row.forget_bias == forget_bias
    assert (row.t_max, row.downsize) == ("hidden", 1)


def test_the_alias_of_standard_is_a_dash():
    assert mechanism("-") == MECHANISMS["standard"]


def test_a_mechanism_is_accepted_in_place_of_a_name():
    row = mechanism("UM", downsize=4)
    assert mechanism(row) == row
    assert mechanism(row, downsize=2).downsize == 2


def test_mechanisms_are_values():
    assert mechanism("UR") == mechanism("UR")
    assert hash(mechanism("UR")) == hash(mechanism("UR"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        mechanism("UR").auxiliary = "none"


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("C", {"t_max": 784}),
        ("C", {"t_max": None}),
        ("OM", {"downsize": 16}),
        ("UR", {"refine_bias": "opposed"}),
        ("standard", {"forget_bias": 6.0}),
        ("R", {"forget_bias": 6.0, "refine_bias": "opposed"}),
    ],
)
def test_overrides_change_their_fields_only(name, overrides):
    row = mechanism(name, **overrides)
    assert dataclasses.asdict(row) == dataclasses.asdict(mechanism(name)) | overrides


# --- slots --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auxiliary", "core", "slots"),
    [
        ("none", "lstm", "input forget candidate output"),
        ("refine", "lstm", "refine forget candidate output"),
        ("master", "lstm", "input forget candidate output master_forget master_input"),
        ("none", "gru", "reset forget candidate"),
        ("refine", "gru", "reset forget candidate refine"),
        ("master", "gru", "reset forget candidate master_forget master_input"),
        ("none", "minimal", "forget candidate"),
        ("refine", "minimal", "forget candidate refine"),
        ("master", "minimal", "forget candidate master_forget master_input"),
    ],
)
def test_slots_are_packed_in_the_tables_order(auxiliary, core, slots):
    for name in (n for n, row in (TABLE | CROSSINGS).items() if row[2] == auxiliary):
        assert letters(mechanism(name), core) == tuple(slots.split())


@pytest.mark.parametrize(
    ("core", "slots"),
    [
        ("lstm", "input forget candidate output refine refine_input"),
        ("gru", "reset forget candidate input refine refine_input"),
        ("minimal", "forget candidate input refine refine_input"),
    ],
)
@pytest.mark.parametrize("name", ["R", "CR", "UR", "OR"])
def test_an_untied_mechanism_has_an_input_gate_and_a_refine_gate_of_each(name, core, slots):
    row = mechanism(name, tied=False)
    assert letters(row, core) == tuple(slots.split())
    assert not row.ties_gates(core)
    assert mechanism(name).ties_gates(core)


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("name", TABLE | CROSSINGS)
def test_master_slots_are_downsized_and_the_rest_are_not(name, core):
    row = mechanism(name, downsize=8)
    for slot, width in row.slots(core, D):
        assert width == (D // 8 if slot.startswith("master") else D)
    assert row.rows(core, D) == sum(width for _, width in row.slots(core, D))


def test_standard_and_refined_lstms_have_equally_many_rows():
    assert mechanism("standard").rows("lstm", D) == mechanism("UR").rows("lstm", D) == 4 * D


def test_master_gates_add_the_fraction_one_half_over_c():
    assert mechanism("UM", downsize=4).rows("lstm", D) == 4 * D * (1 + 1 / (2 * 4))


# --- initial biases -----------------------------------------------------------------------------


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("name", TABLE | CROSSINGS)
def test_every_slot_has_a_float64_bias_of_its_width(name, core):
    row = mechanism(name, downsize=4)
    biases = row.biases(core, D, 0)
    assert {slot: len(bias) for slot, bias in biases.items()} == dict(row.slots(core, D))
    assert tuple(biases) == letters(row, core)
    assert all(bias.dtype == np.float64 for bias in biases.values())


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("name", TABLE | CROSSINGS)
def test_other_slots_start_at_zero(name, core):
    biases = mechanism(name).biases(core, D, 0)
    for slot in {"candidate", "output", "reset"} & set(biases):
        assert not biases[slot].any()


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("name", ["O", "OM"])
def test_ordered_gates_start_at_zero_logits(name, core):
    assert not any(bias.any() for bias in mechanism(name).biases(core, D, 0).values())


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_constant_mechanisms_start_with_the_forget_bias_alone(core):
    for name, bias in (("standard", 1.0), ("R", 1.0)):
        biases = mechanism(name).biases(core, D, 0)
        assert (biases.pop("forget") == bias).all()
        assert not any(other.any() for other in biases.values())
    six = mechanism("standard", forget_bias=6.0).biases(core, D, 0)
    assert (six["forget"] == 6.0).all()


@pytest.mark.parametrize("name", ["C", "U"])
def test_a_sampled_forget_bias_is_opposed_by_the_input_gates(name):
    biases = mechanism(name).biases("lstm", D, 0)
    assert np.array_equal(biases["input"], -biases["forget"])  # (18)
    assert len(set(biases["forget"])) == D


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_sampled_masters_oppose_each_other_and_their_inner_gates_start_at_zero(core):
    for name in ("UM", "CM"):
        biases = mechanism(name, downsize=4).biases(core, D, 0)
        assert np.array_equal(biases["master_input"], -biases["master_forget"])
        assert biases["master_forget"].all()
        assert not biases["forget"].any()
        assert not biases.get("input", np.zeros(1)).any()


def test_a_constant_master_has_the_forget_bias_and_its_input_master_none():
    biases = mechanism("M").biases("lstm", D, 0)
    assert (biases["master_forget"] == 1.0).all()
    assert not biases["master_input"].any()


def test_uniform_masters_keep_the_width_of_the_hidden_size():
    """The range U[1/d, 1 - 1/d] is the hidden size's for downsized masters too."""
    wide = mechanism("UM", downsize=128).biases("lstm", 128 * 100, 0)["master_forget"]
    assert np.abs(wide).max() <= np.log(128 * 100 - 1)
    assert np.abs(wide).max() > np.log(99)  # what a width of d/C would allow at most


def test_the_three_refine_biases_have_three_distributions():
    biases = {
        kind: mechanism("UR", refine_bias=kind).biases("lstm", 4000, 0)
        for kind in ("neutral", "opposed", "uniform")
    }
    assert not biases["neutral"]["refine"].any()
    assert np.array_equal(biases["opposed"]["refine"], -biases["opposed"]["forget"])
    independent = biases["uniform"]
    correlation = np.corrcoef(independent["refine"], independent["forget"])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(4000)
    gates = sigmoid(independent["refine"]).value
    assert stats.kstest(gates, stats.uniform(1 / 4000, 1 - 2 / 4000).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("kind", "variance"),
    [
        ("neutral", 1 / 12),
        ("opposed", 23 / 420),
        ("uniform", 17 / 180),
    ],
)
def test_the_three_refine_biases_give_the_initial_gate_the_stated_variance(kind, variance):
    size = 100_000
    biases = mechanism("UR", refine_bias=kind).biases("minimal", size, 1)
    g = gatecore.refine(sigmoid(biases["forget"]), sigmoid(biases["refine"])).value
    assert abs(g.mean() - 0.5) < 5 * np.sqrt(variance / size)
    assert abs(g.var() - variance) < 0.01 * variance


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("kind", ["neutral", "opposed", "uniform"])
def test_an_untied_input_gate_opposes_the_forget_gate_and_has_its_own_refine_bias(core, kind):
    tied, untied = (
        mechanism("UR", refine_bias=kind, tied=tied).biases(core, D, 0) for tied in (True, False)
    )
    assert np.array_equal(untied["forget"], tied["forget"])  # the draws of the tied one come first
    assert np.array_equal(untied["refine"], tied["refine"])
    assert np.array_equal(untied["input"], -untied["forget"])  # (18)
    if kind == "uniform":
        assert len({*untied["refine"], *untied["refine_input"], *untied["forget"]}) == 3 * D
        assert np.abs(untied["refine_input"]).max() <= np.log(D - 1)
    else:
        opposed = 0 * untied["input"] if kind == "neutral" else -untied["input"]
        assert np.array_equal(untied["refine_input"], opposed)


def test_a_constant_untied_input_gate_starts_at_zero():
    biases = mechanism("R", tied=False).biases("gru", D, 0)
    assert (biases.pop("forget") == 1.0).all()
    assert not any(bias.any() for bias in biases.values())


def test_the_refine_bias_of_an_ordered_gate_is_a_separate_draw():
    biases = mechanism("OR").biases("lstm", D, 0)
    assert not biases["forget"].any()
    assert len(set(biases["refine"])) == D


@pytest.mark.parametrize(("t_max", "low", "high"), [("hidden", 2, 400), (50, 2, 50)])
def test_chrono_biases_span_the_timescales_up_to_t_max(t_max, low, high):
    scales = timescale(sigmoid(mechanism("C", t_max=t_max).biases("lstm", 400, 0)["forget"]))
    assert low <= scales.min()
    assert 0.9 * high < scales.max() <= high * (1 + 1e-12)


def test_chrono_without_t_max_has_its_heavy_tail():
    bias = mechanism("C", t_max=None).biases("lstm", 2000, 0)["forget"]
    assert abs(np.mean(bias == 0) - 0.614384) < 0.05  # T = 1
    assert bias.max() > np.log(2000)


def test_biases_are_a_function_of_the_generator():
    one, other = (mechanism("UM").biases("lstm", D, rng) for rng in (3, np.random.default_rng(3)))
    assert all(np.array_equal(one[slot], other[slot]) for slot in one)
    assert not np.array_equal(
        one["master_forget"], mechanism("UM").biases("lstm", D, 4)["master_forget"]
    )


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "found"), [("ur", "UR"), ("Standard", "standard"), ("cm", "CM")])
def test_names_are_found_in_any_case(name, found):
    assert mechanism(name) == mechanism(found)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("standart", "standard"),
        ("urx", "UR"),
        ("URR", "UR"),
        ("OMM", "OM"),
    ],
)
def test_errors_offer_the_nearest_names(wrong, nearest):
    with pytest.raises(ValueError, match="mechanism") as caught:
        mechanism(wrong)
    assert repr(wrong) in str(caught.value)
    assert f"mean {nearest!r}" in str(caught.value).replace(" or ", " mean ")


@pytest.mark.parametrize("wrong", [None, 3, ["UR"]])
def test_other_types_of_mechanism_raise(wrong):
    with pytest.raises(TypeError, match="mechanism"):
        mechanism(wrong)


@pytest.mark.parametrize(
    ("overrides", "error", "complaint"),
    [
        ({"refine_bais": "uniform"}, ValueError, "refine_bias"),
        ({"refine_bias": "unifrom"}, ValueError, "uniform"),
        ({"activation": "softmax"}, ValueError, "activation"),
        ({"auxiliary": "refined"}, ValueError, "refine"),
        ({"initial": "normal"}, ValueError, "initial"),
        ({"downsize": 0}, ValueError, "downsize"),
        ({"downsize": 2.0}, TypeError, "downsize"),
        ({"t_max": 2}, ValueError, "t_max"),
        ({"t_max": "long"}, ValueError, "t_max"),
        ({"forget_bias": float("nan")}, ValueError, "forget_bias"),
        ({"forget_bias": "1"}, TypeError, "forget_bias"),
        ({"activation": "cumax"}, ValueError, "cumax"),  # UR's initial law is uniform
        ({"tied": 0}, TypeError, "tied must be True or False, got 0"),
        ({"tied": False, "auxiliary": "none"}, ValueError, "tied=False has no effect"),
        ({"tied": False, "auxiliary": "master"}, ValueError, "tied=False has no effect"),
    ],
)
def test_errors_name_the_field(overrides, error, complaint):
    with pytest.raises(error, match=complaint):
        mechanism("UR", **overrides)


@pytest.mark.parametrize(
    ("row", "size", "complaint"),
    [
        (mechanism("OM", downsize=16), 40, "hidden_size=40 is not divisible by downsize=16"),
        (mechanism("UM", downsize=3), 8, "not divisible"),
        (mechanism("U"), 1, "hidden_size"),
        (mechanism("UR"), 1, "hidden_size"),
        (mechanism("OR"), 1, "hidden_size"),
        (mechanism("C"), 2, "t_max"),
        (mechanism("standard"), 0, "hidden_size"),
    ],
)
def test_a_size_that_a_mechanism_cannot_have_raises(row, size, complaint):
    for refused in (row.validate, lambda d: row.slots("lstm", d), lambda d: row.rows("gru", d)):
        with pytest.raises(ValueError, match=complaint):
            refused(size)


def test_an_unknown_core_raises():
    with pytest.raises(ValueError, match="lstm"):
        mechanism("UR").slots("lsmt", 8)


def test_a_mechanism_of_a_user_needs_no_registration():
    """Fields decide, not names: a user's mechanism works as the registered ones do."""
    custom = Mechanism(name="custom", initial="chrono", auxiliary="refine", refine_bias="uniform")
    assert letters(custom, "lstm") == ("refine", "forget", "candidate", "output")
    assert custom.biases("lstm", D, 0)["forget"].min() >= 0
