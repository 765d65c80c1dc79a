"""An actor-critic agent, as data: its input, core, heads, and how it learns."""

import dataclasses
from typing import Any, ClassVar

from gatecore import _checks
from gatecore.contracts.memory import Core


def _setting(default: Any, description: str) -> Any:
    """A field that is a setting of a run, too."""
    return dataclasses.field(default=default, metadata={"description": description})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AgentSpec(Core):
    """An advantage actor-critic agent with a recurrent core (Mnih et al. 2016, synchronous).

    ValueError or TypeError names a wrong field, what came, and what was expected.

    An observation of ``shape`` (height, width, 3) is bytes, of (features,) floats; ``actions`` is
    the number of actions. ``hidden_size``, ``core``, ``mechanism``, ``layers``, ``memory``,
    ``layer_norm``, ``residual`` and ``candidate`` are those of :class:`gatecore.ModelSpec`, but the
    core "none" has no state: the heads read the encoder's output. The encoder has 3×3 convolutions
    of ``channels`` for images, whose byte ``background`` becomes zero, and a linear layer of
    ``features``, which the one-hot last action and the last reward follow; its initial weights are
    N(0, 2/inputs) times ``gain``, above 0. ``heads`` are the widths of the ReLU layers before the
    policy and before the value.

    ``discount`` is γ in [0, 1), and ``trace`` λ of TD(λ) in [0, 1], by default γ. ``value_cost``
    and ``entropy_cost``, at least 0, weigh the value's squared error and the policy's entropy.
    ``unroll`` is the number of steps between two updates, through which gradients flow while
    episodes go on; by default the episodes of a batch are played to their end.

    >>> spec = AgentSpec(shape=(3,), actions=2, hidden_size=8, core="gru")
    >>> spec.td_lambda, spec.gate_shape
    (0.96, (1, 8))
    """

    cores: ClassVar[tuple[str, ...]] = (*Core.cores, "none")
    _acts: ClassVar[_checks.Acts] = {"channels": (lambda spec: spec.image,
                                                  "its observations are no images")}  # fmt: skip

    shape: tuple[int, ...]
    actions: int
    background: float = 0.0
    discount: float = _setting(0.96, "γ, and λ of TD(λ)")
    trace: float | None = None
    entropy_cost: float = _setting(0.01, "weight of the policy's entropy")
    value_cost: float = _setting(0.2, "weight of the value's squared error")
    unroll: int | None = _setting(None, "steps between updates; null: whole episodes")
    channels: tuple[int, ...] = _setting((16, 32), "of the convolutions")
    features: int = _setting(500, "of the encoder's linear layer")
    gain: float = _setting(1.0, "of that layer's initial weights")
    heads: tuple[int, ...] = _setting((200,), "widths of policy's and value's layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        _checks.check_fields(self, _checks.integers, "shape", "channels", "heads")
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape must be (height, width, 3) or (features,), got {self.shape}")
        _checks.check_fields(self, _checks.integer, "actions", "features", "unroll")
        _checks.check_fields(self, _checks.probability, "discount", below_one=True)
        _checks.check_fields(self, _checks.probability, "trace")
        _checks.check_fields(self, _checks.number, "background", "value_cost", "entropy_cost",
                             "gain")  # fmt: skip
        for name in ("value_cost", "entropy_cost"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)!r}")
        if self.gain <= 0:
            raise ValueError(f"gain must be positive, got {self.gain!r}")

    @property
    def image(self) -> bool:
        """Whether observations are images."""
        return len(self.shape) == 3

    @property
    def td_lambda(self) -> float:
        """λ of TD(λ)."""
        return self.discount if self.trace is None else self.trace
