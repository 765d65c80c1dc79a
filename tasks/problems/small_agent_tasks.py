"""Small reinforcement learning tasks with known solutions, to check an agent with."""

from typing import ClassVar

from pydantic import Field

from gatecore.contracts.environment import Environment
from gatecore.tasks import missing
from gatecore.tasks.environments import memory_chain, t_maze
from gatecore.tasks.problems.agent_task import AgentTask
from gatecore.tasks.problems.base import PERFECT, Scores, Size

_SMALL = dict(backend="torch", features=32, heads=(64,), log_every=10, threads=1)
_MEMORY = dict(_SMALL, discount=0.99, hidden_size=32, batch_size=64, learning_rate=2e-3, steps=400,
               evaluate_every=50, checkpoint_every=100, validation_size=64,
               test_size=256)  # fmt: skip


class CartPole(AgentTask):
    """Balance a pole whose speed is not observed: :class:`.environments.cartpole.CartPole`.

    The score is the length of an episode, at most 500 steps. Velocities have to be remembered;
    without memory (``core="none"``) the pole falls after about fifty steps.
    """

    name: ClassVar = "cartpole"
    title_format: ClassVar = "CartPole by position only"
    presets: ClassVar = {"quick": dict(
        _SMALL, core="gru", discount=0.97, betas=(0.9, 0.999), unroll=32, gain=2.0,
        entropy_cost=0.002, hidden_size=64, batch_size=8, learning_rate=3e-3, schedule="linear",
        steps=780, evaluate_every=78, checkpoint_every=100, validation_size=32, test_size=64,
    )}  # fmt: skip

    def environment(self, size: int) -> Environment:
        try:
            from gatecore.tasks.environments import cartpole
        except ModuleNotFoundError as error:
            raise missing(error, "worlds") from error
        return cartpole.CartPole(size)

    def baselines(self) -> dict[str, Scores]:
        return {PERFECT: {"score": 500.0}}


class TMaze(AgentTask):
    """Take the arm that a cue named at the start: :class:`.environments.t_maze.TMaze`."""

    name: ClassVar = "tmaze"
    title_format: ClassVar = "Passive T-maze, corridor {length}"
    presets: ClassVar = {"quick": _MEMORY}

    length: Size = Field(20, description="steps from the start to the junction")

    def environment(self, size: int) -> Environment:
        return t_maze.TMaze(size, self.length)

    def baselines(self) -> dict[str, Scores]:
        return {"guessing the arm": {"score": 0.5}, PERFECT: {"score": 1.0}}


class MemoryChain(AgentTask):
    """Reproduce the bit of the first step: :class:`.environments.memory_chain.MemoryChain`."""

    name: ClassVar = "chain"
    title_format: ClassVar = "Memory chain, length {length}"
    presets: ClassVar = {"quick": _MEMORY}

    length: int = Field(20, ge=1, le=100, description="steps between the bit and the query")

    def environment(self, size: int) -> Environment:
        return memory_chain.MemoryChain(size, self.length)

    def baselines(self) -> dict[str, Scores]:
        return {"guessing": {"score": 0.0}, PERFECT: {"score": 1.0}}
