"""Adding: the sum of two marked values in a long sequence (Section 3.1)."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from gatecore import Batch, ModelSpec
from gatecore.tasks.problems.base import GeneratedTask, Scores


class Adding(GeneratedTask):
    """N values uniform in [0, 1), two of them marked; the target is the sum of those two.

    The second input channel is the marker: 1 at one step of [0, N/2) and one of [N/2, N), else 0.
    The loss is the mean squared error; the constant answer 1 scores 1/6.

    The paper does not state, and we infer: the answer is read after the last step; each marker is
    uniform over its half; batches of 32 (``quick``) or 128 (``paper``); clipping by the gradient's
    global norm; 20,000 steps in ``paper``, where Figure 3's axis ends; held-out sequences drawn
    once per seed. ``quick`` (N = 100) is ours.

    >>> batch = Adding(length=4).batch(seed=0, step=0, size=1)
    >>> batch.inputs[:, 0].round(3), batch.targets[0, 0].round(3)
    (array([[0.851, 1.   ],
           [0.637, 0.   ],
           [0.511, 1.   ],
           [0.27 , 0.   ]], dtype=float32), array([1.362], dtype=float32))
    """

    name: ClassVar = "adding"
    title_format: ClassVar = "Adding, N={length}"
    score: ClassVar = "loss"
    presets: ClassVar = {
        "quick": dict(length=100, hidden_size=64, batch_size=32, learning_rate=3e-3, steps=2000,
                      evaluate_every=100, checkpoint_every=500, threads=1),
        "paper": dict(length=2000, hidden_size=256, batch_size=128, learning_rate=1e-3,
                      steps=20_000, evaluate_every=200, checkpoint_every=200)}  # fmt: skip

    length: int = Field(2000, ge=2, le=1_000_000, description="N, the steps of a sequence")

    def spec(self, **model: Any) -> ModelSpec:
        return ModelSpec(input="dense", input_size=2, output_size=1, read=1, loss="squared_error",
                         **model)  # fmt: skip

    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """Inputs (N, size, 2), float32: values and markers; targets (1, size, 1)."""
        half = (self.length + 1) // 2  # the first index that is not below N/2
        values = rng.random((self.length, size), dtype=np.float32)
        positions = np.stack([rng.integers(0, half, size), rng.integers(half, self.length, size)])
        markers = np.zeros_like(values)
        np.put_along_axis(markers, positions, 1, axis=0)
        total = np.take_along_axis(values, positions, axis=0).sum(axis=0)
        return Batch(np.stack([values, markers], axis=-1), total[None, :, None])

    def baselines(self) -> dict[str, Scores]:
        return {"always 1": {"loss": 1 / 6}}
