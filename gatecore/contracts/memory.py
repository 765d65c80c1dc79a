"""Recurrent cores and the sizes of their memory, as data."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from gatecore import _checks
from gatecore.cells import CANDIDATES, CELLS
from gatecore.mechanisms import CORES, Mechanism, mechanism

GATE_STYLES = ("unit", "memory", "none")
RMA_LAYERS = 2  # of its controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Sizes of a core's memory; None stands for the core's default, named here.

    ``slots`` are the rows of the memory ("rmc": 4, "dnc": 16, "rma": 1000), ``width`` that of a row
    ("dnc": 16, "rma": 200; "rmc" has rows of the hidden size). ``heads`` are reads at each step
    ("dnc": 4, "rma": 3), for "rmc" those of the attention, which divide the hidden size (4). Of
    "rmc" alone are ``gate_style``, "unit" (default), "memory" or "none", and ``blocks`` (1).
    ValueError or TypeError names the size, what came, and what was expected.

    >>> Core(core="dnc", hidden_size=64, memory=Memory(slots=32)).memory
    Memory(slots=32, width=16, heads=4, gate_style=None, blocks=None)
    """

    slots: int | None = None
    width: int | None = None
    heads: int | None = None
    gate_style: str | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        _checks.check_fields(self, _checks.integer, "slots", "width", "heads", "blocks")
        if self.gate_style is not None:
            _checks.choice("gate_style", self.gate_style, GATE_STYLES)


class _Kind(NamedTuple):
    """A core with a memory: its sizes' defaults, and the shapes that follow from d units and m."""

    defaults: dict[str, Any]
    gate_shape: Callable[[int, Any], tuple[int, int]]
    output_size: Callable[[int, Any], int]
    divisor: str | None = None  # the size that divides d


_KINDS = {
    "rmc": _Kind({"slots": 4, "heads": 4, "gate_style": "unit", "blocks": 1},
                 lambda d, m: (m.slots, d if m.gate_style == "unit" else 1),
                 lambda d, m: m.slots * d, divisor="heads"),
    "dnc": _Kind({"slots": 16, "width": 16, "heads": 4}, lambda d, m: (1, d), lambda d, m: d),
    "rma": _Kind({"slots": 1000, "width": 200, "heads": 3}, lambda d, m: (RMA_LAYERS, d),
                 lambda d, m: m.width * (1 + m.heads) + RMA_LAYERS * d),
}  # fmt: skip
MEMORY_CORES = tuple(_KINDS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Core:
    """The recurrent part of a specification; ``ModelSpec`` documents its fields.

    The sizes of its ``memory`` are filled in. ValueError or TypeError if the sizes do not fit the
    core, each other, or the mechanism.
    """

    cores: ClassVar[tuple[str, ...]] = (*CORES, *MEMORY_CORES)
    _acts: ClassVar[_checks.Acts] = {
        "mechanism": (lambda core: core._gate_width, "its core has no gates"),
        **dict.fromkeys(("hidden_size", "layers"),
                        (lambda core: core.core != "none", "it has no recurrent core")),
    }  # fmt: skip

    hidden_size: int
    core: str = "lstm"
    mechanism: Mechanism | str = "UR"
    layers: int = 1
    memory: Memory | None = None
    layer_norm: bool = False
    residual: bool = False
    candidate: str | None = None

    def __post_init__(self) -> None:
        _checks.choice("core", self.core, self.cores)
        _checks.check_fields(self, _checks.integer, "hidden_size", "layers")
        _checks.check_fields(self, _checks.flag, "layer_norm", "residual")
        linear = [core for core in CORES if not CELLS[core].recurrent]
        for name, off, cores in (("layer_norm", False, CORES), ("residual", False, CORES),
                                 ("candidate", None, linear)):  # fmt: skip
            if (value := getattr(self, name)) is not off and self.core not in cores:
                known = ", ".join(cores)
                raise ValueError(f"{name}={value!r} is for core {known}, not {self.core!r}")
        if self.core in linear:
            candidate = CANDIDATES[0] if self.candidate is None else self.candidate
            _checks.choice("candidate", candidate, CANDIDATES)
            object.__setattr__(self, "candidate", candidate)
        object.__setattr__(self, "mechanism", mechanism(self.mechanism))
        if not isinstance(self.memory, Memory | None):
            raise TypeError(f"memory must be a Memory, got {type(self.memory).__name__}")
        if self.core in _KINDS:
            object.__setattr__(self, "memory", self._filled(_KINDS[self.core]))
        elif self.memory is not None:
            known = ", ".join(MEMORY_CORES)
            sizes = [f"memory_{k}" for k, v in vars(self.memory).items() if v is not None]
            raise ValueError(f"{', '.join(sizes)} are for core {known}, not {self.core!r}")
        if self._gate_width:
            self.mechanism.validate(self._gate_width)  # type: ignore[union-attr]

    def _filled(self, kind: _Kind) -> Memory:
        if self.layers != 1:
            known = ", ".join(CORES)
            raise ValueError(f"layers={self.layers} is for core {known}, not {self.core!r}")
        sizes = {k: v for k, v in vars(self.memory or Memory()).items() if v is not None}
        for name, value in sizes.items():
            if name not in kind.defaults:
                raise ValueError(f"memory_{name}={value!r} is none of core={self.core!r}")
        sizes = kind.defaults | sizes
        if kind.divisor and self.hidden_size % (parts := sizes[kind.divisor]):
            raise ValueError(f"hidden_size={self.hidden_size} is not divisible by "
                             f"memory_{kind.divisor}={parts}")  # fmt: skip
        return Memory(**sizes)

    @property
    def _gate_width(self) -> int | None:
        """How many gates are drawn together; None: there are none."""
        style = self.core if self.memory is None else self.memory.gate_style
        if style == "none":
            return None
        return self.memory.slots if self.memory and style == "memory" else self.hidden_size

    @property
    def gate_shape(self) -> tuple[int, int]:
        """Rows and units of the effective forget gates: (layers, hidden) of layers."""
        if self.memory is None:
            return (self.layers, self.hidden_size) if self._gate_width else (1, 1)
        return _KINDS[self.core].gate_shape(self.hidden_size, self.memory)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the parts of a layer's state; none of a core with a memory."""
        return CELLS[self.core].state_names if self.memory is None else ()

    @property
    def cell_fields(self) -> dict[str, Any]:
        """The fields that the core's cell alone has, by name."""
        return {} if self.candidate is None else {"candidate": self.candidate}

    @property
    def core_output_size(self) -> int:
        """Width of the core's output at each step."""
        if self.memory is None:
            return self.hidden_size
        return _KINDS[self.core].output_size(self.hidden_size, self.memory)
