"""Synthetic forgetting: Adding with saturated initial forget gates (Appendix E.1)."""

from typing import Any, ClassVar

from pydantic import Field

from gatecore import Mechanism
from gatecore.tasks.problems.adding import Adding


class Forgetting(Adding):
    """Adding with every effective forget gate initialized to σ(6), a timescale of 404 steps.

    Compare the loss, and the smallest timescale 1/(1 − g) after training, which runs report.

    The paper gives the effective activation σ(6), but not how each mechanism reaches it. We use
    the constant initial bias 6; a separate input gate starts at logit 0 and a refine gate is
    neutral (r = ½, so g = f). Mechanisms then differ only in their auxiliary gate: C and U become
    ``standard``, CR and UR become R (the paper's text says R-LSTM, its Figure 9 UR-LSTM).
    Also inferred: batches of 32. ``paper`` has N = 500, 64 units, learning rate 1e-4 and 10,000
    steps; ``quick`` has N = 100 and a larger learning rate. The constant is the setting
    ``forget_bias``; another one as a mechanism's is refused. :meth:`mechanism_defaults` raises
    ValueError for cumax gates, which ignore a constant added to their logits, and for master gates,
    whose effective gate would be F(1 − I/2) = ¾F.

    >>> from gatecore import mechanism
    >>> Forgetting().mechanism_defaults(mechanism("UR"))
    {'initial': 'constant', 'forget_bias': 6.0, 'refine_bias': 'neutral'}
    """

    name: ClassVar = "forgetting"
    title_format: ClassVar = "Forgetting, N={length}, gates from σ({forget_bias:g})"
    presets: ClassVar = {
        "quick": dict(Adding.presets["quick"], learning_rate=1e-3),
        "paper": dict(length=500, hidden_size=64, batch_size=32, learning_rate=1e-4, steps=10_000,
                      evaluate_every=200, checkpoint_every=500)}  # fmt: skip

    length: int = Field(500, ge=2, le=1_000_000, description="N, the steps of a sequence")
    forget_bias: float = Field(6.0, ge=-20, le=20, description="initial logit of every forget gate")

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        if mechanism.activation != "sigmoid" or mechanism.auxiliary == "master":
            kind = "master" if mechanism.auxiliary == "master" else "cumax"
            raise ValueError(f"mechanism {mechanism.name!r} cannot run forgetting: no constant bias"
                             f" brings its {kind} gates to σ({self.forget_bias:g}); choose standard"
                             " or R (C and U start as standard here, CR and UR as R)")  # fmt: skip
        return dict(initial="constant", forget_bias=self.forget_bias, refine_bias="neutral")
