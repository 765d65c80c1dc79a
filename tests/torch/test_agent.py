"""The actor-critic agent: its returns, its loss, what it learns, and how it goes on."""

import numpy as np
import pytest
import torch

from gatecore.backends.torch import Agent
from gatecore.backends.torch.rl.actor_critic import Network
from gatecore.backends.torch.rl.rollout import returns
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import Games, Turn, World, generator_state, set_generator_state
from gatecore.contracts.memory import Memory

SEES = 3


class Recall(World):
    """Games of unequal length: a sign at the first step is asked for at the last."""

    actions = 2
    shape = (SEES,)
    dtype = np.float32

    def __init__(self, size, shortest=3, longest=5):
        self.size, self.lengths, self.horizon = size, (shortest, longest), longest

    def reset(self, rng):
        self.rng = rng
        self.sign, self.left = np.zeros(self.size, int), np.zeros(self.size, int)
        self.begins = np.ones(self.size, bool)
        self._begin(self.begins)
        return self._see()

    def _begin(self, which):
        low, high = self.lengths
        self.sign = np.where(which, self.rng.integers(0, 2, self.size), self.sign)
        self.left = np.where(which, self.rng.integers(low, high + 1, self.size), self.left)
        self.begins = which

    def _see(self):
        sign = np.where(self.begins, 2 * self.sign - 1, 0)
        return np.stack([sign, self.left == 1, np.ones(self.size)], -1).astype(np.float32)

    def step(self, actions):
        ended = self.left == 1
        right = np.where(actions == self.sign, 1.0, -1.0).astype(np.float32)
        reward = np.where(ended, right, np.float32(0.125))
        self.left = self.left - 1
        self._begin(ended)
        return Turn(self._see(), reward, ended, np.where(ended, right, np.float32(0)))

    def state_dict(self):
        state = {name: getattr(self, name).copy() for name in ("sign", "left", "begins")}
        return state | {"rng": generator_state(self.rng)}

    def load_state_dict(self, state):
        self.rng = np.random.default_rng()
        set_generator_state(self.rng, state["rng"])
        for name in ("sign", "left", "begins"):
            setattr(self, name, np.array(state[name]))
        return self._see()


def spec(**changes):
    sizes = dict(shape=(SEES,), actions=2, hidden_size=8, features=6, heads=(7,), discount=0.9)
    return AgentSpec(**{**sizes, **changes})


def agent(size=4, dtype="float64", seed=0, **changes):
    its = spec(**changes)
    games = None if its.unroll is None else Games(Recall(size), (seed, 3))
    return Agent(its, games, seed=seed, dtype=dtype)


def games(step, size=4, seed=0):
    return Games(Recall(size), (seed, 0, step))


def twin(one):
    """A copy of the agent's network, to be run by other code."""
    network = Network(one.spec).double()
    network.load_state_dict(one.network.state_dict())
    return network


def judged(network, steps, discount, trace, value_cost, entropy_cost, size, last=None):
    """Loss, value error and entropy of games that are told step by step, by scalar loops.

    A step of a game is (logits, value, action, reward, ended) or None where it is not played.
    """
    loss, errors, entropies = 0.0, [], []
    for game in range(size):
        told = [step[game] for step in steps if step[game] is not None]
        following = None if last is None else last[game]
        for t in reversed(range(len(told))):
            logits, value, action, reward, ended = told[t]
            if ended or (t == len(told) - 1 and following is None):
                wanted = reward
            else:
                after = told[t + 1][1].item() if t + 1 < len(told) else last[game]
                ahead = last[game] if t == len(told) - 1 else following
                wanted = reward + discount * ((1 - trace) * after + trace * ahead)
            following = wanted
            policy = logits.softmax(-1)
            error = wanted - value
            entropy = -sum(p * p.log() for p in policy)
            loss = loss - policy[action].log() * error.detach() + value_cost * error**2
            loss = loss - entropy_cost * entropy
            errors.append(float(error.detach()) ** 2)
            entropies.append(float(entropy.detach()))
    return loss / size, np.mean(errors), np.mean(entropies)


