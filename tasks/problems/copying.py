"""Copy: reproduce ten symbols after N blank steps (Section 3.1)."""

import math
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gatecore import Batch, ModelSpec
from gatecore.tasks.problems.base import GeneratedTask, Scores

SYMBOLS = 8  # the inputs 1..8; 0 is blank
CUE = 9  # the input at the steps that are scored
COUNT = 10


class Copying(GeneratedTask):
    """Ten symbols from {1..8}, N zeros, then ten 9s, at which the ten symbols are the targets.

    A sequence has N + 20 steps. The loss is the cross-entropy over the last ten steps, in nats per
    symbol; the memoryless baseline is ln 8 = 2.0794 (accuracy 1/8). Variants with one marker that
    score every step have the baseline 10 ln 8 / (N + 20).

    ``quick`` (N = 50) is ours. The paper does not state, and we infer: ten one-hot input symbols,
    eight output classes; batches of 32 (``quick``) or 128 (``paper``); clipping by the gradient's
    global norm; 100,000 steps in ``paper``, as Figure 3's axis; held-out data drawn once per seed.

    >>> batch = Copying(length=3).batch(seed=0, step=0, size=1)
    >>> batch.inputs[:13, 0]
    array([7, 6, 5, 3, 3, 1, 1, 1, 2, 7, 0, 0, 0])
    >>> batch.targets[:, 0]
    array([6, 5, 4, 2, 2, 0, 0, 0, 1, 6])
    """

    name: ClassVar = "copying"
    title_format: ClassVar = "Copy, N={length}"
    score: ClassVar = "loss"
    presets: ClassVar = {
        "quick": dict(length=50, hidden_size=128, batch_size=32, learning_rate=3e-3, steps=1000,
                      evaluate_every=50, checkpoint_every=250, threads=1),
        "paper": dict(length=500, hidden_size=256, batch_size=128, learning_rate=1e-3,
                      steps=100_000, evaluate_every=500, checkpoint_every=500)}  # fmt: skip

    length: int = Field(500, ge=1, le=1_000_000, description="N, the number of blank steps")

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(input="one_hot", input_size=SYMBOLS + 2, output_size=SYMBOLS, read=COUNT,
                         loss="cross_entropy", **model)  # fmt: skip

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """Inputs (N + 20, size) in 0..9; targets (10, size) in 0..7, the symbols minus one."""
        symbols = rng.integers(1, SYMBOLS + 1, (COUNT, size))
        blanks = np.zeros((self.length, size), symbols.dtype)
        cues = np.full((COUNT, size), CUE)
        return Batch(np.concatenate([symbols, blanks, cues]), symbols - 1)

    def baselines(self) -> dict[str, Scores]:
        return {"any symbol alike": {"loss": math.log(SYMBOLS), "accuracy": 1 / SYMBOLS}}
