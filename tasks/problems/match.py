"""Passive and Active Visual Match: see a colour, wait, choose its pad (Section 3.4)."""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gatecore._checks import Acts
from gatecore.tasks.environments import scripted_policies as scripted
from gatecore.tasks.environments.maps import FIXED
from gatecore.tasks.environments.match import Match
from gatecore.tasks.problems.agent_task import AgentTask
from gatecore.tasks.problems.base import PERFECT, Count, Scores, Stream, Weight

_EPISODES, _PARALLEL = 2048, 256  # of the scripted policies
_DISCOUNTS = {1.0: 0.998}  # by the apples' reward, as in Figure 8
_QUICK_ACTIVE = dict(channels=(16,), growth=(3000, 5000), steps=6000)


class VisualMatch(AgentTask):
    """See a colour, gather apples for a while, then choose the pad of that colour.

    The environment is :class:`gatecore.tasks.environments.match.Match`. An episode's score is the
    reward of its last phase: 10 for the right pad. The baselines are a random walk, a memoryless
    policy that always chooses a pad, and the perfect policy, each measured on 2048 episodes. The
    discount is .998 where apples pay 1, as in the paper, else .96, or .92 in ``quick``.

    ``paper`` has the first-person version's constants: phases of 75, 450 and up to 75 frames, four
    pads, and 1 for a wrong one. The paper does not state, and we infer: the sizes of the networks,
    the number of parallel episodes and of steps; clipping of the gradient as in its other tasks.
    ``quick`` is ours, except for its phases of 15, 90 and 15 frames, those of the reference's grid
    worlds: no convolutions (one in ``active``), as the 5×5 cells are few; a larger initial ``gain``
    and learning rate; and a curriculum, ``growth``: the second phase of training episodes grows
    linearly from no frames to its length. An agent learns that a pad's colour matters many times
    sooner when it was stored a short while ago. Validation and test episodes have the full length.
    """

    name: ClassVar = "match"
    background: ClassVar = float(FIXED[0, 0])  # the floor
    presets: ClassVar = {
        "quick": dict(backend="torch", hidden_size=128, channels=(), features=128, gain=8.0,
                      batch_size=64, discount=0.92, value_cost=0.5, entropy_cost=0.02,
                      learning_rate=1e-3, growth=(400, 1200), steps=2600, log_every=10,
                      evaluate_every=100, checkpoint_every=100, threads=1),
        "paper": dict(backend="torch", explore=75, distractor=450, reward=75, ends_at_choice=True,
                      pads=4, wrong=1.0, discount=0.96, hidden_size=256, batch_size=128,
                      learning_rate=2e-4, steps=100_000, evaluate_every=500, checkpoint_every=500),
    }  # fmt: skip

    _acts: ClassVar[Acts] = dict.fromkeys(
        ("apples", "growth"), (lambda task: task.distractor, "its second phase has no frames")
    )

    level: Literal["passive", "active"] = Field("passive", description="passive: the colour is in "
                                                "view; active: it has to be found")  # fmt: skip
    apples: Weight = Field(0.0, description="reward of an apple")
    explore: int = Field(15, ge=1, le=100_000, description="frames of the first phase")
    distractor: int = Field(90, ge=0, le=100_000, description="frames of the second phase")
    reward: int = Field(15, ge=1, le=100_000, description="frames of the last phase")
    pads: int = Field(3, ge=2, le=4, description="colours to choose from")
    wrong: float = Field(0.0, ge=-1e6, le=1e6, description="reward of a wrong pad")
    growth: tuple[Annotated[int, Field(ge=0, le=10**9)], Count] | None = Field(
        None, description="first and last step of the second phase's growth; null: full length"
    )
    ends_at_choice: bool = Field(False, description="end an episode when a pad is chosen")

    @model_validator(mode="after")
    def _check_growth(self) -> Self:
        if self.growth is not None and not 0 <= self.growth[0] < self.growth[1]:
            raise ValueError(f"growth={self.growth}: must be two steps, 0 <= first < last")
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The preset's values; the discount depends on the apples, quick training on the level."""
        values = cls.presets[name]
        discount = _DISCOUNTS.get(settings.get("apples", 0.0), values["discount"])
        search = name == "quick" and settings.get("level") == "active"
        return {**values, "discount": discount, **(_QUICK_ACTIVE if search else {})}

    @property
    def title(self) -> str:
        apples = f", apples {self.apples:g}" if self.apples else ""
        return f"{self.level.capitalize()} Match, {self.distractor} frames between{apples}"

    def draw(self, stream: Stream, seed: int, index: int, size: int) -> Any:
        """Episodes; of training ones the second phase has grown to :meth:`frames` (index)."""
        if stream or (frames := self.frames(index)) == self.distractor:
            return super().draw(stream, seed, index, size)
        grown = self.model_copy(update={"distractor": frames, "growth": None})
        return grown.draw(stream, seed, index, size)

    def frames(self, step: int) -> int:
        """Frames of the second phase in the training episodes of a step."""
        if self.growth is None:
            return self.distractor
        first, last = self.growth
        return int(self.distractor * min(max((step - first) / (last - first), 0.0), 1.0))

    def environment(self, size: int) -> Match:
        return Match(size, level=self.level, phases=(self.explore, self.distractor, self.reward),
                     apple_reward=self.apples, pads=self.pads, wrong_reward=self.wrong,
                     ends_at_choice=self.ends_at_choice)  # fmt: skip

    def baselines(self) -> dict[str, Scores]:
        """Two memoryless scripted policies, and the one that no other exceeds."""
        return _baselines(self)


@functools.lru_cache(maxsize=16)
def _baselines(task: VisualMatch) -> dict[str, Scores]:
    policies = {"random walk": scripted.random_walk, "always choosing": scripted.always_choosing,
                PERFECT: scripted.perfect}  # fmt: skip
    environment = task.environment(_PARALLEL)
    scores = {k: scripted.play(environment, v, _EPISODES, rng=0) for k, v in policies.items()}
    return {name: {"score": float(values.mean(dtype=float))} for name, values in scores.items()}
