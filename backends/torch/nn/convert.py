"""The replacement of torch's recurrent layers in a model."""

import logging
import re
import warnings
import weakref
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gatecore import mechanisms
from gatecore.backends.torch.nn.cells import GRUCell, LSTMCell
from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.layers import GRU, LSTM
from gatecore.backends.torch.nn.subclass import on_top_of
from gatecore.mechanisms import Mechanism

_COUNTERPARTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
# attributes of torch's layers that the new ones derive from their own
_TORCH_ATTRIBUTES = {
    "_all_weights", "_flat_weight_refs", "_flat_weights", "_flat_weights_names", "mode",
}  # fmt: skip
_log = logging.getLogger(__name__)
Modules = dict[nn.Module, nn.Module]
Parameters = dict[nn.Parameter, nn.Parameter]


def convert(
    module: nn.Module,
    mechanism: str | Mechanism = "UR",
    keep_weights: bool | None = None,
    optimizer: Optimizer | None = None,
) -> nn.Module:
    """Replace every LSTM, GRU, LSTMCell and GRUCell of torch in a model, in place.

    The new layers have the same ``Parameter`` objects, so that an optimizer, a moving average or
    tied weights go on working; where the mechanism needs other shapes (a GRU's, or master gates),
    they are new, and ``optimizer`` gets them in place of the old ones. Hooks, ``requires_grad``,
    training mode, dtype, device and further attributes are kept, and lists, tuples and dicts of the
    model's modules are updated. A subclass that has torch's ``forward`` keeps its methods. Each
    replacement is logged.

    Parameters
    ----------
    module : nn.Module
    mechanism : str or Mechanism
        Of the new layers.
    keep_weights : bool, optional
        Whether to keep the weights of the slots that the old and new layers have in common. All
        others are initialized as in a new layer; ``initialised`` of each new layer names them. By
        default true for "standard", else false.
    optimizer : torch.optim.Optimizer, optional
        One of the model's parameters, to be updated where parameters are new.

    Returns
    -------
    nn.Module
        ``module``; if it is such a layer itself, the new layer.

    Raises
    ------
    TypeError
        The model has reparametrized or pruned layers, or subclasses with a ``forward`` of their
        own, which may compute something else. Nothing is replaced then.

    Warns
    -----
    UserWarning
        Nothing was replaced.

    Examples
    --------
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
    _replace([*module.modules(), *new.values()], new)
    _report(module, new, parameters, optimizer)
    return new.get(module, module)


def _check(name: str, old: Any, torch_class: type[nn.Module]) -> None:
    """Raise TypeError for a layer that may compute something else than torch's."""
    kind = type(old).__name__
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if old.bias else [])]
    names = getattr(old, "_flat_weights_names", names)
    if changed := [weight for weight in names if weight not in old._parameters]:
        raise TypeError(
            f"{name} is a {kind} whose {', '.join(changed)} is reparametrized or pruned: undo that "
            "with torch.nn.utils.parametrize.remove_parametrizations, remove_weight_norm or "
            "prune.remove, convert the model, and apply it again"
        )
    if type(old).forward is not torch_class.forward or "forward" in vars(old):
        raise TypeError(
            f"{name} is a {kind} with a forward that is not torch's and may compute something "
            "else: replace it by hand"
        )


def _counterpart(
    old: Any, torch_class: Any, mechanism: Mechanism, keep_weights: bool, parameters: Parameters
) -> Any:
    """The new layer; parameters of another shape are added to ``parameters``, by the old ones."""
    kind: Any = _COUNTERPARTS[torch_class]
    subclass: Any = type(old)
    new = from_torch(kind, old, mechanism, keep_weights)
    new.__class__ = on_top_of(kind, torch_class, subclass)
    _share_parameters(old, new, parameters)
    for name, value in vars(old).items():
        if "hook" in name or name not in {*vars(new), *_TORCH_ATTRIBUTES}:
            vars(new)[name] = value
    for members in ("_parameters", "_buffers", "_modules"):
        vars(new)[members] = {**vars(old)[members], **vars(new)[members]}
    for hook in old._load_state_dict_pre_hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(new)
    return new


@torch.no_grad()
def _share_parameters(old: Any, new: Any, parameters: Parameters) -> None:
    for name, value in new._parameters.items():
        source = old._parameters[name]
        if source is None:
            continue
        if source.shape == value.shape:
            new._parameters[name] = source.copy_(value)
        else:
            new._parameters[name] = parameters.setdefault(source, value)


def _replace(parents: list[nn.Module], new: Modules) -> None:
    """Put new modules in the place of the old ones in all attributes, lists, tuples and dicts."""
    visited: set[int] = set()
    for parent in parents:
        _exchange(vars(parent), new, visited)


def _exchange(value: Any, new: Modules, visited: set[int]) -> Any:
    """The value with new modules; lists and dicts are changed in place."""
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


def _report(
    module: nn.Module, new: Modules, parameters: Parameters, optimizer: Optimizer | None
) -> None:
    """Update the optimizer; say what it has to know, or that nothing was replaced."""
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
