"""Pure functions of whole sequences: ``lstm``, ``gru``, ``minimal`` and ``mingru``."""

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from gatecore import _checks
from gatecore.backends.common import implementation as common
from gatecore.backends.common.validation import arguments, layers_of, per_layer
from gatecore.backends.jax.arguments import Arguments, States, checked
from gatecore.backends.jax.forward_mode import reverse_mode_only
from gatecore.backends.jax.implementation import Call, Implementation, run
from gatecore.backends.jax.linear_recurrence import PARALLEL
from gatecore.backends.jax.native import NATIVE, preferred
from gatecore.backends.jax.placement import placed
from gatecore.backends.jax.reference import REFERENCE
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

Array = jax.Array
Params = Mapping[str, Array] | Sequence[Mapping[str, Array]]

IMPLEMENTATIONS = (NATIVE, PARALLEL, REFERENCE)  # in order of preference


def lstm(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    resets: Array | None = None, zoneout: Any = None, return_cells: bool = False,
    autodiff: bool = False, impl: str = "auto",
) -> tuple[Any, Any]:  # fmt: skip
    """Apply an LSTM with any gate mechanism to a whole sequence (equations 2-7, 9-15).

    Pure, for use under ``jit``, ``grad``, ``vmap``, ``scan``. ``params`` are ``weight_ih`` (rows,
    input), ``weight_hh`` (rows, hidden) and ``bias`` (rows,), packed in the order of
    ``Mechanism.slots``, as :func:`init` draws them, also with layer normalization; the weights have
    the type of x (time, batch, input), floating. ``state`` is (h, c), each (batch, hidden), by
    default zeros, and is zeroed before the steps at which bool ``resets`` (time, batch) is true.
    ``zoneout`` (cell, hidden) is how much of the old state replaces the new one (Krueger et al.
    2016): probabilities in [0, 1], for evaluation, or masks (time, batch, hidden), for training; it
    is not differentiated. For stacked layers ``params``, ``state`` and ``zoneout`` are lists, one
    entry a layer.

    Returned are the output (time, batch, hidden), of the type of x, with ``return_cells`` a pair of
    the hidden and the cell states of all steps, and (h, c) after the last step. Gates and state are
    float32 at least, whatever the type of the parameters.

    Without ``autodiff`` the derivative is manual BPTT, which can be differentiated again in reverse
    mode; with it JAX differentiates the scan, in forward mode too, with more memory. ``impl`` is
    "native" for the C++ library, "reference" for a scan of JAX's operations, or "auto": the library
    in float32 on a CPU that is JAX's only device, else the scan; see :func:`implementation`,
    :func:`native_call`.

    ValueError for shapes that do not fit, an unknown mechanism, parameters that are not finite
    (which are not read while JAX traces, as under ``jit``), or an ``impl`` that does not support
    the call; TypeError if an argument is no array, ``x`` is not floating, a weight's type is not
    that of ``x``, or a bias's neither that nor the gates'.

    >>> import jax.numpy as jnp
    >>> from gatecore.backends.jax import init
    >>> params = init(jax.random.key(0), 3, 8)
    >>> output, (h, c) = jax.jit(lstm)(params, jnp.ones((5, 2, 3), jnp.float32))
    >>> output.shape, c.shape
    ((5, 2, 8), (2, 8))
    """
    return _run("lstm", params, x, state, mechanism, resets, zoneout, autodiff, impl, return_cells)


def gru(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    resets: Array | None = None, zoneout: Any = None, autodiff: bool = False, impl: str = "auto",
) -> tuple[Array, Any]:  # fmt: skip
    """Apply a GRU with any gate mechanism to a whole sequence (Cho et al. 2014).

    n = tanh(Wx + b + q∘(Uh + b_n)) and h' = g·h + (1 − g)·n, where g ≥ ½ as h + (1 − g)(n − h): the
    update gate is the mechanism's forget gate g, and the reset gate q comes after the product, as
    in torch and cuDNN. Arguments, results and errors are those of :func:`lstm`, but that ``params``
    also has ``bias_n`` (hidden,), the state is h (batch, hidden), and zoneout one probability or
    mask (time, batch, hidden).

    >>> import jax.numpy as jnp
    >>> from gatecore.backends.jax import init
    >>> params = init(jax.random.key(0), 3, 8, core="gru")
    >>> output, h = jax.jit(gru)(params, jnp.ones((5, 2, 3), jnp.float32))
    >>> output.shape, h.shape
    ((5, 2, 8), (2, 8))
    """
    return _run("gru", params, x, state, mechanism, resets, zoneout, autodiff, impl)


def minimal(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    resets: Array | None = None, zoneout: Any = None, autodiff: bool = False, impl: str = "auto",
) -> tuple[Array, Any]:  # fmt: skip
    """Apply the minimal gated cell with any gate mechanism to a whole sequence (footnote 4; JANET).

    With u = tanh(Wx + Uh + b) and the mechanism's forget gate g, h' = g·h + (1 − g)·u, where g ≥ ½
    as h + (1 − g)(u − h). Arguments, results and errors are those of :func:`gru`, but for
    ``bias_n``, which this cell does not have.

    >>> import jax.numpy as jnp
    >>> from gatecore.backends.jax import init
    >>> params = init(jax.random.key(0), 3, 8, core="minimal")
    >>> output, h = jax.jit(minimal)(params, jnp.ones((5, 2, 3), jnp.float32))
    >>> output.shape, h.shape
    ((5, 2, 8), (2, 8))
    """
    return _run("minimal", params, x, state, mechanism, resets, zoneout, autodiff, impl)