def walk(network, world, observation, rng, steps, before, whole):
    """Play step by step, one game's step at a time, keeping what was said."""
    told, size = [], world.size
    actions, rewards, resets, state = before
    over = np.zeros(size, bool)
    for _ in range(steps):
        said = network(
            torch.as_tensor(observation)[None].double(), torch.as_tensor(actions)[None],
            torch.as_tensor(rewards)[None].double(), state, torch.as_tensor(resets)[None],
        )  # fmt: skip
        state, policy = said.state, said.logits[0].softmax(-1).detach().numpy()
        draws = rng.random((size, 1))[:, 0]
        chosen = np.array([int(np.sum(draws[k] > np.cumsum(policy[k])[:-1])) for k in range(size)])
        turn = world.step(chosen)
        told.append([
            None if whole and over[k]
            else (said.logits[0, k], said.values[0, k], chosen[k], float(turn.reward[k]),
                  bool(turn.ended[k]))
            for k in range(size)
        ])  # fmt: skip
        over |= turn.ended
        observation, resets = turn.observation, turn.ended
        actions = np.where(turn.ended, -1, chosen)
        rewards = np.where(turn.ended, 0, turn.reward)
        if whole and over.all():
            break
    return told, observation, (actions, rewards, resets, state)


def untouched(size):
    return np.full(size, -1), np.zeros(size), np.ones(size, bool), None


def norm(network, loss):
    trained = [p for p in network.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    return float(sum((g**2).sum() for g in found if g is not None) ** 0.5)


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("core", ["lstm", "gru", "minimal", "none"])
def test_a_step_minimises_what_scalar_loops_over_whole_games_give(core, trace):
    learner = agent(core=core, trace=trace, entropy_cost=0.05)
    network, size = twin(learner), 4
    metrics = learner.step(games(0), learning_rate=1e-3)
    world, rng = Recall(size), np.random.default_rng([0, 0, 0, 1])
    seen = world.reset(np.random.default_rng((0, 0, 0)))
    told, *_ = walk(network, world, seen, rng, world.horizon, untouched(size), whole=True)
    loss, error, entropy = judged(network, told, 0.9, trace, 0.2, 0.05, size)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert metrics["value_error"] == pytest.approx(error, rel=1e-10)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-10)
    assert metrics["gradient_norm"] == pytest.approx(norm(network, loss), rel=1e-8)


def test_an_unroll_goes_on_where_the_last_ended_and_trusts_its_value_of_the_rest():
    learner = agent(unroll=4, trace=0.7, entropy_cost=0.05)
    world, size = Recall(4), 4
    seen = world.reset(np.random.default_rng((0, 3)))
    before = untouched(size)
    for step in range(3):
        network = twin(learner)
        metrics = learner.step(games(step), learning_rate=1e-2)
        rng = np.random.default_rng([0, 0, step, 1])
        told, seen, before = walk(network, world, seen, rng, 4, before, whole=False)
        actions, rewards, resets, state = before
        after = network(
            torch.as_tensor(seen)[None].double(), torch.as_tensor(actions)[None],
            torch.as_tensor(rewards)[None].double(), state, torch.as_tensor(resets)[None],
        )  # fmt: skip
        rest = after.values[0].tolist()
        loss, error, _ = judged(network, told, 0.9, 0.7, 0.2, 0.05, size, rest)
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
        assert metrics["value_error"] == pytest.approx(error, rel=1e-9)
        if step == 0:  # later ones begin with a state that gradients do not enter
            assert metrics["gradient_norm"] == pytest.approx(norm(network, loss), rel=1e-8)
        before = (*before[:3], tuple(part.detach() for part in before[3]))


def test_returns_stop_at_the_end_of_a_game_and_mix_values_by_the_trace():
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    ended = torch.tensor([[False], [True], [False]])
    after = torch.tensor([[10.0], [20.0], [30.0]])
    found = returns(rewards, ended, after, discount=0.5, trace=0.25)
    last = 4 + 0.5 * 30  # nothing beyond but the value
    first = 1 + 0.5 * (0.75 * 10 + 0.25 * 2)
    assert found[:, 0].tolist() == pytest.approx([first, 2.0, last])


@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
def test_a_memory_learns_what_an_agent_without_one_cannot(mechanism):
    scores = {}
    for core in ("lstm", "none"):
        learner = agent(32, "float32", core=core, mechanism=mechanism, hidden_size=16)
        for step in range(150):
            learner.step(games(step, 32), learning_rate=1e-2)
        scores[core] = learner.evaluate([Games(Recall(256), (0, 1, 0))])["score"]
    assert scores["lstm"] > 0.9
    assert abs(scores["none"]) < 0.25


