"""Small games that others have solved: checks of the agent outside the paper's own tasks."""

from typing import ClassVar

from pydantic import Field

from gatecore.contracts.environment import World
from gatecore.tasks import missing
from gatecore.tasks.environments.memory_chain import MemoryChain as MemoryChainWorld
from gatecore.tasks.environments.t_maze import TMaze as TMazeWorld
from gatecore.tasks.problems.base import PERFECT, Scores
from gatecore.tasks.problems.reinforcement import AgentTask

_QUICK = dict(backend="torch", features=32, heads=(64,), log_every=10, threads=1)


class CartPole(AgentTask):
    """Balance a pole on a cart without seeing its speed: :class:`.worlds.cartpole.CartPole`.

    A game's score is its length, at most 500 steps. Speeds are what a memory must add. Without one
    (``core="none"``) the pole falls after about fifty steps.
    """

    name: ClassVar = "cartpole"
    presets: ClassVar = {
        "quick": dict(
            _QUICK, core="gru", discount=0.97, betas=(0.9, 0.999), unroll=32, gain=2.0,
            entropy_cost=0.002, hidden_size=64, batch_size=8, learning_rate=3e-3, schedule="linear",
            steps=780, evaluate_every=78, checkpoint_every=100, validation_size=32, test_size=64,
        )
    }  # fmt: skip

    @property
    def title(self) -> str:
        return "CartPole by position only"

    def world(self, size: int) -> World:
        try:
            from gatecore.tasks.environments.cartpole import CartPole as CartPoleWorld
        except ModuleNotFoundError as error:
            raise missing(error, "worlds") from error
        return CartPoleWorld(size)

    def baselines(self) -> dict[str, Scores]:
        """What no player exceeds."""
        return {PERFECT: {"score": 500.0}}


class TMaze(AgentTask):
    """Remember the way from the start of a corridor to its end: :class:`.worlds.maze.TMaze`."""

    name: ClassVar = "tmaze"
    presets: ClassVar = {
        "quick": dict(
            _QUICK, discount=0.99, hidden_size=32, batch_size=64, learning_rate=2e-3, steps=400,
            evaluate_every=50, checkpoint_every=100, validation_size=64, test_size=256,
        )
    }  # fmt: skip

    length: int = Field(20, ge=1, description="steps from the start to the junction")

    @property
    def title(self) -> str:
        return f"Passive T-maze, corridor {self.length}"

    def world(self, size: int) -> World:
        return TMazeWorld(size, self.length)

    def baselines(self) -> dict[str, Scores]:
        """Going straight, and guessing the arm."""
        return {"guessing the arm": {"score": 0.5}, PERFECT: {"score": 1.0}}


class MemoryChain(AgentTask):
    """Say at the end what was shown at the start: :class:`.worlds.chain.MemoryChain`."""

    name: ClassVar = "chain"
    presets: ClassVar = {
        "quick": dict(
            _QUICK, discount=0.99, hidden_size=32, batch_size=64, learning_rate=2e-3, steps=400,
            evaluate_every=50, checkpoint_every=100, validation_size=64, test_size=256,
        )
    }  # fmt: skip

    length: int = Field(20, ge=1, le=100, description="steps between context and question")

    @property
    def title(self) -> str:
        return f"Memory chain, length {self.length}"

    def world(self, size: int) -> World:
        return MemoryChainWorld(size, self.length)

    def baselines(self) -> dict[str, Scores]:
        """Any answer without memory, and the right one."""
        return {"guessing": {"score": 0.0}, PERFECT: {"score": 1.0}}
