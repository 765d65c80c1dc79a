"""Recurrent cores and the sizes of their memory, as data."""

import dataclasses
from typing import Any

from gatecore import _checks
from gatecore.mechanisms import CORES, Mechanism

GATE_STYLES = ("unit", "memory", "none")
_SIZES = ("slots", "width", "heads", "blocks")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """How large the memory of a core is; None is the core's default.

    Parameters
    ----------
    slots : int, optional
        Rows of the memory. "rmc": 4, "dnc": 16, "rma": 1000.
    width : int, optional
        Numbers in a row. "rmc": the hidden size, and nothing else; "dnc": 16; "rma": 200, the
        latents that it writes.
    heads : int, optional
        Heads of the attention, which divide the hidden size ("rmc": 4), or reads ("dnc": 4,
        "rma": 3).
    gate_style : {"unit", "memory", "none"}, optional
        "rmc" alone: "unit".
    blocks : int, optional
        "rmc" alone: 1.
    """

    slots: int | None = None
    width: int | None = None
    heads: int | None = None
    gate_style: str | None = None
    blocks: int | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) is not None:
                _checks.integer(name, getattr(self, name))
        if self.gate_style is not None:
            _checks.choice("gate_style", self.gate_style, GATE_STYLES)

    def of(self, core: str, hidden_size: int) -> "Memory":
        """This with the defaults of a core in place of None.

        Raises
        ------
        ValueError
            A size is given that the core does not have, or that does not fit ``hidden_size``.
        """
        defaults = _DEFAULTS[_checks.choice("core", core, _DEFAULTS)]
        for name, value in dataclasses.asdict(self).items():
            if value is not None and name not in defaults:
                raise ValueError(f"memory's {name}={value!r} is none of core={core!r}")
        found = dataclasses.replace(
            self,
            **{name: value for name, value in defaults.items() if getattr(self, name) is None},
        )
        if core == "rmc" and hidden_size % (heads := found.heads or 1):
            raise ValueError(f"hidden_size={hidden_size} is not divisible by heads={heads}")
        return found


_DEFAULTS: dict[str, dict[str, Any]] = {
    "rmc": {"slots": 4, "heads": 4, "gate_style": "unit", "blocks": 1},
    "dnc": {"slots": 16, "width": 16, "heads": 4},
    "rma": {"slots": 1000, "width": 200, "heads": 3},
}
MEMORY_CORES = tuple(_DEFAULTS)
RMA_LAYERS = 2


@dataclasses.dataclass(frozen=True)
class Core:
    """A recurrent core by name, and its sizes.

    Parameters
    ----------
    name : str
        One of ``CORES`` or ``MEMORY_CORES``.
    hidden_size : int
        Units of a layer; of a slot of "rmc"; of the controller of "dnc", and of each of "rma"'s.
    mechanism : Mechanism
    layers : int
        Of "lstm", "gru" and "minimal".
    memory : Memory, optional
        Of the others. Its sizes are filled in.

    Raises
    ------
    ValueError
        Sizes that do not fit the core, each other, or the mechanism.
    """

    name: str
    hidden_size: int
    mechanism: Mechanism
    layers: int = 1
    memory: Memory | None = None

    def __post_init__(self) -> None:
        _checks.choice("core", self.name, (*CORES, *MEMORY_CORES))
        if self.name in CORES:
            if self.memory is not None:
                known = ", ".join(MEMORY_CORES)
                raise ValueError(f"a memory's sizes are for core {known}, not {self.name!r}")
        else:
            if self.layers != 1:
                raise ValueError(
                    f"layers={self.layers} is for core {', '.join(CORES)}, not {self.name!r}"
                )
            sizes = (self.memory or Memory()).of(self.name, self.hidden_size)
            object.__setattr__(self, "memory", sizes)
        if self._gate_width:
            self.mechanism.validate(self._gate_width)

    @property
    def _gate_width(self) -> int | None:
        """How many gates are drawn together; None: it has none."""
        if self.memory is None or self.memory.gate_style in (None, "unit"):
            return self.hidden_size
        return self.memory.slots if self.memory.gate_style == "memory" else None

    @property
    def gate_shape(self) -> tuple[int, int]:
        """Rows and units of its effective forget gates."""
        if self.memory is None:
            return self.layers, self.hidden_size
        if self.name == "rmc":
            units = self.hidden_size if self.memory.gate_style == "unit" else 1
            return self.memory.slots or 0, units
        return RMA_LAYERS if self.name == "rma" else 1, self.hidden_size

    @property
    def output_size(self) -> int:
        """Width of what it gives at each step."""
        sizes: Any = self.memory
        if self.name == "rmc":
            return sizes.slots * self.hidden_size
        if self.name == "rma":
            return sizes.width * (1 + sizes.heads) + RMA_LAYERS * self.hidden_size
        return self.hidden_size
