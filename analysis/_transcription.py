"""The paper's cells as printed, for the claims on what trains; no formula is the library's.

Arrays are real or complex, so that complex steps give derivatives without rounding. The letters of
``ORDER`` are the paper's, with q the GRU's reset gate, F and I the master gates.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray
Arrays = Mapping[str, Array]

ORDER = {"lstm": "ifuo", "gru": "qfu", "minimal": "fu"}  # of the packed maps; R and M change it


def letters(core: str, mechanism: str) -> str:
    """The packed maps: a refine gate r in the input gate's place, or last; master gates last.

    RR has an input gate, and a refine gate s of it.
    """
    order = ORDER[core]
    if mechanism.endswith("RR"):
        return order + ("rs" if "i" in order else "irs")
    if mechanism.endswith("R"):
        return order.replace("i", "r") if "i" in order else order + "r"
    return order + "FI" * mechanism.endswith("M")


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def cumax(x: Array) -> Array:
    return np.cumsum(np.exp(x), axis=-1) / np.sum(np.exp(x), axis=-1, keepdims=True)


def refined(f: Array, r: Array) -> Array:
    return r * (1 - (1 - f) ** 2) + (1 - r) * f**2  # (12), (36)


def gates(mechanism: str, z: Arrays, size: int) -> tuple[Array, Array]:
    """The forget and input gates of the update, from the logits z by letter."""
    forget = cumax if "O" in mechanism else sigmoid
    input = (lambda x: 1 - cumax(x)) if "O" in mechanism else sigmoid
    if mechanism.endswith("R"):
        g = refined(forget(z["f"]), sigmoid(z["r"]))  # (10), (11), (34), (35)
        return g, refined(input(z["i"]), sigmoid(z["s"])) if "s" in z else 1 - g  # (37)
    if not mechanism.endswith("M"):
        f = forget(z["f"])  # (2), (28)
        return f, input(z["i"]) if "i" in z else 1 - f  # (3), (29)
    units = size // z["F"].shape[-1]  # that share a master gate: B.4
    big_f, big_i = (np.repeat(a(z[k]), units, -1) for k, a in (("F", forget), ("I", input)))
    f = sigmoid(z["f"])
    i = sigmoid(z["i"]) if "i" in z else 1 - f
    omega = big_f * big_i  # (21)
    return f * omega + (big_f - omega), i * omega + (big_i - omega)  # (22), (23)


def step(core: str, mechanism: str, arrays: Arrays, x: Array, state: Any, keep: Any) -> Any:
    """The next (h,) or (h, c); ``keep`` has a zoneout probability for each (Krueger et al.)."""
    h, size, order = state[0], state[0].shape[-1], letters(core, mechanism)
    rows = len(arrays["bias"]) - size * len(order.strip("FI"))
    ends = np.cumsum([rows // 2 if k in "FI" else size for k in order])[:-1]
    from_x = np.split(x @ arrays["weight_ih"].T + arrays["bias"], ends, -1)  # (8)
    from_h = np.split(h @ arrays["weight_hh"].T, ends, -1)
    z = {k: a + b for k, a, b in zip(order, from_x, from_h, strict=True)}
    f, i = gates(mechanism, z, size)
    if "q" in z:
        k = order.index("u")
        z["u"] = from_x[k] + sigmoid(z["q"]) * (from_h[k] + arrays["bias_n"])
    new = f * state[-1] + i * np.tanh(z["u"])  # (1), (5), (13)
    states = (sigmoid(z["o"]) * np.tanh(new), new) if "o" in z else (new,)  # (6), (7)
    return tuple(p * old + (1 - p) * n for p, old, n in zip(keep, state, states, strict=True))


def outputs(core: str, mechanism: str, arrays: Arrays, keep: Any = (0, 0)) -> Array:
    """The hidden states (time, batch, size) from the parameters, ``x`` and the state h, c."""
    state = tuple(arrays[k] for k in "hc" if k in arrays)
    history = []
    for x in arrays["x"]:
        state = step(core, mechanism, arrays, x, state, keep[: len(state)])
        history.append(state[0])
    return np.stack(history)
