"""Subclasses of torch's recurrent layers, on gatecore's layer in the place of torch's."""

import abc
import functools
import types
from typing import Any, Generic

_SKIPPED = {
    "__abstractmethods__", "__dict__", "__init__", "__orig_bases__", "__parameters__",
    "__weakref__", "_abc_impl",
}  # fmt: skip


@functools.cache
def on_top_of(kind: Any, torch_class: Any, subclass: Any) -> Any:
    """The class ``kind`` with what ``subclass`` adds to ``torch_class``, but its constructor."""
    result = kind
    for base in reversed(subclass.__mro__):
        if base not in (*torch_class.__mro__, abc.ABC, Generic):
            result = _rebuilt(base, result)

    def reduce(self: Any, protocol: int) -> tuple[Any, ...]:
        return _empty, (kind, torch_class, subclass), vars(self)

    if result is not kind:
        result.__reduce_ex__ = reduce  # pickle would look the class up by name
    return result


def _empty(*classes: Any) -> Any:
    """An instance without attributes, to be restored from a pickle."""
    cls = on_top_of(*classes)
    return cls.__new__(cls)


def _rebuilt(base: type[Any], parent: type[Any]) -> type[Any]:
    """A class of the same attributes, derived from ``parent``."""
    cell = types.CellType()
    attributes = {k: _rebound(v, cell) for k, v in vars(base).items() if k not in _SKIPPED}
    cell.cell_contents = result = type(base.__name__, (parent,), attributes)
    return result


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
    method = types.FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, closure
    )
    method.__kwdefaults__ = value.__kwdefaults__
    return functools.update_wrapper(method, value)
