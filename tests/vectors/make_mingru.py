"""Makes the high-precision vectors of MinGRU: ``python -m tests.vectors.make_mingru``.

The reference runs in mpmath with 60 digits; gradients are central differences of step 1e-20, whose
error is below the 30 digits that are kept.
"""

import json

import mpmath
import numpy as np

from tests import reference
from tests.support import LAYER_KINDS, VECTORS

TIME, BATCH, INPUTS, HIDDEN = 5, 2, 3, 8
STEP = mpmath.mpf(10) ** -20
NAMES = [name for name in LAYER_KINDS if name.endswith("mingru")]


def drawn(rng, *shape):
    """Normal numbers, rounded to a 64th: exact in float32."""
    rounded = np.round(rng.standard_normal(shape) * 64) / 64
    return np.vectorize(mpmath.mpf, otypes=[object])(rounded)


def slopes(loss, array):
    """The derivative of ``loss()`` to each entry of an array of mpmath's numbers."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        value, ends = array[index], []
        for sign in (1, -1):
            array[index] = value + sign * STEP
            ends.append(loss())
        array[index] = value
        result[index] = (ends[0] - ends[1]) / (2 * STEP)
    return result


def digits(nest):
    """Numbers as strings of 30 digits."""
    if isinstance(nest, (list, np.ndarray)):
        return [digits(entry) for entry in nest]
    return mpmath.nstr(nest, 30, strip_zeros=False)


def vectors(layer, rng):
    """The contents of one file."""
    letters = reference.packed_rows(layer, HIDDEN)
    rows = max(part.stop for part in letters.values())
    params = {"weight_ih": drawn(rng, rows, INPUTS) / 2, "bias": drawn(rng, rows)}
    x, start = drawn(rng, TIME, BATCH, INPUTS), drawn(rng, BATCH, HIDDEN)
    weight = drawn(rng, TIME, BATCH, HIDDEN)

    def run():
        nest = {name: value.tolist() for name, value in params.items()}
        return reference.run(layer, nest, x.tolist(), start.tolist(), m=mpmath)

    def loss():
        return (weight * np.array(run().outputs)).sum()

    def by_letter(arrays):
        weights = {f"W{k}_x": digits(arrays["weight_ih"][part]) for k, part in letters.items()}
        return weights | {f"b{k}": digits(arrays["bias"][part]) for k, part in letters.items()}

    trace = run()
    return {
        "params": by_letter(params), "x": digits(x), "h0": digits(start), "w": digits(weight),
        "h": digits(trace.outputs), "g": digits(trace.forget), "i_eff": digits(trace.input),
        "loss": digits(loss()),
        "grad_params": by_letter({name: slopes(loss, value) for name, value in params.items()}),
        "grad_x": digits(slopes(loss, x)), "grad_h0": digits(slopes(loss, start)),
    }  # fmt: skip


if __name__ == "__main__":
    with mpmath.workdps(60):
        for seed, name in enumerate(NAMES):
            contents = vectors(LAYER_KINDS[name], np.random.default_rng(seed))
            path = VECTORS / f"{name}.json"
            path.write_text(json.dumps(contents, indent=0) + "\n", encoding="utf-8")
