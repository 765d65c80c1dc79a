"""Synthetic forgetting: the Adding task from gates that start saturated (Appendix E.1)."""

from typing import Any, ClassVar

from pydantic import Field

from gatecore import Mechanism
from gatecore.tasks.problems.adding import Adding


class Forgetting(Adding):
    """Adding, N = 500, with every effective forget gate started at σ(6): can it learn to forget?

    A timescale of 404 steps in all units must be unlearned. What to look at is the loss, and the
    smallest characteristic timescale 1/(1 − g) of a unit after training, which every run reports.

    The paper names the effective activation σ(6), and not what that means for each mechanism. Ours:
    the initial law is the constant 6, an input gate of its own starts at 0 and a refine gate is
    neutral (r = ½, so that g = f). The mechanisms then differ only in their auxiliary gate: C and U
    become ``standard``, CR and UR become R (the paper's text says R-LSTM, its Figure 9 UR-LSTM).
    Two kinds of gates cannot start so and are refused: cumax ignores a constant added to its
    logits, and under master gates with neutral inner gates the effective gate is F(1 − I/2) = ¾F.
    Also inferred: batches of 32. ``paper`` is N = 500, 64 units, rate 1e-4, 10,000 steps;
    ``quick`` is the same saturated start at N = 100 and a larger rate.
    """

    name: ClassVar = "forgetting"
    presets: ClassVar = {
        "quick": dict(
            length=100, hidden_size=64, batch_size=32, learning_rate=1e-3, steps=2000,
            evaluate_every=100, checkpoint_every=500, threads=1,
        ),
        "paper": dict(
            length=500, hidden_size=64, batch_size=32, learning_rate=1e-4, steps=10_000,
            evaluate_every=200, checkpoint_every=500,
        ),
    }  # fmt: skip

    length: int = Field(500, ge=2, le=1_000_000, description="N, the steps of a sequence")
    forget_bias: float = Field(6.0, ge=-20, le=20, description="initial logit of every forget gate")

    @property
    def title(self) -> str:
        return f"Forgetting, N={self.length}, gates from σ({self.forget_bias:g})"

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        if mechanism.activation != "sigmoid" or mechanism.auxiliary == "master":
            kind = "master" if mechanism.auxiliary == "master" else "cumax"
            raise ValueError(
                f"mechanism {mechanism.name!r} cannot run forgetting: no constant bias brings its "
                f"{kind} gates to σ({self.forget_bias:g}); choose standard or R (C and U start "
                "as standard here, CR and UR as R)"
            )
        return {
            "initial": "constant", "forget_bias": self.forget_bias, "refine_bias": "neutral",
        }  # fmt: skip
