"""The replacement of torch's recurrent layers in a model."""

import abc
import functools
import logging
import re
import types
import warnings
import weakref
from typing import Any, Generic

import torch
from torch import nn
from torch.optim import Optimizer

from gatecore import mechanisms
from gatecore.backends.torch.nn.cells import GRUCell, LSTMCell
from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.layers import GRU, LSTM
from gatecore.mechanisms import Mechanism

_COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM, nn.GRU: GRU, nn.LSTMCell: LSTMCell, nn.GRUCell: GRUCell,
}  # fmt: skip
# attributes of torch's layers that the new ones derive from their own
_TORCH_ATTRIBUTES = {
    "_all_weights", "_flat_weight_refs", "_flat_weights", "_flat_weights_names", "mode",
}  # fmt: skip
# those of a class that its copy gets anew
_SKIPPED = {
    "__abstractmethods__", "__dict__", "__init__", "__orig_bases__", "__parameters__",
    "__weakref__", "_abc_impl",
}  # fmt: skip
_log = logging.getLogger(__name__)
Modules = dict[nn.Module, nn.Module]
Parameters = dict[nn.Parameter, nn.Parameter]


def convert(
    module: nn.Module, mechanism: str | Mechanism = "UR", keep_weights: bool | None = None,
    optimizer: Optimizer | None = None,
) -> nn.Module:  # fmt: skip
    """Replace every LSTM, GRU, LSTMCell and GRUCell of torch in a model, in place.

    The new layers have the same ``Parameter`` objects, so that an optimizer, a moving average or
    tied weights go on working; where the mechanism needs other shapes (a GRU's, or master gates),
    they are new, and ``optimizer``, one of the model's parameters, gets them in place of the old
    ones. Hooks, ``requires_grad``, training mode, dtype, device and further attributes are kept,
    and lists, tuples and dicts of the model's modules are updated. A subclass whose ``forward`` is
    torch's, or hands its arguments to torch's and returns the results, keeps its methods. Each
    replacement is logged. The result is ``module``; if it is such a layer itself, the new layer.

    ``keep_weights``, by default true for "standard" and else false, keeps the weights of the slots
    that the old and new layers have in common. All others are initialized as in a new layer;
    ``initialised`` of each new layer names them.

    TypeError if the model has reparametrized or pruned layers, or subclasses with a ``forward`` of
    their own, which may compute something else; nothing is replaced then. Warns if nothing was
    replaced.

    >>> model = nn.Sequential(nn.LSTM(3, 8))
    >>> convert(model, mechanism="UR")
    Sequential(
      (0): LSTM(3, 8, mechanism='UR')
    )
    """
    mechanism = mechanisms.mechanism(mechanism)
    if keep_weights is None:
        keep_weights = mechanism == mechanisms.mechanism("standard")
    layers: dict[Any, tuple[str, Any]] = {
        old: (name or "module", next(k for k in _COUNTERPARTS if isinstance(old, k)))
        for name, old in module.named_modules()
        if isinstance(old, tuple(_COUNTERPARTS))
    }
    for old, (name, torch_class) in layers.items():
        _check(name, old, torch_class)
    new: Modules = {}
    parameters: Parameters = {}
    for old, (name, torch_class) in layers.items():
        new[old] = _counterpart(old, torch_class, mechanism, keep_weights, parameters)
        _log.info("%s: %s replaced by %s", name, old, new[old])
    visited: set[int] = set()
    for parent in [*module.modules(), *new.values()]:
        _exchange(vars(parent), new, visited)
    _report(module, new, parameters, optimizer)
    return new.get(module, module)


def _check(name: str, old: Any, torch_class: type[nn.Module]) -> None:
    """Raise TypeError for a layer that may compute something else than torch's."""
    kind = type(old).__name__
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if old.bias else [])]
    names = getattr(old, "_flat_weights_names", names)
    if changed := [weight for weight in names if weight not in old._parameters]:
        raise TypeError(f"{name} is a {kind} whose {', '.join(changed)} is reparametrized or "
                        "pruned: undo that with "
                        "torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or "
                        "prune.remove, convert the model, and apply it again")  # fmt: skip
    if "forward" in vars(old) or not _delegates(old, torch_class):
        raise TypeError(f"{name} is a {kind} with a forward that is not torch's and may compute "
                        "something else: replace it by hand")  # fmt: skip


