"""Shared by the tests: the high-precision vectors, error measures, random layers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gatecore import cells, mechanism
from tests import reference

VECTORS = Path(__file__).parent / "vectors"
ULP = 2.0**-24  # the unit of the float32 errors stated in the design: relative, not per binade
LAYER_KINDS = {
    "layer_lstm": reference.Layer("lstm"),
    "layer_ur_lstm": reference.Layer("lstm", auxiliary="refine"),
    "layer_om_lstm": reference.Layer("lstm", "cumax", "master", 4),
    "layer_ur_gru_reset_after": reference.Layer("gru", auxiliary="refine"),
    "layer_mingru": reference.Layer("mingru", candidate="linear"),
    "layer_ur_mingru": reference.Layer("mingru", auxiliary="refine", candidate="linear"),
    "layer_om_mingru": reference.Layer("mingru", "cumax", "master", 4, "linear"),
}

# Every way of forming effective gates: each activation with each auxiliary, masters downsized too.
GATINGS = {
    "standard": mechanism("standard"),
    "UR": mechanism("UR"),
    "UR untied": mechanism("UR", tied=False),
    "M": mechanism("M"),
    "UM/3": mechanism("UM", downsize=3),
    "O": mechanism("O"),
    "OR": mechanism("OR"),
    "OR untied": mechanism("OR", tied=False),
    "OM": mechanism("OM"),
    "OM/2": mechanism("OM", downsize=2),
}
CORES = {"lstm": cells.LSTM, "gru": cells.GRU, "minimal": cells.Minimal}
EVERY_CORE = CORES | {"mingru": cells.MinGRU}  # and that without recurrent weights


def equations(core, gating):
    """The reference layer with a mechanism's fields."""
    activation = EVERY_CORE[core].candidate
    return reference.Layer(core, gating.activation, gating.kind, gating.downsize, activation)


def load(name):
    """The contents of a vector file: numbers are strings of 30 digits."""
    return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))


def floats(nest):
    """A nest of decimal strings, rounded to the nearest doubles."""
    if isinstance(nest, list):
        return np.array([floats(entry) for entry in nest])
    return float(nest)


def column(cases, key):
    """One quantity of many cases, as an array."""
    return np.array([float(case[key]) for case in cases])


def relative_error(got, exact):
    """Largest elementwise relative error; where `exact` is 0 only 0 is right."""
    got, exact = np.asarray(got, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    assert got.shape == exact.shape
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(got == exact, 0, np.abs(got - exact) / np.abs(exact))
    return float(np.max(error, initial=0))


def norm_error(got, exact):
    """Largest error relative to the largest entry of `exact` (an error of the array's norm)."""
    got, exact = np.asarray(got, dtype=np.float64), np.asarray(exact, dtype=np.float64)
    assert got.shape == exact.shape, (got.shape, exact.shape)
    scale = float(np.max(np.abs(exact), initial=0)) or 1.0
    return float(np.max(np.abs(got - exact), initial=0)) / scale


def both_sides(arrays, gate):
    """A gate's value and complement as NumPy arrays."""
    return arrays.numpy(gate.value), arrays.numpy(gate.complement)


def pack_layer(vectors, suffix=""):
    """A vector file's parameters (or, with its gradients' prefix, those) in the packed layout."""
    layer, maps = LAYER_KINDS[vectors["name"]], vectors[f"{suffix}params"]
    letters = reference.PACKED[layer.core, layer.auxiliary].split()
    packed = {
        "weight_ih": np.concatenate([floats(maps[f"W{k}_x"]) for k in letters]),
        "bias": np.concatenate([floats(maps[f"b{k}"]) for k in letters]),
    }
    if layer.core != "mingru":
        packed["weight_hh"] = np.concatenate([floats(maps[f"W{k}_h"]) for k in letters])
    if layer.core == "gru":
        packed["bias_n"] = floats(maps["bu_h"])
    return packed


def layer_vectors(name):
    """A layer's vectors as arrays in the library's layout, beside the equations it obeys."""
    raw = load(name) | {"name": name}
    lstm = "c0" in raw

    def state(prefix):
        h = floats(raw[f"{prefix}h0"])
        return (h, floats(raw[f"{prefix}c0"])) if lstm else h

    return SimpleNamespace(
        layer=LAYER_KINDS[name],
        params=pack_layer(raw),
        grad_params=pack_layer(raw, "grad_"),
        x=floats(raw["x"]),
        weight=floats(raw["w"]),
        state=state(""),
        grad_state=state("grad_"),
        grad_x=floats(raw["grad_x"]),
        outputs=floats(raw["h"]),
        cells=floats(raw["c"]) if lstm else None,
        loss=float(raw["loss"]),
        forget=floats(raw["g"]),
        input=floats(raw["i_eff"]),
    )


def nested(value):
    """Arrays as nested lists, through mappings, pairs and lists; None stays None."""
    if isinstance(value, dict):
        return {key: nested(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(nested(entry) for entry in value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def random_params(layer, inputs, hidden, rng, scale=0.7, layer_norm=False):
    """Random parameters of a layer, every entry nonzero."""
    rows = max(rows.stop for rows in reference.packed_rows(layer, hidden).values())
    params = {
        "weight_ih": scale * rng.standard_normal((rows, inputs)),
        "weight_hh": scale * rng.standard_normal((rows, hidden)),
        "bias": scale * rng.standard_normal(rows),
    }
    if layer.core == "mingru":
        del params["weight_hh"]
    if layer.core == "gru":
        params["bias_n"] = scale * rng.standard_normal(hidden)
    if layer_norm:
        params["norm_ih"] = rng.uniform(0.5, 1.5, rows)
    if layer_norm and layer.core != "mingru":
        params["norm_hh"] = rng.uniform(0.5, 1.5, rows)
    if layer_norm and layer.core == "lstm":
        params |= {"norm_c": rng.uniform(0.5, 1.5, hidden)}
        params |= {"norm_c_bias": scale * rng.standard_normal(hidden)}
    return params


def random_state(layer, batch, hidden, rng):
    """A random state: h, or (h, c) for the LSTM."""
    h, c = rng.standard_normal((2, batch, hidden)) / 2
    return (h, c) if layer.core == "lstm" else h


def leaves(tree):
    """The arrays of a nest of mappings, lists and pairs, in a fixed order."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, (tuple, list)):
        return [leaf for entry in tree for leaf in leaves(entry)]
    return [tree]


def rebuild(tree, arrays):
    """A nest of the same form as `tree` with its arrays taken from the iterator `arrays`."""
    if isinstance(tree, dict):
        new = {key: rebuild(tree[key], arrays) for key in sorted(tree)}
        return {key: new[key] for key in tree}
    if isinstance(tree, (tuple, list)):
        return type(tree)(rebuild(entry, arrays) for entry in tree)
    return next(arrays)


def moved(tree, direction, amount):
    """The nest `tree + amount · direction`."""
    pairs = zip(leaves(tree), leaves(direction), strict=True)
    return rebuild(tree, iter([a + amount * b for a, b in pairs]))


def inner(tree, other):
    """The inner product of two nests of equal form."""
    return sum(float(np.sum(a * b)) for a, b in zip(leaves(tree), leaves(other), strict=True))
