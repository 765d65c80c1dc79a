"""Copy: remember ten symbols over N blank steps (Section 3.1)."""

import math
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gatecore import Batch, ModelSpec
from gatecore.tasks.problems.base import GeneratedTask, Scores

SYMBOLS = 8  # 1..8; 0 is blank, 9 asks for the answer
CUE = 9
COUNT = 10


class Copying(GeneratedTask):
    """Ten symbols from {1..8}, then N zeros, then ten 9s; during the 9s, say the ten symbols.

    A sequence has N + 20 steps. The loss is the cross-entropy over the last ten steps only, in
    nats per symbol; without memory it is ln 8 = 2.0794 (accuracy 1/8). The paper does not state,
    and we infer: ten one-hot input symbols and eight output classes; batches of 32 (``quick``) or
    128 (``paper``); the gradient is clipped by its global norm; 100,000 steps in ``paper``, where
    Figure 3's axis ends; held-out sequences drawn once per seed. ``quick`` is ours: N = 50.

    Other versions of the task put one marker and score every step: their baseline is
    10 ln 8 / (N + 20).
    """

    name: ClassVar = "copying"
    score: ClassVar = "loss"
    presets: ClassVar = {
        "quick": dict(
            length=50, hidden_size=128, batch_size=32, learning_rate=3e-3, steps=1000,
            evaluate_every=50, checkpoint_every=250, threads=1,
        ),
        "paper": dict(
            length=500, hidden_size=256, batch_size=128, learning_rate=1e-3, steps=100_000,
            evaluate_every=500, checkpoint_every=500,
        ),
    }  # fmt: skip

    length: int = Field(500, ge=1, le=1_000_000, description="N, the blank steps to remember over")

    @property
    def title(self) -> str:
        return f"Copy, N={self.length}"

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(
            input="one_hot", input_size=SYMBOLS + 2, output_size=SYMBOLS, read=COUNT,
            loss="cross_entropy", **model,
        )  # fmt: skip

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """Inputs (N + 20, size) in 0..9; targets (10, size) in 0..7: the symbols less one."""
        symbols = rng.integers(1, SYMBOLS + 1, (COUNT, size))
        blanks = np.zeros((self.length, size), symbols.dtype)
        cues = np.full((COUNT, size), CUE)
        return Batch(np.concatenate([symbols, blanks, cues]), symbols - 1)

    def baselines(self) -> dict[str, Scores]:
        return {"any symbol alike": {"loss": math.log(SYMBOLS), "accuracy": 1 / SYMBOLS}}
