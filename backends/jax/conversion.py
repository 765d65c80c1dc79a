"""The replacement of flax's recurrent cells in an nnx model."""

import logging
import warnings
from typing import Any

import jax
from flax import nnx

from gatecore import mechanisms
from gatecore.backends.jax.modules import GRUCell, LSTMCell, RecurrentCell
from gatecore.mechanisms import Mechanism

_COUNTERPARTS: dict[Any, Any] = {
    kind: cell for cell in (LSTMCell, GRUCell) for kind in cell.flax_cells
}
_PLAIN_METADATA = {"eager_sharding", "hijax", "ref"}
_log = logging.getLogger(__name__)
Cells = dict[int, RecurrentCell]


def convert(
    module: nnx.Module, mechanism: str | Mechanism = "UR", keep_weights: bool | None = None, *,
    rngs: nnx.Rngs | None = None,
) -> nnx.Module:  # fmt: skip
    """Replace every LSTMCell, OptimizedLSTMCell and GRUCell of flax in an nnx model, in place.

    Cells in lists, dicts and tuples are replaced, too, and a cell that is used twice stays one.
    The parameters are new, packed in another layout: make optimizers afterwards. ``rngs``, by
    default ``nnx.Rngs(0)``, draws those that are initialized. Each replacement is logged. The
    result is ``module``; if it is such a cell itself, the new cell.

    ``keep_weights``, by default true for "standard" and else false, keeps the weights of the gate
    projections that the old and new cells have in common. All others are initialized as in a new
    cell.

    TypeError for a subclass of flax's cells, which may compute something else, and for parameters
    with metadata such as a sharding, whose axes another layout has elsewhere; ValueError for
    another ``gate_fn`` or ``activation_fn`` than the sigmoid and tanh. Nothing is replaced then.
    Warns if nothing was replaced.

    >>> rnn = nnx.RNN(nnx.OptimizedLSTMCell(3, 8, rngs=nnx.Rngs(0)))
    >>> convert(rnn, mechanism="UR").cell.mechanism.name
    'UR'
    """
    mechanism = mechanisms.mechanism(mechanism)
    rngs = nnx.Rngs(0) if rngs is None else rngs
    nodes = list(nnx.iter_graph(module))
    new: Cells = {}
    for path, old in nodes:
        if isinstance(old, tuple(_COUNTERPARTS)):
            name = "/".join(map(str, path)) or "module"
            _check(name, old)
            kind = _COUNTERPARTS[type(old)]
            new[id(old)] = kind.from_flax(old, mechanism, keep_weights, rngs=rngs)
            _log.info("%s: %s replaced, mechanism %r", name, type(old).__name__, mechanism.name)
    for _, parent in nodes:
        if isinstance(parent, nnx.Module):
            for name, value in list(vars(parent).items()):
                exchanged = _exchange(value, new)
                if exchanged is not value:
                    setattr(parent, name, nnx.data(exchanged))
    if not new:
        warnings.warn("convert replaced nothing: the model has no LSTMCell, OptimizedLSTMCell or "
                      "GRUCell of flax.nnx", stacklevel=2)  # fmt: skip
    return new.get(id(module), module)


def _check(name: str, old: Any) -> None:
    """Raise TypeError for a cell that may compute something else, or has annotated parameters."""
    kind = type(old).__name__
    if type(old) not in _COUNTERPARTS:
        raise TypeError(f"{name} is a {kind}, a subclass of flax's cell that may compute something "
                        "else: replace it by hand")  # fmt: skip
    for param in jax.tree.leaves(nnx.state(old, nnx.Param), is_leaf=_is_variable):
        if further := param.get_metadata().keys() - _PLAIN_METADATA:
            raise TypeError(f"{name} is a {kind} whose parameters have metadata "
                            f"({', '.join(sorted(further))}), for another layout than the new "
                            "ones': replace it by hand, with kernel_metadata")  # fmt: skip


def _is_variable(value: Any) -> bool:
    return isinstance(value, nnx.Variable)


def _exchange(value: Any, new: Cells) -> Any:
    """The value with new cells in all lists, tuples and dicts, of which only tuples are new."""
    if id(value) in new:
        return new[id(value)]
    if isinstance(value, tuple):
        parts = [_exchange(part, new) for part in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list | dict):
        for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
            exchanged = _exchange(part, new)
            if exchanged is not part:
                value[key] = exchanged
    return value