@pytest.mark.parametrize("unroll", [None, 4])
def test_an_agent_that_takes_over_a_state_goes_on_as_the_one_that_gave_it(unroll):
    one = agent(unroll=unroll)
    for step in range(3):
        one.step(games(step), learning_rate=1e-2)
    other = agent(unroll=unroll, seed=1)
    other.load_state_dict(one.state_dict())
    for step in range(3, 6):
        mine = one.step(games(step), learning_rate=1e-2)
        assert other.step(games(step), learning_rate=1e-2) == mine
    assert all(np.array_equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_state_of_another_agent_is_refused():
    with pytest.raises(ValueError, match=r"core\.0|position|world|unknown|missing"):
        agent().load_state_dict(agent(unroll=4).state_dict())
    with pytest.raises(ValueError, match="shape"):
        agent().load_state_dict(agent(hidden_size=9).state_dict())


def test_evaluation_changes_nothing_and_says_the_same_again():
    learner = agent(unroll=4)
    before = learner.state_dict()
    held_out = [Games(Recall(8), (0, 1, 0)), Games(Recall(3), (0, 1, 1))]
    found = learner.evaluate(held_out)
    assert found == learner.evaluate(held_out)
    assert all(np.array_equal(v, learner.state_dict()[k]) for k, v in before.items())
    assert 3 <= found["length"] <= 5
    assert found["reward"] == pytest.approx(found["score"] + 0.125 * (found["length"] - 1))


def test_a_step_that_explodes_is_told_and_not_taken():
    learner = agent(dtype="float32")
    with torch.no_grad():
        for name, value in learner.parameters.items():
            if name.startswith("value."):
                value.mul_(1e6)
    before = learner.state_dict()
    metrics = learner.step(games(0), learning_rate=1e-3)
    assert np.isnan(metrics["loss"])
    after = learner.state_dict()
    assert all(np.array_equal(v, after[k]) for k, v in before.items() if "parameters" in k)


def test_gates_before_training_are_those_of_the_mechanism():
    gate = agent(mechanism="U", hidden_size=64).gates(games(0))
    assert gate.value.shape == (1, 64)
    assert np.allclose(gate.value + gate.complement, 1)
    assert gate.value.min() < 0.1
    assert gate.value.max() > 0.9


def test_games_that_go_on_belong_to_an_unroll():
    with pytest.raises(ValueError, match="unroll=None"):
        Agent(spec(), Games(Recall(4), (0, 3)))
    with pytest.raises(ValueError, match="unroll=4"):
        Agent(spec(unroll=4))


def test_the_reconstructive_agent_also_learns_to_tell_what_it_saw():
    """Beside the actor-critic's loss: observation, last action and last reward, and reading."""
    memory = Memory(slots=8, width=5, heads=2)
    learner = agent(core="rma", memory=memory, hidden_size=6, entropy_cost=0.05)
    network, size = twin(learner), 4
    metrics = learner.step(games(0), learning_rate=1e-3)
    world, rng = Recall(size), np.random.default_rng([0, 0, 0, 1])
    seen = world.reset(np.random.default_rng((0, 0, 0)))
    told, *_ = walk(network, world, seen, rng, world.horizon, untouched(size), whole=True)
    costs = retold(network, Recall(size), told, size)
    loss, *_ = judged(network, told, 0.9, 0.9, 0.2, 0.05, size)
    assert metrics["loss"] == pytest.approx(float(loss.detach()) + costs / size, rel=1e-9)
    assert any(name.startswith("reconstruction.") for name in learner.parameters)


def retold(network, world, told, size):
    """What reconstruction costs in the same games, one value at a time."""
    observation = world.reset(np.random.default_rng((0, 0, 0)))
    actions, rewards, state, total = [-1] * size, [0.0] * size, None, 0.0
    parts = network.reconstruction
    for step in told:
        given = [torch.as_tensor(part)[None] for part in (observation, actions, rewards)]
        x = network.features(given[0].double(), given[1], given[2].double())
        with torch.no_grad():
            done = network.core.unroll(x, state)
        state = done.state
        for k in range(size):
            if step[k] is None:
                continue
            z, strengths = done.latents[0, k], done.strengths[0, k].tolist()
            with torch.no_grad():
                saw, did, won = parts.observation(z), parts.action(z), parts.reward(z)
            total += sum(
                0.5 * (float(a) - b) ** 2 for a, b in zip(saw, observation[k], strict=True)
            )
            total += 0.5 * (float(won) - rewards[k]) ** 2
            if actions[k] >= 0:
                total -= float(torch.log_softmax(did, 0)[actions[k]])
            total += 5e-5 * sum(max(2.0, strength) for strength in strengths)
        chosen = [0 if step[k] is None else int(step[k][2]) for k in range(size)]
        turn = world.step(np.array(chosen))
        observation = turn.observation
        actions = [-1 if turn.ended[k] else chosen[k] for k in range(size)]
        rewards = [0.0 if turn.ended[k] else float(turn.reward[k]) for k in range(size)]
    return total
