"""The actor-critic agent: returns, loss, learning, resumption."""

import numpy as np
import pytest
import torch

from gatecore.backends.torch import Agent
from gatecore.backends.torch.rl.actor_critic import Network
from gatecore.backends.torch.rl.rollout import returns
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import (
    Environment,
    EpisodeBatch,
    StepResult,
    generator_state,
    set_generator_state,
)
from gatecore.contracts.memory import Memory

FEATURES = 3


class Recall(Environment):
    """Episodes of unequal length: the last action must be the sign of the first observation."""

    actions = 2
    shape = (FEATURES,)
    dtype = np.float32

    def __init__(self, size, shortest=3, longest=5):
        self.size, self.lengths, self.horizon = size, (shortest, longest), longest

    def reset(self, rng):
        self.rng = rng
        self.sign, self.left = np.zeros(self.size, int), np.zeros(self.size, int)
        self.begins = np.ones(self.size, bool)
        self._begin(self.begins)
        return self._observe()

    def _begin(self, which):
        low, high = self.lengths
        self.sign = np.where(which, self.rng.integers(0, 2, self.size), self.sign)
        self.left = np.where(which, self.rng.integers(low, high + 1, self.size), self.left)
        self.begins = which

    def _observe(self):
        sign = np.where(self.begins, 2 * self.sign - 1, 0)
        return np.stack([sign, self.left == 1, np.ones(self.size)], -1).astype(np.float32)

    def step(self, actions):
        ended = self.left == 1
        right = np.where(actions == self.sign, 1.0, -1.0).astype(np.float32)
        reward = np.where(ended, right, np.float32(0.125))
        self.left = self.left - 1
        self._begin(ended)
        return StepResult(self._observe(), reward, ended, np.where(ended, right, np.float32(0)))

    def state_dict(self):
        state = {name: getattr(self, name).copy() for name in ("sign", "left", "begins")}
        return state | {"rng": generator_state(self.rng)}

    def load_state_dict(self, state):
        self.rng = np.random.default_rng()
        set_generator_state(self.rng, state["rng"])
        for name in ("sign", "left", "begins"):
            setattr(self, name, np.array(state[name]))
        return self._observe()


def spec(**changes):
    sizes = dict(shape=(FEATURES,), actions=2, hidden_size=8, features=6, heads=(7,), discount=0.9)
    return AgentSpec(**{**sizes, **changes})


def agent(size=4, dtype="float64", seed=0, **changes):
    chosen = spec(**changes)
    first = None if chosen.unroll is None else EpisodeBatch(Recall(size), (seed, 3))
    return Agent(chosen, first, seed=seed, dtype=dtype)


def episodes(step, size=4, seed=0):
    return EpisodeBatch(Recall(size), (seed, 0, step))


def twin(one):
    """A copy of the agent's network, to be run by other code."""
    network = Network(one.spec).double()
    network.load_state_dict(one.network.state_dict())
    return network


def scalar_loss(network, steps, discount, trace, value_cost, entropy_cost, size, last=None):
    """Loss, value error and entropy of episodes, by scalar loops.

    A step of an episode is (logits, value, action, reward, ended), or None after its end.
    """
    loss, errors, entropies = 0.0, [], []
    for k in range(size):
        taken = [step[k] for step in steps if step[k] is not None]
        following = None if last is None else last[k]
        for t in reversed(range(len(taken))):
            logits, value, action, reward, ended = taken[t]
            if ended or (t == len(taken) - 1 and following is None):
                target = reward
            else:
                after = taken[t + 1][1].item() if t + 1 < len(taken) else last[k]
                ahead = last[k] if t == len(taken) - 1 else following
                target = reward + discount * ((1 - trace) * after + trace * ahead)
            following = target
            policy = logits.softmax(-1)
            error = target - value
            entropy = -sum(p * p.log() for p in policy)
            loss = loss - policy[action].log() * error.detach() + value_cost * error**2
            loss = loss - entropy_cost * entropy
            errors.append(float(error.detach()) ** 2)
            entropies.append(float(entropy.detach()))
    return loss / size, np.mean(errors), np.mean(entropies)


