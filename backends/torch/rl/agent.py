"""An advantage actor-critic agent trained by torch: a learner of episode batches."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.algebra import Gate
from gatecore.backends.common.learner import clip_scale
from gatecore.backends.common.learner_checks import check_settings
from gatecore.backends.torch.nn.checkpoint import KEY
from gatecore.backends.torch.rl import rollout as rollouts
from gatecore.backends.torch.rl.actor_critic import Network, PolicyOutput
from gatecore.backends.torch.rl.rollout import Rollout, TruncatedRollout
from gatecore.backends.torch.training.trainable import TorchTrainable, norm
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import EpisodeBatch

DIVERGED = 100.0  # times the largest squared return: no sound value function errs so much


class Agent(TorchTrainable):
    """Trains an ``AgentSpec`` with Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    A step runs episodes with the current policy and then changes it: the synchronous form of A3C
    (Mnih et al. 2016) with the returns G of TD(λ). The loss is summed over time and averaged over
    episodes: −log π(a)(G − V), with G − V held constant, plus ``value_cost`` (G − V)², minus
    ``entropy_cost`` times the entropy of π; with the core "rma" plus its costs of reconstruction.

    ``episodes`` are the first ones of the truncated rollouts that ``spec.unroll`` asks for. The
    ``seed`` is at least 0, ``betas`` and ``eps`` are Adam's, ``dtype`` is "float32" or "float64",
    and ``device`` by default torch's. ValueError or TypeError names a setting out of its range, or
    ``episodes`` without ``spec.unroll``, or the reverse.

    >>> from gatecore.contracts.agent import AgentSpec
    >>> agent = Agent(AgentSpec(shape=(3,), actions=2, hidden_size=8, features=4))
    >>> agent.parameters["policy.0.weight"].shape
    torch.Size([200, 8])
    """

    def __init__(self, spec: AgentSpec, episodes: EpisodeBatch | None = None, *, seed: int = 0,
                 betas: tuple[float, float] = (0.0, 0.95), eps: float = 1e-6,
                 dtype: str = "float32", device: Any = None) -> None:  # fmt: skip
        super().__init__(spec, seed, betas, eps, dtype)
        if (episodes is None) != (spec.unroll is None):
            raise ValueError("episodes are those of truncated rollouts: give both episodes and "
                             f"the spec's unroll, or neither; got episodes={episodes!r} with "
                             f"unroll={spec.unroll}")  # fmt: skip
        device = torch.get_default_device() if device is None else torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = Network(spec).to(device, getattr(torch, dtype))
        tensors = self.network.state_dict(keep_vars=True)
        self._set_parameters({k: v for k, v in tensors.items() if not k.endswith(KEY)})
        self._largest = 0.0  # of all discounted returns so far
        self._truncated: TruncatedRollout | None = None
        if episodes and spec.unroll:
            self._truncated = TruncatedRollout(self.network, episodes, spec.unroll)

    def step(self, episodes: EpisodeBatch, *, learning_rate: float,
             clip_norm: float | None = None) -> dict[str, float]:  # fmt: skip
        """Run a rollout, and take one step of Adam, the gradient's global norm clipped if asked.

        The episodes are run to their end; with ``spec.unroll`` only their seed is used. Metrics are
        ``loss``; ``value_error``, the mean of (G − V)²; ``entropy`` in nats; ``reward`` and
        ``score``, means over the episodes that ended (if none did, over those of the last rollout
        in which one did); ``gradient_norm`` before clipping. Where the norm is not finite, or the
        value error exceeds a hundred times the largest squared return so far, the parameters stay
        as they were, and the loss is NaN. ValueError or TypeError unless ``learning_rate`` is at
        least 0 and ``clip_norm`` positive or None.
        """
        learning_rate, clip_norm = check_settings(learning_rate, clip_norm)
        loss, metrics = self._rollout_loss(episodes)
        gradients = self._backward(loss)
        metrics["gradient_norm"] = value = norm(gradients)
        self.steps += 1
        bound = DIVERGED * max(1.0, self._largest**2)
        if not (np.isfinite(value) and metrics["value_error"] <= bound):
            return {**metrics, "loss": float("nan")}
        scale = clip_scale(value, clip_norm)
        self._adam([g.contiguous() for g in gradients], self.steps, learning_rate, scale)
        return metrics

    def evaluate(self, batches: Iterable[EpisodeBatch]) -> dict[str, float]:
        """Means over all episodes, run to their end: ``score``, ``reward``, ``length`` in steps.

        ValueError if there are no batches.
        """
        totals, count = np.zeros(3), 0
        for episodes in batches:
            rollout, alive = rollouts.whole_episodes(self.network, episodes)
            parts = (rollout.scores, rollout.rewards, np.ones(alive.shape))
            totals += [(part * alive).sum(dtype=float) for part in parts]
            count += episodes.environment.size
        if not count:
            raise ValueError("batches must hold at least one episode")
        return dict(zip(("score", "reward", "length"), (totals / count).tolist(), strict=True))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that a resumed run needs, as NumPy arrays by flat name."""
        truncated = self._truncated.state_dict() if self._truncated else {}
        return {**super().state_dict(), "largest": np.asarray(self._largest), **truncated}

    def _load(self, state: Mapping[str, Any]) -> None:
        if self._truncated:
            self._truncated.load_state_dict(state)
        super()._load(state)
        self._largest = float(state["largest"])

    @torch.no_grad()
    def _gates(self, episodes: EpisodeBatch) -> Gate:
        rollout, _ = rollouts.whole_episodes(self.network, episodes)
        return self.network.forget_gates(*self.network.tensors(*rollout[:4]))

    def _rollout_loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, float]]:
        if self._truncated is None:
            rollout, alive = rollouts.whole_episodes(self.network, episodes)
            output = rollouts.apply(self.network, rollout[:4])
            after = torch.cat([output.values[1:], torch.zeros_like(output.values[:1])])
            sums = ((part * alive).sum(dtype=float) for part in (rollout.rewards, rollout.scores))
            means = (float(total / episodes.environment.size) for total in sums)
            results = dict(zip(("reward", "score"), means, strict=True))
        else:
            rollout, before, results = self._truncated.run(self.network, episodes)
            alive = np.ones(rollout.ended.shape, bool)
            every = rollouts.apply(self.network, self._truncated.inputs(rollout), before)
            cost = None if every.cost is None else every.cost[:-1]
            output = PolicyOutput(every.logits[:-1], every.values[:-1], every.state, cost)
            after = every.values[1:]
        loss, metrics = self._loss(rollout, alive, output, after.detach())
        return loss, {**metrics, **results}

    def _loss(self, rollout: Rollout, alive: np.ndarray, output: PolicyOutput,
              after: Tensor) -> tuple[Tensor, dict[str, float]]:  # fmt: skip
        spec = self.spec
        steps = rollout.actions, rollout.rewards, rollout.ended, alive.astype(np.float32)
        actions, rewards, ended, counted = self.network.tensors(*steps)
        targets = rollouts.returns(rewards, ended, after, spec.discount, spec.td_lambda)
        discounted = rollouts.returns(rewards, ended, torch.zeros_like(after), spec.discount, 1.0)
        self._largest = max(self._largest, float((discounted.abs() * counted).max()))
        error, policy = targets - output.values, output.logits.log_softmax(-1)
        chosen = policy.gather(-1, actions.unsqueeze(-1))[..., 0]
        entropy = -(policy.exp() * policy).sum(-1)
        each = -chosen * error.detach() + spec.value_cost * error.square()
        each = each if output.cost is None else each + output.cost
        loss = ((each - spec.entropy_cost * entropy) * counted).sum() / counted.shape[1]
        count = counted.sum()
        return loss, {"loss": float(loss.detach()),
                      "value_error": float((error.detach().square() * counted).sum() / count),
                      "entropy": float((entropy.detach() * counted).sum() / count)}  # fmt: skip
