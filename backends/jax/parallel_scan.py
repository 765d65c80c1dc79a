"""The minimal cell without recurrent weights, for all steps at once by an associative scan."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gatecore.algebra import Gate, both
from gatecore.backends.jax.arguments import resets_of, widened
from gatecore.backends.jax.scan import product
from gatecore.cells import Minimal, update
from gatecore.mechanisms import Mechanism, mechanism

Array = jax.Array
_mechanism = mechanism  # an argument's name hides the function


def minimal_parallel(
    params: Mapping[str, Array], x: Array, state: Array | None = None,
    mechanism: str | Mechanism = "UR", *, resets: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Apply the minimal cell without recurrent weights, in O(log time) steps (Section 2.1).

    A step is then h' = g·h + ḡ·u with g and u known beforehand, and two steps compose to one of the
    same form: the gates by ``both``, with their complements. For accelerators; on a few cores
    :func:`minimal` is faster. ValueError for other parameters, or shapes that do not fit.

    ``params`` are ``weight_ih`` (rows, input) and ``bias`` (rows,), without ``weight_hh``. x is
    (time, batch, input), floating, and ``state`` h (batch, hidden), zeroed before the steps at
    which bool ``resets`` (time, batch) is true. Returned are the outputs (time, batch, hidden), of
    the type of x, and the last h, float32 at least.

    >>> import jax
    >>> from gatecore.backends.jax import init
    >>> params = init(jax.random.key(0), 3, 8, core="minimal")
    >>> del params["weight_hh"]
    >>> output, h = minimal_parallel(params, np.ones((16, 2, 3), np.float32))
    >>> output.shape, h.shape
    ((16, 2, 8), (2, 8))
    """
    cell = _cell(params, x, mechanism)
    bias = params["bias"].astype(widened(x.dtype))
    logits = cell.split(product(x, params["weight_ih"].T) + bias[None, None])
    forget, input = cell.mechanism.gates(logits)
    write = input.value * jnp.tanh(logits["candidate"])
    reset = resets_of(resets, x.shape[:2])
    reset = jnp.zeros((*x.shape[:2], 1), bool) if reset is None else reset
    through, hidden, reset = lax.associative_scan(_compose, (forget, write, reset))
    if state is not None:
        state = jnp.where(reset, 0, state.astype(hidden.dtype)[None])
        hidden = update(state, hidden, through, Gate(1.0, 0.0))
    return hidden.astype(x.dtype), hidden[-1]


def _compose(first: tuple[Gate, Array, Array], then: tuple[Gate, Array, Array]) -> Any:
    """The composition of two steps h → g·h + w, where reset w, which has the same form."""
    # a product with a gate of 0 would keep NaN
    parts = zip((0, 1, 0), (*first[0], first[1]), strict=True)
    value, complement, write = (jnp.where(then[2], cleared, part) for cleared, part in parts)
    gate = both(then[0], Gate(value, complement))
    return gate, then[0].value * write + then[1], first[2] | then[2]


def _cell(params: Mapping[str, Array], x: Array, mechanism: Any) -> Minimal:
    if set(params) != {"weight_ih", "bias"}:
        raise ValueError(f"params must hold weight_ih and bias alone, got {sorted(params)}: with "
                         "recurrent weights use minimal")  # fmt: skip
    mechanism, rows = _mechanism(mechanism), params["bias"].shape[0]
    some = Minimal(1, 4 * mechanism.downsize, mechanism)  # rows are in proportion to hidden units
    cell = Minimal(x.shape[-1], rows * some.hidden_size // some.rows, mechanism)
    if params["weight_ih"].shape != (cell.rows, x.shape[-1]) or rows != cell.rows or x.ndim != 3:
        raise ValueError(f"x (time, batch, input) and params do not fit: x has shape {x.shape}, "
                         f"weight_ih {params['weight_ih'].shape}, bias "
                         f"{params['bias'].shape}")  # fmt: skip
    return cell
