"""Passive and Active Visual Match: see a colour, wait, choose its pad (Section 4.4)."""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from gatecore.contracts.environment import Games
from gatecore.tasks.environments.colours import FIXED
from gatecore.tasks.environments.match import Match as World
from gatecore.tasks.environments.scripted_policies import chooser, perfect, play, walker
from gatecore.tasks.problems.base import PERFECT, Scores
from gatecore.tasks.problems.reinforcement import AgentTask, shared_world

_JUDGED, _SIDE_BY_SIDE = 2048, 256  # games that the scripted players play
_DISCOUNTS = {1.0: 0.998}  # by the apples' reward, as in Figure 8
_QUICK_ACTIVE = dict(channels=(16,), growth=(3000, 5000), steps=6000)


class VisualMatch(AgentTask):
    """See a colour, gather apples for a while, then choose the pad of that colour.

    The games are :class:`gatecore.tasks.environments.match.Match`; the agent is that of
    :class:`gatecore.tasks.problems.reinforcement.AgentTask`. A game's score is the reward of
    its last phase: 10 for the right pad. Beside it stand a uniform random walk, always choosing
    a pad without memory, and the perfect player, each measured on 2048 games. ``apples`` is the
    reward of an apple; where it is 1 the discount is .998, as the paper has it; else .96, and
    .92 in ``quick``.

    The paper does not state, and we infer: sizes of the networks, the number of games side by side
    and of steps; that the gradient is clipped as in its other tasks. ``paper`` has phases of 75,
    450 and up to 75 frames: a game ends with the choice. ``quick`` is ours, but for its phases of
    15, 90 and 15 frames, which are those of the reference's grid worlds: no convolutions, since the
    5×5 cells are few; a stronger drive of the core by what is seen (``gain``); a larger learning
    rate; and ``growth``, a curriculum: the second phase of training games begins with no frame and
    grows evenly to its length, since an agent finds that the colour of a pad and one that it keeps
    belong together many times sooner when it kept it for a short while. In ``active``, where a
    third of the games show the colour at their start, and anywhere, it begins and ends later, and
    there is one convolution. Validation and test games have the full length.
    """

    name: ClassVar = "match"
    background: ClassVar = float(FIXED[0, 0])  # the floor
    presets: ClassVar = {
        "quick": dict(
            backend="torch", hidden_size=128, channels=(), features=128, gain=8.0, batch_size=64,
            discount=0.92, value_cost=0.5, entropy_cost=0.02, learning_rate=1e-3,
            growth=(400, 1200), steps=2600, log_every=10,
            evaluate_every=100, checkpoint_every=100, threads=1,
        ),
        "paper": dict(
            backend="torch", explore=75, distractor=450, reward=75, ends_at_choice=True,
            discount=0.96, hidden_size=256, batch_size=128, learning_rate=2e-4, steps=100_000,
            evaluate_every=500, checkpoint_every=500,
        ),
    }  # fmt: skip

    level: Literal["passive", "active"] = Field("passive", description="whether to look for it")
    apples: float = Field(0.0, ge=0, description="reward of an apple")
    explore: int = Field(15, ge=1, description="frames of the first phase")
    distractor: int = Field(90, ge=0, description="frames of the second phase")
    reward: int = Field(15, ge=1, description="frames of the last phase")
    pads: int = Field(3, ge=2, le=4, description="colours to choose from")
    wrong: float = Field(0.0, description="reward of a wrong pad")
    growth: tuple[int, int] | None = Field(
        None, description="first and last step of the growth of training games; null: none"
    )
    ends_at_choice: bool = Field(False, description="whether a game ends when a pad is chosen")

    @model_validator(mode="after")
    def _growth_goes_forward(self) -> Self:
        if self.growth is not None and not 0 <= self.growth[0] < self.growth[1]:
            raise ValueError(f"growth={self.growth}: must be a step and a later one")
        return self

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """As its table has it, with the discount that goes with the apples, and time to search."""
        values = cls.presets[name]
        chosen = _DISCOUNTS.get(settings.get("apples", 0.0), values["discount"])
        searches = name == "quick" and settings.get("level") == "active"
        return {**values, "discount": chosen, **(_QUICK_ACTIVE if searches else {})}

    @property
    def title(self) -> str:
        told = "" if not self.apples else f", apples {self.apples:g}"
        return f"{self.level.capitalize()} Match, {self.distractor} frames between{told}"

    def batch(self, seed: int, step: int, size: int) -> Games:  # type: ignore[override]
        """Of games whose second phase has grown as far as it has at this step."""
        frames = self.frames(step)
        grown = self if frames == self.distractor else self.model_copy(
            update={"distractor": frames, "growth": None}
        )  # fmt: skip
        return super().batch(seed, step, size)._replace(world=shared_world(grown, size))

    def frames(self, step: int) -> int:
        """Of the second phase in the training games of a step."""
        if self.growth is None:
            return self.distractor
        first, last = self.growth
        grown = (step - first) / (last - first)
        return int(self.distractor * min(max(grown, 0.0), 1.0))

    def world(self, size: int) -> World:
        return World(
            size, level=self.level, phases=(self.explore, self.distractor, self.reward),
            apple_reward=self.apples, pads=self.pads, wrong_reward=self.wrong,
            ends_at_choice=self.ends_at_choice,
        )  # fmt: skip

    def baselines(self) -> dict[str, Scores]:
        """Scripted players: two without memory, and the one that no other exceeds."""
        return _baselines(self)


@functools.lru_cache(maxsize=16)
def _baselines(task: VisualMatch) -> dict[str, Scores]:
    world = task.world(_SIDE_BY_SIDE)
    scripts = {
        "random walk": walker,
        "always choosing": chooser,
        PERFECT: perfect,
    }
    return {
        name: {"score": float(play(world, script, _JUDGED, rng=0).mean(dtype=float))}
        for name, script in scripts.items()
    }
