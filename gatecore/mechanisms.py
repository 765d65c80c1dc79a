"""The gate mechanisms of the paper as data: two axes and their consequences (Table 1).

One axis is the main gate (its activation and the distribution of its initial bias), the other its
auxiliary gate (none, refine, master). A mechanism is a value of :class:`Mechanism`; code branches
on its fields, never on its name. A slot is a gate projection of a cell: the rows of the packed
weights that give the logits of one gate, or of the candidate.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from gatecore import _checks, init
from gatecore._namespace import Array
from gatecore.algebra import Gate, cumax, master, negate, refine, sigmoid, spread

CORES = ("lstm", "gru", "minimal", "mingru")

# Packed order of the slots that every mechanism of a core has, and those of master gates.
_CORE_SLOTS = {"lstm": ("input", "forget", "candidate", "output"),
               "gru": ("reset", "forget", "candidate"),
               "minimal": ("forget", "candidate"), "mingru": ("forget", "candidate")}  # fmt: skip
_MASTER_SLOTS = ("master_forget", "master_input")
REFINE_SLOTS = {"forget": "refine", "input": "refine_input"}  # by the gate that they refine
_GATE_SLOTS = ("forget", "input", *REFINE_SLOTS.values(), *_MASTER_SLOTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mechanism:
    """How the forget and input gates of a recurrent cell are formed and initialised.

    ``name`` is for display; no code depends on it. ``activation`` of the main gate is "sigmoid" or
    "cumax"; with the latter a separate input gate is 1 − cumax (equations 20, 29). ``initial`` is
    the distribution of the main gate's initial bias b: "constant", "chrono" or "uniform". If b is
    drawn, a separate input gate has −b (equation 18). Ordered gates start at zero logits: they
    require "constant". ``forget_bias`` is the constant b, in [-1000, 1000]; ``t_max`` the longest
    dependency of the chrono bias in steps, above 2, "hidden" for the hidden size, or None for the
    distribution without T_max.

    ``auxiliary`` is the gate that modulates the main gate: "none"; "refine", a refine gate
    (equations 11-12), with the input gate tied to 1 − g; or "master", a pair of master gates over
    inner gates (equations 21-23), each for C = ``downsize`` consecutive units: C must divide the
    hidden size. ``tied`` is False for refine gates alone: then every core has an input gate,
    refined by a separate refine gate (Section 2.4), in place of 1 − g. ``refine_bias`` is the
    initial bias of a refine gate: 0 if "neutral"; −b if "opposed" (Listing 2: then r = 1 − f and
    the initial g is 2f − 3f² + 2f³); if "uniform" a separate draw of uniform gate initialization,
    the default of UR and OR (Section 2.4). The three start with different timescales. ValueError or
    TypeError for a field out of range, or fields that contradict each other.

    >>> Mechanism(name="slow refine", forget_bias=5.0, auxiliary="refine").ties_gates("lstm")
    True
    """

    _acts: ClassVar[_checks.Acts] = {
        "forget_bias": (lambda m: m.initial == "constant" and (m.activation == "sigmoid" or
                        (m.auxiliary, m.refine_bias) == ("refine", "opposed")),
                        "its initial bias is drawn, or cumax ignores it"),
        "t_max": (lambda m: m.initial == "chrono", "its initial bias is not chrono"),
        "refine_bias": (lambda m: m.auxiliary == "refine", "it has no refine gate"),
        "downsize": (lambda m: m.auxiliary == "master", "it has no master gates"),
    }  # fmt: skip

    name: str
    activation: str = "sigmoid"
    initial: str = "constant"
    auxiliary: str = "none"
    forget_bias: float = 1.0
    t_max: float | str | None = "hidden"
    refine_bias: str = "neutral"
    downsize: int = 1
    tied: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be text, got {type(self.name).__name__}")
        _checks.choice("activation", self.activation, ("sigmoid", "cumax"))
        _checks.choice("initial", self.initial, ("constant", "chrono", "uniform"))
        _checks.choice("auxiliary", self.auxiliary, ("none", "refine", "master"))
        _checks.choice("refine_bias", self.refine_bias, ("neutral", "opposed", "uniform"))
        _checks.check_fields(self, _checks.integer, "downsize")
        _checks.check_fields(self, _checks.flag, "tied")
        if not self.tied and self.auxiliary != "refine":
            raise ValueError(f"tied=False has no effect with auxiliary={self.auxiliary!r}: leave "
                             "it out, or use auxiliary='refine'")  # fmt: skip
        _checks.number("forget_bias", self.forget_bias, limit=1000)
        if not (self.t_max is None or (isinstance(self.t_max, str) and self.t_max == "hidden")):
            init.chrono_quantile(0.0, _t_max(self.t_max))
        for name in ("forget_bias", "t_max"):  # an int stays one: names of trials show it
            object.__setattr__(self, name, _checks.plain(getattr(self, name)))
        if self.activation == "cumax" and self.initial != "constant":
            raise ValueError(f"initial={self.initial!r} does not fit activation='cumax', which "
                             "sets the initial gates itself: use initial='constant'")  # fmt: skip

    def __str__(self) -> str:
        return self.name

    def slots(self, core: str, hidden_size: int) -> tuple[tuple[str, int], ...]:
        """The slots of a cell as (name, width), in packed order.

        >>> mechanism("UR").slots("lstm", 8)
        (('refine', 8), ('forget', 8), ('candidate', 8), ('output', 8))
        """
        _checks.choice("core", core, CORES)
        self.validate(hidden_size)
        names = _CORE_SLOTS[core]
        if not self.tied:
            names += (*(("input",) if "input" not in names else ()), *REFINE_SLOTS.values())
        elif self.auxiliary == "refine":
            replaced = tuple("refine" if name == "input" else name for name in names)
            names = replaced if "input" in names else (*names, "refine")
        slots = tuple((name, hidden_size) for name in names)
        if self.auxiliary == "master":
            slots += tuple((name, hidden_size // self.downsize) for name in _MASTER_SLOTS)
        return slots

    def rows(self, core: str, hidden_size: int) -> int:
        """The number of rows of the packed weights: the sum of the slots' widths."""
        return sum(width for _, width in self.slots(core, hidden_size))

    def units(self, core: str, rows: int) -> int:
        """The hidden size of a cell with this number of packed rows; ValueError if there is none.

        >>> mechanism("UR").units("mingru", 24)
        8
        """
        some = 4 * self.downsize  # rows are in proportion to the units
        units = rows * some // self.rows(core, some)
        if not units or self.rows(core, units) != rows:
            raise ValueError(f"a {core} with mechanism {self.name!r} has "
                             f"{self.rows(core, some) / some:g} packed rows a unit, which does not "
                             f"divide {rows}")  # fmt: skip
        return units

    def validate(self, hidden_size: int) -> None:
        """Raise ValueError if a layer of ``hidden_size`` units cannot have the mechanism."""
        _checks.integer("hidden_size", hidden_size)
        if self.auxiliary == "master" and hidden_size % self.downsize:
            raise ValueError(f"hidden_size={hidden_size} is not divisible by "
                             f"downsize={self.downsize}, the number of units that a master gate "
                             "serves: change one of them")  # fmt: skip
        drawn = self.auxiliary == "refine" and self.refine_bias == "uniform"
        if (self.initial == "uniform" or drawn) and hidden_size < 2:
            raise ValueError(f"hidden_size must be at least 2 for mechanism {self.name!r}, which "
                             f"draws biases from U[1/d, 1 - 1/d], got {hidden_size}")  # fmt: skip
        if self.initial == "chrono" and self.t_max == "hidden" and hidden_size <= 2:
            raise ValueError(f"hidden_size must be above 2 for mechanism {self.name!r}, whose "
                             f"t_max it is, got {hidden_size}: set t_max to a number above 2 or to "
                             "None")  # fmt: skip

    def biases(self, core: str, hidden_size: int, rng: init.Rng) -> dict[str, np.ndarray]:
        """The initial bias of each slot by name, in packed order: float64 arrays (width,)."""
        rng = _checks.generator(rng)
        biases = {name: np.zeros(width) for name, width in self.slots(core, hidden_size)}
        main, opposite = self.main_slots
        biases[main] = self._main_bias(len(biases[main]), hidden_size, rng)
        if opposite in biases and self.initial != "constant":
            biases[opposite] = -biases[main]
        for gate, slot in REFINE_SLOTS.items():
            if slot in biases and self.refine_bias == "opposed":
                biases[slot] = -biases[gate]
            elif slot in biases and self.refine_bias == "uniform":
                biases[slot] = init.uniform(hidden_size, rng)
        return biases

    def gates(self, logits: Mapping[str, Array]) -> tuple[Gate, Gate]:
        """The effective forget and input gates (..., hidden) from the slots' logits (..., width).

        >>> forget, input = mechanism("UR").gates({"forget": 0.0, "refine": np.zeros(2)})
        >>> forget.value
        array([0.5, 0.5])
        """
        return self.combine(self.activate(logits))

    def activate(self, logits: Mapping[str, Array]) -> dict[str, Gate]:
        """The activation of each gate slot, cumax or sigmoid, by slot name."""
        return {k: self._activated(k, logit) for k, logit in logits.items() if k in _GATE_SLOTS}

    def _activated(self, name: str, logit: Array) -> Gate:
        if name not in self.ordered_slots:
            return sigmoid(logit)
        return negate(cumax(logit)) if self.negated(name) else cumax(logit)

    def combine(self, gates: Mapping[str, Gate]) -> tuple[Gate, Gate]:
        """The effective forget and input gates from the gates of the slots.

        Without an input slot or master gates the input gate is tied: 1 − the forget gate.
        """
        forget = _refined(gates, "forget")
        input = _refined(gates, "input") if "input" in gates else negate(forget)
        if self.auxiliary == "master":
            outer_forget, outer_input = (spread(gates[n], self.downsize) for n in _MASTER_SLOTS)
            return master(outer_forget, outer_input, forget, input)
        return forget, input

    def ties_gates(self, core: str) -> bool:
        """Whether the effective input gate is the complement of the forget gate."""
        separate = self.auxiliary == "none" and "input" in _CORE_SLOTS[core]
        return self.tied and self.auxiliary != "master" and not separate

    @property
    def kind(self) -> str:
        """``auxiliary``, or "untied" for a refine gate each of the forget and the input gate."""
        return self.auxiliary if self.tied else "untied"

    @property
    def ordered_slots(self) -> tuple[str, ...]:
        """The slots that cumax activates, those of the forget side first."""
        return self.main_slots if self.activation == "cumax" else ()

    def negated(self, slot: str) -> bool:
        """Whether the gate of a slot is 1 − cumax: an ordered input gate (equations 20, 29)."""
        return slot in self.ordered_slots[1:]

    @property
    def main_slots(self) -> tuple[str, str]:
        """The slots of the main gate: of the forget gate and, where it exists, the input gate."""
        return _MASTER_SLOTS if self.auxiliary == "master" else ("forget", "input")

    def _main_bias(self, size: int, hidden_size: int, rng: np.random.Generator) -> np.ndarray:
        if self.initial == "constant":
            return init.constant(size, self.forget_bias)
        if self.initial == "uniform":
            return init.uniform(size, rng, width=hidden_size)
        if self.t_max is None:
            return init.chrono_unbounded(size, rng)
        return init.chrono(size, hidden_size if self.t_max == "hidden" else _t_max(self.t_max), rng)


