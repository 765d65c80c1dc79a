"""An advantage actor-critic agent trained by torch: a learner whose batches are games."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.algebra import Gate
from gatecore.backends.common.learner import Trainable, clip_scale
from gatecore.backends.common.learner_checks import check_settings
from gatecore.backends.torch.rl.actor_critic import Network, Said
from gatecore.backends.torch.rl.rollout import Played, play_through, returns, say
from gatecore.backends.torch.rl.truncated_rollout import Ongoing
from gatecore.backends.torch.training import adam
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import Games

EXPLOSION = 100.0  # a value error so many times the largest squared return is no learning


class Agent(Trainable):
    """Trains an ``AgentSpec`` with Adam: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    A step plays games with the present policy and then changes it: the synchronous form of A3C
    (Mnih et al. 2016) with the returns G of TD(λ). The loss is summed over time and averaged over
    games: −log π(a)(G − V), with G − V held constant, plus ``value_cost`` (G − V)², minus
    ``entropy_cost`` times the entropy of π; with the core "rma" plus its costs of reconstruction.

    Parameters
    ----------
    spec : AgentSpec
    games : Games, optional
        Those that go on from step to step, which ``spec.unroll`` asks for.
    seed : int
    betas, eps : Adam's
    dtype : {"float32", "float64"}
    device : torch.device, optional
        Default: torch's default device.
    """

    def __init__(
        self,
        spec: AgentSpec,
        games: Games | None = None,
        *,
        seed: int = 0,
        betas: tuple[float, float] = (0.0, 0.95),
        eps: float = 1e-6,
        dtype: str = "float32",
        device: Any = None,
    ) -> None:
        super().__init__(spec, seed, betas, eps, dtype)
        if (games is None) != (spec.unroll is None):
            raise ValueError(
                f"games are those that go on where unroll is given; got games={games!r} with "
                f"unroll={spec.unroll}"
            )
        device = torch.get_default_device() if device is None else torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.network = Network(spec).to(device, getattr(torch, dtype))
        self.parameters: dict[str, Tensor] = dict(self.network.named_parameters())
        self._trained = {k: v for k, v in self.parameters.items() if v.requires_grad}
        self._adam = adam.Adam(self._trained, self.betas, self.eps)
        self._largest = 0.0  # discounted return that was seen
        self._ongoing = Ongoing(self.network, games, spec.unroll) if games and spec.unroll else None

    def step(
        self, games: Games, *, learning_rate: float, clip_norm: float | None = None
    ) -> dict[str, float]:
        """Play, and take one step of Adam.

        Parameters
        ----------
        games : Games
            Played to their end; with ``spec.unroll`` only their seed is used.
        learning_rate : float
        clip_norm : float, optional
            Largest norm of the gradient of all parameters.

        Returns
        -------
        dict
            ``loss``; ``value_error``, the mean of (G − V)²; ``entropy`` in nats; ``reward`` and
            ``score``, means over the games that ended (if none did, what was told last);
            ``gradient_norm`` before clipping. Where the norm is not finite, or the value error
            exceeds a hundred times the largest squared return so far, the parameters stay as
            they were, and the loss is told as NaN.
        """
        check_settings(learning_rate, clip_norm)
        loss, metrics = self._experience(games)
        gradients = adam.gradients(loss, self._trained.values())
        norm = adam.norm(gradients)
        metrics["gradient_norm"] = norm
        self.steps += 1
        if not (np.isfinite(norm) and metrics["value_error"] <= self._bound):
            return {**metrics, "loss": float("nan")}
        gradients = [g.contiguous() for g in gradients]
        self._adam.step(gradients, self.steps, learning_rate, clip_scale(norm, clip_norm))
        return metrics

    def evaluate(self, batches: Iterable[Games]) -> dict[str, float]:
        """Means over all games, played to their end: ``score``, ``reward``, ``length`` in steps."""
        totals, count = np.zeros(3), 0
        for games in batches:
            played, alive = play_through(self.network, games)
            parts = (played.scores, played.rewards, np.ones(alive.shape))
            totals += [(part * alive).sum(dtype=float) for part in parts]
            count += games.world.size
        if not count:
            raise ValueError("batches must hold at least one game")
        return dict(zip(("score", "reward", "length"), (totals / count).tolist(), strict=True))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that a resumed run needs, as NumPy arrays by flat name."""
        ongoing = self._ongoing.state_dict() if self._ongoing else {}
        return {**super().state_dict(), "largest": np.asarray(self._largest), **ongoing}

    def _load(self, state: Mapping[str, Any]) -> None:
        if self._ongoing:
            self._ongoing.load_state_dict(state)
        super()._load(state)
        self._largest = float(state["largest"])

    _copied = staticmethod(adam.copied)
    _assign = staticmethod(adam.assign)

    @torch.no_grad()
    def _gates(self, games: Games) -> Gate:
        played, _ = play_through(self.network, games)
        return self.network.forget_gates(*self.network.tensors(*played[:4]))

    @property
    def _bound(self) -> float:
        """Of the value error: no answer between the returns that were seen errs so much."""
        return EXPLOSION * max(1.0, self._largest**2)

    def _arrays(self) -> dict[str, dict[str, Tensor]]:
        return {
            "parameters": self.parameters,
            "first": self._adam.first,
            "second": self._adam.second,
        }

    def _experience(self, games: Games) -> tuple[Tensor, dict[str, float]]:
        """Play, and judge it: the loss and the metrics."""
        if self._ongoing is None:
            played, alive = play_through(self.network, games)
            said = say(self.network, played[:4])
            after = torch.cat([said.values[1:], torch.zeros_like(said.values[:1])])
            ended = {
                name: float((part * alive).sum(dtype=float) / games.world.size)
                for name, part in (("reward", played.rewards), ("score", played.scores))
            }
        else:
            played, before, ended = self._ongoing.play(self.network, games)
            alive = np.ones(played.ended.shape, bool)
            every = say(self.network, self._ongoing.observed(played), before)
            kept = None if every.cost is None else every.cost[:-1]
            said = Said(every.logits[:-1], every.values[:-1], every.state, kept)
            after = every.values[1:]
        loss, metrics = self._loss(played, alive, said, after.detach())
        return loss, {**metrics, **ended}

    def _loss(
        self, played: Played, alive: np.ndarray, said: Said, after: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        spec = self.spec
        actions, rewards, ended, counted = self.network.tensors(
            played.actions, played.rewards, played.ended, alive.astype(np.float32)
        )
        wanted = returns(rewards, ended, after, spec.discount, spec.td_lambda)
        seen = returns(rewards, ended, torch.zeros_like(after), spec.discount, 1.0)
        self._largest = max(self._largest, float((seen.abs() * counted).max()))
        error = wanted - said.values
        policy = said.logits.log_softmax(-1)
        chosen = policy.gather(-1, actions.unsqueeze(-1))[..., 0]
        entropy = -(policy.exp() * policy).sum(-1)
        each = -chosen * error.detach() + spec.value_cost * error.square()
        each = each if said.cost is None else each + said.cost
        loss = ((each - spec.entropy_cost * entropy) * counted).sum() / counted.shape[1]
        steps = counted.sum()
        return loss, {
            "loss": float(loss.detach()),
            "value_error": float((error.detach().square() * counted).sum() / steps),
            "entropy": float((entropy.detach() * counted).sum() / steps),
        }
