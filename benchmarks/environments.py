"""Frames per second of the environments, on one core.

    python benchmarks/environments.py [--sizes 1,64,256] [--seconds 1]

A frame is one step of one episode, with its observation. Actions are uniform, drawn in advance.
``Match, observe`` makes observations only; ``Match, gymnasium`` steps the vector environment.
Medians, minima and maxima of five rounds, by the processor's time, which other processes disturb
less than the clock's. Match should reach 200,000 at 64 episodes.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import gymnasium
import numpy as np
import threadpoolctl

import gatecore.tasks.environments.gym  # noqa: F401 - registers its environments
from gatecore.tasks.environments.base import ArrayEnvironment
from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.memory_chain import MemoryChain
from gatecore.tasks.environments.t_maze import TMaze

ROUNDS = 5
ACTIONS = 240  # rows of actions, which then repeat


def steppers(size: int) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Names, and functions of a step's number that take one step."""
    environments: dict[str, ArrayEnvironment] = {
        "Match, passive": Match(size),
        "Match, active": Match(size, "active", apple_reward=1.0),
        "TMaze": TMaze(size),
        "MemoryChain": MemoryChain(size),
        "CartPole": CartPole(size),
    }
    for name, environment in environments.items():
        yield name, _stepper(environment.step, environment.actions, size)
    match = Match(size, "active")
    yield "Match, observe", lambda _: match.observe()
    envs = gymnasium.make_vec(
        "gatecore/ActiveMatch-v0", num_envs=size, vectorization_mode="vector_entry_point"
    )
    envs.reset(seed=0)
    yield "Match, gymnasium", _stepper(envs.step, 4, size)


def _stepper(step: Callable[..., object], actions: int, size: int) -> Callable[[int], object]:
    rows = np.random.default_rng(0).integers(actions, size=(ACTIONS, size))
    return lambda k: step(rows[k % ACTIONS])


def rate(step: Callable[[int], object], size: int, seconds: float) -> float:
    """Frames per second, measured for about ``seconds``."""
    steps, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        for _ in range(ACTIONS):
            step(steps)
            steps += 1
    return steps * size / elapsed


def main() -> None:
    """Measure every environment at each size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1,64,256", help="numbers of parallel episodes")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    arguments = parser.parse_args()
    print(f"{'frames per second':18} {'size':>6} {'median':>12} {'least':>12} {'most':>12}")
    with threadpoolctl.threadpool_limits(1):
        for size in map(int, arguments.sizes.split(",")):
            for name, step in steppers(size):
                rate(step, size, arguments.seconds / 10)  # warm-up
                rates = [rate(step, size, arguments.seconds) for _ in range(ROUNDS)]
                row = (statistics.median(rates), min(rates), max(rates))
                print(f"{name:18} {size:6} " + " ".join(f"{value:12,.0f}" for value in row))


if __name__ == "__main__":
    main()