def _counterpart(old: Any, torch_class: Any, mechanism: Mechanism, keep_weights: bool,
                 parameters: Parameters) -> Any:  # fmt: skip
    """The new layer; parameters of another shape are added to ``parameters``, by the old ones."""
    kind: Any = _COUNTERPARTS[torch_class]
    subclass: Any = type(old)
    new = from_torch(kind, old, mechanism, keep_weights)
    new.__class__ = _on_top_of(kind, torch_class, subclass)
    with torch.no_grad():
        for name, value in new._parameters.items():
            if (source := old._parameters[name]) is not None:
                same = source.shape == value.shape
                shared = source.copy_(value) if same else parameters.setdefault(source, value)
                new._parameters[name] = shared
    for name, value in vars(old).items():
        if "hook" in name or name not in {*vars(new), *_TORCH_ATTRIBUTES}:
            vars(new)[name] = value
    for members in ("_parameters", "_buffers", "_modules"):
        vars(new)[members] = {**vars(old)[members], **vars(new)[members]}
    for hook in old._load_state_dict_pre_hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)
    return new


def _exchange(value: Any, new: Modules, visited: set[int]) -> Any:
    """The value with new modules in all lists, tuples and dicts, of which only tuples are new."""
    if isinstance(value, nn.Module):
        return new.get(value, value)
    if isinstance(value, tuple):
        parts = [_exchange(part, new, visited) for part in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if not isinstance(value, list | dict) or id(value) in visited:
        return value
    visited.add(id(value))
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        exchanged = _exchange(part, new, visited)
        if exchanged is not part:
            value[key] = exchanged
    return value


def _report(module: nn.Module, new: Modules, parameters: Parameters,
            optimizer: Optimizer | None) -> None:  # fmt: skip
    """Update the optimizer; warn of new parameters without one, or that nothing was replaced."""
    if optimizer is not None:
        for group in optimizer.param_groups:
            group["params"] = [parameters.get(p, p) for p in group["params"]]
        for old in parameters:
            optimizer.state.pop(old, None)
    elif parameters:
        _log.warning(
            "%d parameters are new, since their shapes changed: create optimizers and averages of "
            "the weights after convert, or pass convert(model, optimizer=...)", len(parameters)
        )  # fmt: skip
    if not new:
        others = [
            f"{name or 'module'} ({type(m).__module__}.{type(m).__qualname__})"
            for name, m in module.named_modules()
            if re.search("rnn|lstm|gru|recurrent", type(m).__name__, re.IGNORECASE)
        ]
        warnings.warn(
            "convert replaced nothing: the model has no LSTM, GRU, LSTMCell or GRUCell of torch"
            + (f"; other recurrent modules are {', '.join(others)}" if others else ""),
            stacklevel=3,
        )


class _Probe(nn.Module):
    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        return input, hx


def _delegates(old: Any, torch_class: Any) -> bool:
    """Whether the forward is torch's, or hands its arguments to torch's and returns the results."""
    subclass: Any = type(old)
    if subclass.forward is torch_class.forward:
        return True
    probe_class = _on_top_of(_Probe, torch_class, subclass)
    probe = probe_class.__new__(probe_class)
    vars(probe).update(vars(old))
    x = torch.empty(1, 1, old.input_size)
    try:
        results = [probe.forward(x, *state) for state in ((), (x,))]
    except (AttributeError, RuntimeError, TypeError, ValueError):  # it reads what a layer has
        return False
    return all(
        isinstance(result, tuple) and len(result) == 2 and result[0] is x and result[1] is state
        for result, state in zip(results, (None, x), strict=True)
    )


@functools.cache
def _on_top_of(kind: Any, torch_class: Any, subclass: Any) -> Any:
    """The class ``kind`` with what ``subclass`` adds to ``torch_class``, but its constructor."""
    result = kind
    for base in reversed(subclass.__mro__):
        if base not in (*torch_class.__mro__, abc.ABC, Generic):
            cell = types.CellType()
            members = {k: _rebound(v, cell) for k, v in vars(base).items() if k not in _SKIPPED}
            cell.cell_contents = result = type(base.__name__, (result,), members)

    def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
        return _empty, (kind, torch_class, subclass), vars(self)

    if result is not kind:
        result.__reduce_ex__ = reduce  # pickle would look the class up by name
    return result


def _empty(*classes: Any) -> Any:
    """An instance without attributes, to be restored from a pickle."""
    cls = _on_top_of(*classes)
    return cls.__new__(cls)


def _rebound(value: Any, cell: types.CellType) -> Any:
    """A method, or what wraps one, whose ``super()`` is that of the cell's class."""
    if isinstance(value, classmethod | staticmethod):
        return type(value)(_rebound(value.__func__, cell))
    if isinstance(value, property):
        return property(*(_rebound(f, cell) for f in (value.fget, value.fset, value.fdel)))
    if not (isinstance(value, types.FunctionType) and "__class__" in value.__code__.co_freevars):
        return value
    names = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
    closure = tuple(cell if name == "__class__" else content for name, content in names)
    parts = value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
    method = types.FunctionType(*parts)
    method.__kwdefaults__ = value.__kwdefaults__
    return functools.update_wrapper(method, value)
