"""The sizes of the memory cores, as data."""

import dataclasses
from typing import Any

from gatecore import _checks

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
