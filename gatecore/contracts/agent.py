"""An actor-critic agent, as data: what it sees, remembers, decides, and how it learns."""

import dataclasses

from gatecore import _checks
from gatecore.contracts.memory import Core, Memory
from gatecore.mechanisms import Mechanism, mechanism


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """An advantage actor-critic agent with a recurrent core (Mnih et al. 2016, synchronous).

    Parameters
    ----------
    shape : tuple of int
        Of an observation: (height, width, 3) of bytes, or (features,) of floats.
    actions : int
    hidden_size : int
    core : {"lstm", "gru", "minimal", "rmc", "dnc", "rma", "none"}
        "none" has no memory: the heads read what the encoder gives.
    mechanism : str or Mechanism
    layers : int
    memory : Memory, optional
        Sizes of the last three.
    channels : tuple of int
        Of the encoder's 3×3 convolutions, for images.
    features : int
        Width of the encoder's linear layer; the one-hot last action and the last reward follow it.
    background : float
        Of an image's bytes: what becomes zero for the encoder.
    gain : float
        Of the encoder's linear layer: its initial weights are N(0, 2/inputs) times this.
    heads : tuple of int
        Widths of the ReLU layers before the policy and before the value.
    discount : float
        γ in [0, 1).
    trace : float, optional
        λ of TD(λ) in [0, 1]; default γ.
    value_cost, entropy_cost : float
    unroll : int, optional
        Steps between two updates, through which gradients flow; games go on. Default: the games
        of a batch are played to their end.
    """

    shape: tuple[int, ...]
    actions: int
    hidden_size: int
    core: str = "lstm"
    mechanism: Mechanism | str = "UR"
    layers: int = 1
    memory: Memory | None = None
    channels: tuple[int, ...] = (16, 32)
    features: int = 500
    background: float = 0.0
    gain: float = 1.0
    heads: tuple[int, ...] = (200,)
    discount: float = 0.96
    trace: float | None = None
    value_cost: float = 0.2
    entropy_cost: float = 0.01
    unroll: int | None = None

    def __post_init__(self) -> None:
        for name in ("actions", "hidden_size", "layers", "features"):
            _checks.integer(name, getattr(self, name))
        for name in ("shape", "channels", "heads"):
            widths = getattr(self, name)
            if not isinstance(widths, tuple | list):
                raise TypeError(f"{name} must be a tuple, got {type(widths).__name__} {widths!r}")
            object.__setattr__(self, name, tuple(_checks.integer(name, w) for w in widths))
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape must be (height, width, 3) or (features,), got {self.shape}")
        _checks.probability("discount", self.discount, below_one=True)
        _checks.probability("trace", self.decay)
        for name in ("value_cost", "entropy_cost"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if self.unroll is not None:
            _checks.integer("unroll", self.unroll)
        object.__setattr__(self, "mechanism", mechanism(self.mechanism))
        if self.core != "none":
            object.__setattr__(self, "memory", self.recurrent.memory)
        elif self.memory is not None:
            raise ValueError("a memory's sizes are for a core with a memory, not 'none'")

    @property
    def gate_shape(self) -> tuple[int, int]:
        """Rows and units of the effective forget gates; (1, 1) without a memory."""
        if self.core == "none":
            return (1, 1)
        return self.recurrent.gate_shape

    @property
    def recurrent(self) -> Core:
        """The core with its sizes, if there is one."""
        return Core(self.core, self.hidden_size, self.mechanism, self.layers, self.memory)  # type: ignore[arg-type]

    @property
    def only_torch(self) -> str:
        """What no backend but torch has of this model: all of it."""
        return "an agent"

    @property
    def image(self) -> bool:
        """Whether observations are images."""
        return len(self.shape) == 3

    @property
    def decay(self) -> float:
        """λ."""
        return self.discount if self.trace is None else self.trace
