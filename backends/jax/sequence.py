"""Pure functions of whole sequences: ``lstm``, ``gru``, ``minimal``, and ``init``."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gatecore import _checks
from gatecore.backends.common.validation import cell_of, per_layer
from gatecore.backends.jax import native, scan
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

Array = jax.Array
Params = Mapping[str, Array] | Sequence[Mapping[str, Array]]


def lstm(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    return_cells: bool = False,
    autodiff: bool = False,
    impl: str = "auto",
) -> tuple[Any, Any]:
    """An LSTM over a whole sequence (equations 2-15, by mechanism).

    Pure, for use under ``jit``, ``grad``, ``vmap``, ``scan``. Gates and state are float32 at least,
    whatever the type of the parameters.

    Parameters
    ----------
    params : mapping of arrays, or a list of them for stacked layers
        ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,), packed in the
        mechanism's order; :func:`init` draws them. The weights have the type of ``x``.
    x : array (time, batch, input), floating
    state : (h, c), each (batch, hidden), optional
        Zeros by default; a list of pairs for stacked layers.
    mechanism : str or Mechanism
    resets : bool array (time, batch), optional
        Where true, the state is zeroed before that step.
    zoneout : (cell, hidden), optional
        Amounts of the old values that are kept: numbers in [0, 1] (the expectation, for
        evaluation) or arrays (time, batch, hidden) of draws, which are not differentiated; a list
        of pairs for stacked layers.
    return_cells : bool
        The output is then a pair (hidden, cell) of all steps.
    autodiff : bool
        False: the sequence has a derivative of its own, by explicit backpropagation through time,
        which can be differentiated again, but not in forward mode. True: JAX differentiates the
        plain scan, in any mode, with more memory.
    impl : {"auto", "native", "reference"}
        By the native library, by a scan, or by the library wherever it serves: in float32 on a CPU
        that is JAX's one device. :func:`implementation` says which it is, and :func:`native_call`
        how the library is called.

    Returns
    -------
    output : array (time, batch, hidden), of the type of x
    state : (h, c)
        After the last step, float32 at least.

    Raises
    ------
    ValueError, TypeError
        Shapes or types that do not fit, or an ``impl`` that can't be taken, with the reason.

    Examples
    --------
    >>> import jax
    >>> params = init(jax.random.key(0), 3, 8)
    >>> output, (h, c) = jax.jit(lstm)(params, np.ones((5, 2, 3), np.float32))
    >>> output.shape, c.shape
    ((5, 2, 8), (2, 8))
    """
    return _run("lstm", params, x, state, mechanism, resets, zoneout, autodiff, return_cells, impl)


def gru(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    autodiff: bool = False,
    impl: str = "auto",
) -> tuple[Array, Any]:
    """A GRU over a whole sequence, reset after the product as in torch and cuDNN.

    As :func:`lstm`, but for the state h (batch, hidden), the further parameter ``bias_n``
    (hidden,), and a zoneout of one amount.
    """
    return _run("gru", params, x, state, mechanism, resets, zoneout, autodiff, impl=impl)


def minimal(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    autodiff: bool = False,
    impl: str = "auto",
) -> tuple[Array, Any]:
    """The minimal gated cell over a whole sequence (footnote 4).

    As :func:`lstm`, but for the state h (batch, hidden) and a zoneout of one amount.
    """
    return _run("minimal", params, x, state, mechanism, resets, zoneout, autodiff, impl=impl)


def init(
    key: Array,
    input_size: int,
    hidden_size: int,
    mechanism: str | Mechanism = "UR",
    *,
    core: str = "lstm",
    dtype: Any = jnp.float32,
) -> dict[str, Array]:
    """Initial parameters: weights U(−1/√d, 1/√d), the mechanism's gate biases, all else 0.

    Can be traced and mapped over keys. The biases are drawn by :mod:`gatecore.init` on the host.

    Parameters
    ----------
    key : a key of ``jax.random``
    input_size, hidden_size : int
    mechanism : str or Mechanism
    core : {"lstm", "gru", "minimal"}
    dtype : of the parameters

    Examples
    --------
    >>> import jax
    >>> {k: v.shape for k, v in init(jax.random.key(0), 3, 8, "UR").items()}
    {'weight_ih': (32, 3), 'weight_hh': (32, 8), 'bias': (32,)}
    """
    cell = CELLS[_checks.choice("core", core, CELLS)](input_size, hidden_size, mechanism)
    keys = jax.random.split(key, 3)
    bound = hidden_size**-0.5
    params = {
        name: jax.random.uniform(k, (cell.rows, width), dtype, -bound, bound)
        for name, k, width in zip(
            ("weight_ih", "weight_hh"), keys, (input_size, hidden_size), strict=False
        )
    }
    params["bias"] = biases(cell, keys[2], dtype)
    if core == "gru":
        params["bias_n"] = jnp.zeros(hidden_size, dtype)
    return params


def biases(cell: Cell, key: Array, dtype: Any) -> Array:
    """The mechanism's initial biases (rows,), drawn in NumPy from a seed that the key gives."""

    def draw(seed: Any) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(seed).tolist())
        drawn = cell.mechanism.biases(cell.core, cell.hidden_size, rng)
        return np.concatenate(list(drawn.values())).astype(np.float32)

    seed = jax.random.bits(key, (4,), jnp.uint32)
    shape = jax.ShapeDtypeStruct((cell.rows,), jnp.float32)
    return jax.pure_callback(draw, shape, seed, vmap_method="sequential").astype(dtype)