def scalar_rollout(network, environment, observation, rng, steps, before, whole):
    """A rollout, one step of one episode at a time."""
    taken, size = [], environment.size
    actions, rewards, resets, state = before
    over = np.zeros(size, bool)
    for _ in range(steps):
        output = network(
            torch.as_tensor(observation)[None].double(), torch.as_tensor(actions)[None],
            torch.as_tensor(rewards)[None].double(), state, torch.as_tensor(resets)[None],
        )  # fmt: skip
        state, policy = output.state, output.logits[0].softmax(-1).detach().numpy()
        draws = rng.random((size, 1))[:, 0]
        chosen = np.array([int(np.sum(draws[k] > np.cumsum(policy[k])[:-1])) for k in range(size)])
        result = environment.step(chosen)
        taken.append([
            None if whole and over[k]
            else (output.logits[0, k], output.values[0, k], chosen[k], float(result.reward[k]),
                  bool(result.ended[k]))
            for k in range(size)
        ])  # fmt: skip
        over |= result.ended
        observation, resets = result.observation, result.ended
        actions = np.where(result.ended, -1, chosen)
        rewards = np.where(result.ended, 0, result.reward)
        if whole and over.all():
            break
    return taken, observation, (actions, rewards, resets, state)


def before_first(size):
    return np.full(size, -1), np.zeros(size), np.ones(size, bool), None


def norm(network, loss):
    trained = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return float(sum((g**2).sum() for g in gradients if g is not None) ** 0.5)


@pytest.mark.parametrize("trace", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("core", ["lstm", "gru", "minimal", "mingru", "none"])
def test_loss_metrics_and_gradient_of_whole_episodes_are_those_of_scalar_loops(core, trace):
    learner = agent(core=core, trace=trace, entropy_cost=0.05)
    network, size = twin(learner), 4
    metrics = learner.step(episodes(0), learning_rate=1e-3)
    environment, rng = Recall(size), np.random.default_rng([0, 0, 0, 1])
    observation = environment.reset(np.random.default_rng((0, 0, 0)))
    taken, *_ = scalar_rollout(
        network, environment, observation, rng, environment.horizon, before_first(size), whole=True
    )
    loss, error, entropy = scalar_loss(network, taken, 0.9, trace, 0.2, 0.05, size)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-10)
    assert metrics["value_error"] == pytest.approx(error, rel=1e-10)
    assert metrics["entropy"] == pytest.approx(entropy, rel=1e-10)
    assert metrics["gradient_norm"] == pytest.approx(norm(network, loss), rel=1e-8)


def test_a_truncated_rollout_continues_the_last_and_bootstraps_from_its_final_value():
    learner = agent(unroll=4, trace=0.7, entropy_cost=0.05)
    environment, size = Recall(4), 4
    observation = environment.reset(np.random.default_rng((0, 3)))
    before = before_first(size)
    for step in range(3):
        network = twin(learner)
        metrics = learner.step(episodes(step), learning_rate=1e-2)
        rng = np.random.default_rng([0, 0, step, 1])
        taken, observation, before = scalar_rollout(
            network, environment, observation, rng, 4, before, whole=False
        )
        actions, rewards, resets, state = before
        after = network(
            torch.as_tensor(observation)[None].double(), torch.as_tensor(actions)[None],
            torch.as_tensor(rewards)[None].double(), state, torch.as_tensor(resets)[None],
        )  # fmt: skip
        rest = after.values[0].tolist()
        loss, error, _ = scalar_loss(network, taken, 0.9, 0.7, 0.2, 0.05, size, rest)
        assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
        assert metrics["value_error"] == pytest.approx(error, rel=1e-9)
        if step == 0:  # later ones begin with a state that gradients do not enter
            assert metrics["gradient_norm"] == pytest.approx(norm(network, loss), rel=1e-8)
        before = (*before[:3], tuple(part.detach() for part in before[3]))


def test_td_lambda_returns_stop_at_the_end_of_an_episode():
    rewards = torch.tensor([[1.0], [2.0], [4.0]])
    ended = torch.tensor([[False], [True], [False]])
    after = torch.tensor([[10.0], [20.0], [30.0]])
    found = returns(rewards, ended, after, discount=0.5, trace=0.25)
    last = 4 + 0.5 * 30  # nothing beyond but the value
    first = 1 + 0.5 * (0.75 * 10 + 0.25 * 2)
    assert found[:, 0].tolist() == pytest.approx([first, 2.0, last])


@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
def test_an_lstm_learns_a_memory_task_that_a_memoryless_agent_cannot(mechanism):
    scores = {}
    for core in ("lstm", "none"):
        learner = agent(32, "float32", core=core, mechanism=mechanism, hidden_size=16)
        for step in range(150):
            learner.step(episodes(step, 32), learning_rate=1e-2)
        scores[core] = learner.evaluate([EpisodeBatch(Recall(256), (0, 1, 0))])["score"]
    assert scores["lstm"] > 0.9
    assert abs(scores["none"]) < 0.25


