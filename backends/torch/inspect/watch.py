"""Statistics of the gates of any model while it runs, collected by hooks."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gatecore._checks import integer, number
from gatecore.algebra import Gate, timescale
from gatecore.backends.torch.inspect.module_gates import Source, source, suffix
from gatecore.backends.torch.nn.layout import Lengths
from gatecore.backends.torch.nn.recurrent import Recurrent


class Saturation(NamedTuple):
    """Fractions of each unit's activations: arrays (hidden,) in [0, 1]."""

    shut: np.ndarray  # the gate is nearly 0 and forgets
    open: np.ndarray  # it is nearly 1 and remembers


def watch(model: nn.Module, *, every: int = 1, saturated: float = 0.1) -> "Watch":
    """Collect the forget gates of a model's recurrent layers whenever it runs.

    Watched are gatecore's layers, cells and :class:`GateUnit`, and ``torch.nn.LSTM``, ``GRU``,
    ``LSTMCell`` and ``GRUCell``. The forget gate of a GRU is its update gate. Results and gradients
    of the model are unchanged, and only sums over time and batch are stored.

    The gates of torch's own layers are computed again from inputs and outputs; layers below the
    last of a stack are run again. Where dropout is active between layers, the whole stack is run
    again without it. Steps beyond the end of a packed sequence are excluded.

    Of each layer's calls the first and then every n-th are used (``every``). A gate below
    ``saturated``, in (0, 0.5], counts as shut, one whose complement is below it as open. The
    :class:`Watch` that is returned is a context manager, too, which removes the hooks at its end.
    ValueError if the model has no gates to watch, or a number is out of its range.

    >>> model = nn.Sequential(nn.LSTM(3, 8, num_layers=2))
    >>> with watch(model) as gates:
    ...     output, state = model(torch.randn(20, 4, 3))
    >>> {name: gate.value.shape for name, gate in gates.means().items()}
    {'0.l0': (8,), '0.l1': (8,)}
    >>> gates.timescales()["0.l1"].shape, gates.saturation()["0.l1"].open.shape
    ((8,), (8,))
    """
    return Watch(model, every, saturated)


class Watch:
    """Statistics of gates, collected since :func:`watch` made it.

    All are dictionaries by the names of the model's modules. A layer adds ``.l0``, ``.l1``, … and
    ``_reverse`` as torch's parameters do. ``unwatched`` are the names of recurrent modules of
    unknown classes, which have no statistics.

    >>> layer = nn.GRU(3, 8)
    >>> gates = watch(layer)
    >>> output, h = layer(torch.randn(20, 4, 3))
    >>> gates.counts()
    {'l0': 80}
    >>> gates.remove()
    """

    def __init__(self, model: nn.Module, every: int, saturated: float) -> None:
        self.every, self.saturated = integer("every", every), number("saturated", saturated)
        if not 0 < self.saturated <= 0.5:
            raise ValueError(f"saturated must be in (0, 0.5], got {saturated!r}")
        self._sums: dict[str, _Sums] = {}
        self._calls: collections.Counter[str] = collections.Counter()
        self._removals: list[Callable[[], None]] = []
        self.unwatched: tuple[str, ...] = ()
        for name, module in model.named_modules():
            if isinstance(module, Recurrent):
                self._observe(name, module)
            elif gates := source(module):
                self._hook(name, module, gates)
            elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
                self.unwatched += (name or type(module).__name__,)
        if not self._removals:
            unwatched = f" ({', '.join(self.unwatched)} may compute anything)"
            raise ValueError(f"model must have gates to watch, but {type(model).__name__} holds no "
                             "LSTM, GRU or Minimal layer or cell and no GateUnit"
                             + unwatched * bool(self.unwatched))  # fmt: skip

    def means(self) -> dict[str, Gate]:
        """The mean forget gate and the mean complement of each unit: float64 arrays (hidden,)."""
        return {name: Gate(*sums.means()[:2]) for name, sums in self._sums.items()}

    def timescales(self) -> dict[str, np.ndarray]:
        """The timescale 1/(mean complement) of each unit, in steps: float64 arrays (hidden,)."""
        return {name: timescale(gate) for name, gate in self.means().items()}

    def saturation(self) -> dict[str, Saturation]:
        """The fractions of each unit's activations near 0 and near 1."""
        return {name: Saturation(*sums.means()[2:]) for name, sums in self._sums.items()}

    def counts(self) -> dict[str, int]:
        """The number of activations of each unit in the means."""
        return {name: int(sums.count) for name, sums in self._sums.items()}

    def clear(self) -> None:
        """Reset the statistics, and continue to watch."""
        self._sums.clear()
        self._calls.clear()

    def remove(self) -> None:
        """Remove the hooks. The statistics remain."""
        while self._removals:
            self._removals.pop()()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def _hook(self, name: str, module: nn.Module, gates: Source) -> None:
        @torch.compiler.disable
        @torch.no_grad()
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if self._is_due(name):
                for suffix, gate, valid in gates(module, args, kwargs, output):
                    self._add(_join(name, suffix), gate, valid)

        self._removals.append(module.register_forward_hook(hook, with_kwargs=True).remove)

    def _observe(self, name: str, module: Recurrent) -> None:
        @torch.compiler.disable
        @torch.no_grad()
        def observer(k: int, gates: Callable[[], Gate], lengths: Lengths | None) -> None:
            full_name = _join(name, suffix(k, module.bidirectional))
            if self._is_due(full_name):
                self._add(full_name, gates(), None if lengths is None else lengths.valid())

        def remove() -> None:
            module.observers = tuple(o for o in module.observers if o is not observer)

        module.observers += (observer,)
        self._removals.append(remove)

    def _is_due(self, name: str) -> bool:
        self._calls[name] += 1
        return (self._calls[name] - 1) % self.every == 0

    def _add(self, name: str, gate: Gate, valid: Tensor | None) -> None:
        sums = _Sums.of(gate, valid, self.saturated)
        self._sums[name] = self._sums[name].plus(sums) if name in self._sums else sums


class _Sums(NamedTuple):
    """Sums over all axes but the last, (hidden,) each, on the model's device."""

    value: Tensor
    complement: Tensor
    shut: Tensor
    open: Tensor
    count: Any  # a number, or a tensor without axes

    @classmethod
    def of(cls, gate: Gate, valid: Tensor | None, saturated: float) -> "_Sums":
        value, complement = (side.detach().reshape(-1, side.shape[-1]) for side in gate)
        if valid is not None:
            value, complement = value[valid.flatten()], complement[valid.flatten()]
        # float64, in which counts beyond 2^24 and long timescales stay exact; MPS has none
        dtype = torch.float32 if value.device.type == "mps" else torch.float64
        parts = (value, complement, value < saturated, complement < saturated)
        return cls._make([*(part.sum(0, dtype=dtype) for part in parts), value.shape[0]])

    def plus(self, other: "_Sums") -> "_Sums":
        # not in place: tensors made in inference mode could not be changed outside it
        return _Sums(*(a + b for a, b in zip(self, other, strict=True)))

    def means(self) -> list[np.ndarray]:
        return [(total / self.count).cpu().numpy() for total in self[:-1]]


def _join(name: str, suffix: str) -> str:
    return ".".join(part for part in (name, suffix) if part)
