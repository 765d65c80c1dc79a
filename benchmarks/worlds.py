"""How many frames a second games are stepped at, on one core.

    python benchmarks/worlds.py [--sizes 1,64,256] [--seconds 1]

A frame is one game's step with what is seen after it. Actions are uniform, drawn beforehand.
``Match, observe`` makes what is seen alone; ``Match, gymnasium`` steps the vector environment.
Medians of five rounds, with the least and the most, by the processor's time, which other processes
disturb less than the clock's. Match should do at least 200,000 at 64 games.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import threadpoolctl

import gatecore.tasks.environments.gym  # noqa: F401 - its environments have names by it
from gatecore.contracts.environment import World
from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.memory_chain import MemoryChain
from gatecore.tasks.environments.t_maze import TMaze

ROUNDS = 5
DRAWN = 240  # rows of actions, which then repeat


def measured(size: int) -> Iterator[tuple[str, Callable[[int], object]]]:
    """What is measured: its name, and one step as a function of the step's number."""
    worlds: dict[str, World] = {
        "Match, passive": Match(size),
        "Match, active": Match(size, "active", apple_reward=1.0),
        "TMaze": TMaze(size),
        "MemoryChain": MemoryChain(size),
        "CartPole": CartPole(size),
    }
    for name, world in worlds.items():
        yield name, _stepper(world.step, world.actions, size)
    match = Match(size, "active")
    yield "Match, observe", lambda _: match.observe()
    envs = gymnasium.make_vec(
        "gatecore/ActiveMatch-v0", num_envs=size, vectorization_mode="vector_entry_point"
    )
    envs.reset(seed=0)
    yield "Match, gymnasium", _stepper(envs.step, 4, size)


def _stepper(step: Callable[..., object], actions: int, size: int) -> Callable[[int], object]:
    drawn = np.random.default_rng(0).integers(actions, size=(DRAWN, size))
    return lambda k: step(drawn[k % DRAWN])


def rate(step: Callable[[int], object], size: int, seconds: float) -> float:
    """Frames a second, over about so many seconds."""
    steps, start = 0, time.process_time()
    while (taken := time.process_time() - start) < seconds:
        for _ in range(DRAWN):
            step(steps)
            steps += 1
    return steps * size / taken


def main() -> None:
    """Measure every world at each size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1,64,256", help="games side by side")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    given = parser.parse_args()
    print(f"{'frames a second':18} {'games':>6} {'median':>12} {'least':>12} {'most':>12}")
    with threadpoolctl.threadpool_limits(1):
        for size in map(int, given.sizes.split(",")):
            for name, step in measured(size):
                rate(step, size, given.seconds / 10)  # not counted
                rates = [rate(step, size, given.seconds) for _ in range(ROUNDS)]
                told = (statistics.median(rates), min(rates), max(rates))
                print(f"{name:18} {size:6} " + " ".join(f"{value:12,.0f}" for value in told))


if __name__ == "__main__":
    main()