@pytest.mark.parametrize("unroll", [None, 4])
def test_an_agent_resumes_bit_for_bit_from_a_state_dict(unroll):
    one = agent(unroll=unroll)
    for step in range(3):
        one.step(episodes(step), learning_rate=1e-2)
    other = agent(unroll=unroll, seed=1)
    other.load_state_dict(one.state_dict())
    for step in range(3, 6):
        mine = one.step(episodes(step), learning_rate=1e-2)
        assert other.step(episodes(step), learning_rate=1e-2) == mine
    assert all(np.array_equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_a_state_of_another_agent_is_refused():
    with pytest.raises(ValueError, match=r"core\.0|position|world|unknown|missing"):
        agent().load_state_dict(agent(unroll=4).state_dict())
    with pytest.raises(ValueError, match="shape"):
        agent().load_state_dict(agent(hidden_size=9).state_dict())


def test_evaluation_is_repeatable_and_changes_nothing():
    learner = agent(unroll=4)
    before = learner.state_dict()
    held_out = [EpisodeBatch(Recall(8), (0, 1, 0)), EpisodeBatch(Recall(3), (0, 1, 1))]
    found = learner.evaluate(held_out)
    assert found == learner.evaluate(held_out)
    assert all(np.array_equal(v, learner.state_dict()[k]) for k, v in before.items())
    assert 3 <= found["length"] <= 5
    assert found["reward"] == pytest.approx(found["score"] + 0.125 * (found["length"] - 1))


def test_a_diverging_step_reports_nan_and_keeps_the_parameters():
    learner = agent(dtype="float32")
    with torch.no_grad():
        for name, value in learner.parameters.items():
            if name.startswith("value."):
                value.mul_(1e6)
    before = learner.state_dict()
    metrics = learner.step(episodes(0), learning_rate=1e-3)
    assert np.isnan(metrics["loss"])
    after = learner.state_dict()
    assert all(np.array_equal(v, after[k]) for k, v in before.items() if "parameters" in k)


def test_untrained_gates_are_those_of_the_mechanism():
    gate = agent(mechanism="U", hidden_size=64).gates(episodes(0))
    assert gate.value.shape == (1, 64)
    assert np.allclose(gate.value + gate.complement, 1)
    assert gate.value.min() < 0.1
    assert gate.value.max() > 0.9


def test_the_first_episodes_and_unroll_are_given_together_or_not_at_all():
    with pytest.raises(ValueError, match="unroll=None"):
        Agent(spec(), EpisodeBatch(Recall(4), (0, 3)))
    with pytest.raises(ValueError, match="unroll=4"):
        Agent(spec(unroll=4))


def test_the_loss_of_rma_includes_its_reconstruction_costs():
    """Of the observation, the last action and the last reward, and of reading."""
    memory = Memory(slots=8, width=5, heads=2)
    learner = agent(core="rma", memory=memory, hidden_size=6, entropy_cost=0.05)
    network, size = twin(learner), 4
    metrics = learner.step(episodes(0), learning_rate=1e-3)
    environment, rng = Recall(size), np.random.default_rng([0, 0, 0, 1])
    observation = environment.reset(np.random.default_rng((0, 0, 0)))
    taken, *_ = scalar_rollout(
        network, environment, observation, rng, environment.horizon, before_first(size), whole=True
    )
    costs = reconstruction_costs(network, Recall(size), taken, size)
    loss, *_ = scalar_loss(network, taken, 0.9, 0.9, 0.2, 0.05, size)
    assert metrics["loss"] == pytest.approx(float(loss.detach()) + costs / size, rel=1e-9)
    assert any(name.startswith("reconstruction.") for name in learner.parameters)


def reconstruction_costs(network, environment, taken, size):
    """Reconstruction costs of the same episodes, one value at a time."""
    observation = environment.reset(np.random.default_rng((0, 0, 0)))
    actions, rewards, state, total = [-1] * size, [0.0] * size, None, 0.0
    parts = network.reconstruction
    for step in taken:
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
                0.5 * (float(a) - float(b)) ** 2 for a, b in zip(saw, observation[k], strict=True)
            )
            total += 0.5 * (float(won) - rewards[k]) ** 2
            if actions[k] >= 0:
                total -= float(torch.log_softmax(did, 0)[actions[k]])
            total += 5e-5 * sum(max(2.0, strength) for strength in strengths)
        chosen = [0 if step[k] is None else int(step[k][2]) for k in range(size)]
        result = environment.step(np.array(chosen))
        observation = result.observation
        actions = [-1 if result.ended[k] else chosen[k] for k in range(size)]
        rewards = [0.0 if result.ended[k] else float(result.reward[k]) for k in range(size)]
    return total