def mingru(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    candidate: str = "linear", resets: Array | None = None, zoneout: Any = None,
    autodiff: bool = False, impl: str = "auto",
) -> tuple[Array, Any]:  # fmt: skip
    """Apply the linear recurrence h' = g·h + (1 − g)·u, with g and u of x alone, to a sequence.

    All steps are computed at once, by ``lax.associative_scan``, or in float32 on a CPU by the C++
    library. As :func:`minimal`, but ``params`` are ``weight_ih`` (rows, input) and ``bias`` (rows,)
    alone; the ``candidate`` is u = Wx + b if "linear" (Feng et al. 2024), its tanh if "tanh"
    (Martin & Cundy 2018). ``impl`` is "native", "parallel", "reference" for a scan step by step,
    or "auto", the first of them that supports the call.

    >>> import jax.numpy as jnp
    >>> from gatecore.backends.jax import init
    >>> params = init(jax.random.key(0), 3, 8, core="mingru")
    >>> output, h = jax.jit(mingru)(params, jnp.ones((16, 2, 3), jnp.float32))
    >>> output.shape, h.shape
    ((16, 2, 8), (2, 8))
    """
    options = mechanism, resets, zoneout, autodiff, impl
    return _run("mingru", params, x, state, *options, candidate=candidate)


def minimal_parallel(
    params: Mapping[str, Array], x: Array, state: Array | None = None, mechanism: Any = "UR", *,
    resets: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """A deprecated name of ``mingru(..., candidate="tanh")``.

    It warns with a DeprecationWarning.
    """
    warnings.warn('minimal_parallel is deprecated: use mingru(..., candidate="tanh")',
                  DeprecationWarning, stacklevel=2)  # fmt: skip
    return mingru(params, x, state, mechanism, candidate="tanh", resets=resets)


def layer_vjp(
    core: str, arrays: Mapping[str, Any], cotangent: Any, mechanism: str | Mechanism = "UR",
    zoneout: Any = None, impl: str = "auto",
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The output of a layer, and the gradient of ⟨cotangent, output⟩, not compiled, by name.

    ``arrays`` are the layer's parameters, ``x`` and the parts of its state; see :func:`lstm`.
    """

    def layer(arrays: dict[str, Any]) -> Array:
        params, x, state = arguments(core, arrays)
        return _run(core, params, x, state, mechanism, None, zoneout, False, impl)[0]

    with jax.disable_jit():
        output, pullback = jax.vjp(layer, dict(arrays))
        return output, pullback(cotangent)[0]


def implementation(
    dtype: Any, *, sizes: tuple[int, int, int, int] | None = None, autodiff: bool = False,
    impl: str = "auto", core: str = "lstm",
) -> str:  # fmt: skip
    """Name of the implementation that runs a sequence: "native", "parallel" or "reference".

    ``dtype`` is that of x and the weights; ``autodiff`` and ``impl`` are as for :func:`lstm`. Where
    :func:`native_call` is "callback", "auto" leaves short sequences to the scan: ``sizes`` are
    (time, batch, input, hidden), by default of a long one. ValueError for an unknown ``impl``, or
    one that does not support the call, with the reason.

    >>> implementation(np.float32, impl="reference")
    'reference'
    >>> implementation(np.float64)  # the library computes in float32
    'reference'
    """
    recurrent = CELLS[_checks.choice("core", core, CELLS)].recurrent
    return choose(impl, Call(dtype, sizes, autodiff, recurrent)).name


def choose(impl: str, call: Call) -> Implementation:
    """The implementation that runs ``call``; ValueError if ``impl`` does not support it."""
    if isinstance(impl, str) and impl == "auto" and not preferred(call):
        return REFERENCE if call.recurrent else PARALLEL
    return common.choose(IMPLEMENTATIONS, impl, call)


def _run(
    core: str, params: Any, x: Array, state: Any, mechanism: str | Mechanism, resets: Array | None,
    zoneout: Any, autodiff: bool, impl: str, return_cells: bool = False, **fields: Any,
) -> tuple[Any, Any]:  # fmt: skip
    return_cells = _checks.flag("return_cells", return_cells)
    stacked = not isinstance(params, Mapping)
    layers = layers_of(params if stacked else [params])
    states, zoneouts = (per_layer(name, value if stacked else [value], len(layers))
                        for name, value in (("state", state), ("zoneout", zoneout)))  # fmt: skip
    finals: list[Any] = []
    for layer, initial, amount in zip(layers, states, zoneouts, strict=True):
        cell, arguments = checked(core, layer, x, initial, mechanism, resets, amount,
                                  **fields)  # fmt: skip
        num_outputs = 1 + (return_cells and len(finals) == len(layers) - 1)
        run_layer = functools.partial(_run_layer, cell, num_outputs, autodiff, impl)
        outputs, final = placed(run_layer, arguments)
        x = outputs[0].astype(arguments.x.dtype)
        finals.append(cell.state(final))
    return (x, outputs[1]) if return_cells else x, finals if stacked else finals[0]


def _run_layer(cell: Cell, num_outputs: int, autodiff: bool, impl: str,
               arguments: Arguments) -> tuple[States, States]:  # fmt: skip
    sizes = (*arguments.x.shape, cell.hidden_size)
    properties = cell.recurrent, cell.layer_norm
    chosen = choose(impl, Call(arguments.x.dtype, sizes, autodiff, *properties))
    if autodiff:
        return chosen.forward(cell, num_outputs, False, arguments)[:2]
    return run(chosen, cell, num_outputs, reverse_mode_only(arguments))