_MAIN: dict[str, dict[str, Any]] = {"": {}, "C": {"initial": "chrono"},
                                    "O": {"activation": "cumax", "forget_bias": 0.0},
                                    "U": {"initial": "uniform"}}  # fmt: skip
_AUXILIARY = {"": "none", "R": "refine", "M": "master"}


def _crossing(main: str, auxiliary: str) -> Mechanism:
    bias = "uniform" if main in ("U", "O") and auxiliary == "R" else "neutral"
    return Mechanism(name=main + auxiliary or "standard", auxiliary=_AUXILIARY[auxiliary],
                     refine_bias=bias, **_MAIN[main])  # fmt: skip


_CROSSINGS = {one.name: one for one in (_crossing(m, a) for m in _MAIN for a in _AUXILIARY)}
_NAMES = {"-": "standard", **{name.lower(): name for name in _CROSSINGS}}

# The paper's Table 1, in its order; `mechanism` takes the names of the others (M, CR, CM) as well.
_TABLE_1 = ("standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR")
MECHANISMS: Mapping[str, Mechanism] = MappingProxyType({n: _CROSSINGS[n] for n in _TABLE_1})


def mechanism(name: str | Mechanism, /, **overrides: Any) -> Mechanism:
    """The mechanism registered under a name, with fields of :class:`Mechanism` overridden.

    The name, in any case, is one of ``MECHANISMS``, "-" for "standard", another crossing of the two
    axes ("M", "CR", "CM"), or a Mechanism. ValueError or TypeError for an unknown name or field
    (the message offers the nearest ones), or a value out of range.

    >>> mechanism("C", t_max=784).t_max
    784
    >>> mechanism("UR", refine_bias="opposed").refine_bias
    'opposed'
    """
    if not isinstance(name, Mechanism):
        if not isinstance(name, str):
            raise TypeError(f"mechanism must be a name or a Mechanism, got {type(name).__name__}")
        known = _NAMES.get(name.lower(), name)
        name = _CROSSINGS[_checks.choice("mechanism", known, _CROSSINGS)]
    fields = [field.name for field in dataclasses.fields(Mechanism)]
    for override in overrides:
        _checks.choice("mechanism field", override, fields)
    return dataclasses.replace(name, **overrides)


def _refined(gates: Mapping[str, Gate], name: str) -> Gate:
    slot = REFINE_SLOTS[name]
    return refine(gates[name], gates[slot]) if slot in gates else gates[name]


def _t_max(value: Any) -> float:
    if isinstance(value, str):
        raise ValueError("t_max must be 'hidden', a number above 2, or None, got "
                         f"{_checks.show(value)}")  # fmt: skip
    return _checks.number("t_max", value)