def implementation(
    dtype: Any,
    *,
    sizes: tuple[int, int, int, int] | None = None,
    autodiff: bool = False,
    impl: str = "auto",
) -> str:
    """What runs a sequence of this type: "native" or "reference".

    Parameters
    ----------
    dtype : of x and the weights
    sizes : (time, batch, input, hidden), optional
        They matter where :func:`native_call` is "callback": "auto" then leaves short sequences to
        the scan. Without them a long one is meant.
    autodiff, impl
        As :func:`lstm` takes them.

    Raises
    ------
    ValueError
        ``impl="native"`` can't be taken, with the reason.
    """
    _checks.choice("impl", impl, ("auto", "native", "reference"))
    reason = "autodiff=True asks for the scan" if autodiff else native.obstacle(dtype)
    if impl == "native" and reason:
        raise ValueError(f"impl='native' can't be taken: {reason}; use impl='auto' or 'reference'")
    if impl == "auto" and reason is None and native.automatic(dtype, sizes):
        return "native"
    return "native" if impl == "native" else "reference"


def layer_of(core: str, params: Mapping[str, Array], x: Array, mechanism: Any) -> scan.Layer:
    """The layer that parameters and inputs are of, after checking their shapes and types."""
    cell = cell_of(core, params, x, mechanism)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must have a floating type, got {x.dtype}")
    rows, hidden = cell.rows, cell.hidden_size
    shapes = {"weight_ih": (rows, x.shape[2]), "weight_hh": (rows, hidden), "bias": (rows,)}
    if core == "gru":
        shapes["bias_n"] = (hidden,)
    for name, value in params.items():
        if name not in shapes:
            raise ValueError(f"params has an unknown entry {name!r}")
        if value.shape != shapes[name]:
            raise ValueError(
                f"params[{name!r}] must have shape {shapes[name]} for a {core} of {hidden} units "
                f"with mechanism {cell.mechanism.name!r} and inputs of {x.shape[2]}, got "
                f"{value.shape}"
            )
        if value.dtype != x.dtype and name.startswith("weight"):
            raise TypeError(f"params[{name!r}] is {value.dtype} but x is {x.dtype}")
    return scan.Layer(core, cell.mechanism, x.shape[2], hidden)


def _run(
    core: str,
    params: Any,
    x: Array,
    state: Any,
    mechanism: str | Mechanism,
    resets: Array | None,
    zoneout: Any,
    autodiff: bool,
    return_cells: bool = False,
    impl: str = "auto",
) -> tuple[Any, Any]:
    if isinstance(params, Mapping):
        return _layer(
            core, params, x, state, mechanism, resets, zoneout, autodiff, return_cells, impl
        )
    if not params:
        raise ValueError("params must hold at least one layer")
    states, amounts = (
        per_layer(name, value, len(params))
        for name, value in (("state", state), ("zoneout", zoneout))
    )
    finals: list[Any] = []
    for k, layer in enumerate(params):
        cells = return_cells and k == len(params) - 1
        x, final = _layer(
            core, layer, x, states[k], mechanism, resets, amounts[k], autodiff, cells, impl
        )
        finals.append(final)
    return x, finals


def _layer(
    core: str,
    params: Mapping[str, Array],
    x: Array,
    state: Any,
    mechanism: str | Mechanism,
    resets: Array | None,
    zoneout: Any,
    autodiff: bool,
    return_cells: bool,
    impl: str,
) -> tuple[Any, Any]:
    layer, own, start, sequence = _checked(core, params, x, state, mechanism, resets, zoneout)
    shown = 2 if return_cells else 1
    sizes = (*sequence.x.shape, layer.hidden_size)
    taken = implementation(sequence.x.dtype, sizes=sizes, autodiff=autodiff, impl=impl)
    if taken == "native":
        single = {name: value.astype(jnp.float32) for name, value in own.items()}
        states, last = native.explicit(layer, shown, single, start, sequence)
    else:
        matrix, bias = scan.pack(layer, own, scan.widened(sequence.x.dtype))
        if autodiff:
            states, last, _ = scan.forward(layer, matrix, bias, start, sequence)
        else:
            states, last = scan.explicit(layer, shown, matrix, bias, start, sequence)
    hidden = states[0].astype(sequence.x.dtype)
    return (hidden, states[1]) if return_cells else hidden, layer.whole(last)


def prepared(
    core: str,
    params: Mapping[str, Array],
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    resets: Array | None = None,
    zoneout: Any = None,
) -> tuple[scan.Layer, Array, Array, scan.State, scan.Sequence]:
    """One layer's arguments, checked, as :mod:`scan` takes them."""
    layer, own, start, sequence = _checked(core, params, x, state, mechanism, resets, zoneout)
    return layer, *scan.pack(layer, own, scan.widened(sequence.x.dtype)), start, sequence


def _checked(
    core: str,
    params: Mapping[str, Array],
    x: Array,
    state: Any,
    mechanism: str | Mechanism,
    resets: Array | None,
    zoneout: Any,
) -> tuple[scan.Layer, dict[str, Array], scan.State, scan.Sequence]:
    """The layer, its parameters, the initial state, and what it runs over."""
    x = jnp.asarray(x)
    params = {name: jnp.asarray(value) for name, value in params.items()}
    layer = layer_of(core, params, x, mechanism)
    wide, steps = scan.widened(x.dtype), x.shape[:2]
    start = _start(layer, state, x.shape[1], wide)
    sequence = scan.Sequence(x, resets_of(resets, steps), _zoneout(layer, zoneout, steps, wide))
    return layer, params, start, sequence


def resets_of(resets: Any, steps: tuple[int, ...]) -> Array | None:
    """Resets as bool (time, batch, 1), checked."""
    if resets is None:
        return None
    resets = jnp.asarray(resets)
    if resets.shape != steps or resets.dtype != bool:
        raise ValueError(
            f"resets must be boolean of shape {steps} (time, batch), got {resets.dtype} of shape "
            f"{resets.shape}"
        )
    return resets[..., None]


def _start(layer: scan.Layer, state: Any, batch: int, dtype: Any) -> scan.State:
    """The state's parts, hidden first, zeros where None was given."""
    shape, count = (batch, layer.hidden_size), 2 if layer.core == "lstm" else 1
    if state is None:
        state = (None,) * count
    elif layer.core != "lstm":
        state = (state,)
    if not isinstance(state, tuple | list) or len(state) != count:
        raise ValueError("state of an LSTM must be a pair (h, c)")
    parts = [jnp.zeros(shape, dtype) if part is None else jnp.asarray(part) for part in state]
    for part in parts:
        if part.shape != shape or scan.widened(part.dtype) != dtype:
            raise ValueError(
                f"state must be {dtype} of shape {shape} (batch, hidden), got {part.dtype} of "
                f"shape {part.shape}"
            )
    return tuple(part.astype(dtype) for part in parts)


def _zoneout(layer: scan.Layer, zoneout: Any, steps: tuple[int, ...], dtype: Any) -> Any:
    """Each amount as (time, batch, hidden) or (time, 1, 1)."""
    if zoneout is None:
        return None
    if layer.core == "lstm" and (not isinstance(zoneout, tuple) or len(zoneout) != 2):
        raise ValueError("zoneout of an LSTM must be a pair: of the cell and the hidden state")
    amounts = zoneout if layer.core == "lstm" else (zoneout,)
    return tuple(_amount(a, (*steps, layer.hidden_size), dtype) for a in amounts)


def _amount(amount: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    if isinstance(amount, int | float):
        _checks.probability("zoneout", amount)
    amount = jax.lax.stop_gradient(jnp.asarray(amount, dtype))
    if amount.ndim == 0:
        return jnp.broadcast_to(amount, (shape[0], 1, 1))
    if amount.shape != shape:
        raise ValueError(f"zoneout draws must have shape {shape}, got {amount.shape}")
    return amount
