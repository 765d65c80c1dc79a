"""A layer made from one of torch's: its sizes, and the weights that both have."""

import logging
from typing import Any

import torch
from torch import nn

from gatecore.backends.torch.nn.parameters import slot_rows
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

_log = logging.getLogger(__name__)


def from_torch(
    kind: type[Any],
    module: Any,
    mechanism: str | Mechanism,
    keep_weights: bool,
    **keywords: Any,
) -> Any:
    """A layer of ``kind`` with the sizes of torch's ``module``, on its device, in its mode."""
    weight = next(module.parameters())
    sizes = {"input_size": module.input_size, "hidden_size": module.hidden_size}
    if isinstance(module, nn.RNNBase):
        sizes |= {
            name: getattr(module, name)
            for name in ("num_layers", "batch_first", "dropout", "bidirectional", "proj_size")
        }
    made = kind(
        **sizes, bias=module.bias, device=weight.device, dtype=weight.dtype,
        mechanism=mechanism, **keywords,
    )  # fmt: skip
    made.train(module.training)
    made.initialised = _adopt(made, module) if keep_weights else _slots(made)
    if made.initialised:
        _log.info("%s: initialised anew: %s", made, ", ".join(made.initialised))
    return made


def _slots(made: Any) -> tuple[str, ...]:
    return tuple(dict(made.mechanism.slots(made.core, made.hidden_size)))


@torch.no_grad()
def _adopt(made: Any, module: Any) -> tuple[str, ...]:
    """Copy what both have; the slots that were left as they were drawn.

    A slot means the same in both if it is activated the same way: an ordered gate's logits are
    no sigmoid's.
    """
    own = CELLS[made.core](module.input_size, module.hidden_size, made.mechanism)
    torchs = CELLS[made.core](module.input_size, module.hidden_size, "standard")
    ordered = made.mechanism.ordered_slots
    kept = [s for s in slot_rows(own) if s in slot_rows(torchs) and s not in ordered]
    for name, target in made.named_parameters():
        source = getattr(module, name)
        if name.startswith("weight_hr"):
            target.copy_(source)
        else:
            for slot in kept:
                target[slot_rows(own)[slot]] = source[slot_rows(torchs)[slot]]
    _oppose(made, own)
    return tuple(slot for slot in slot_rows(own) if slot not in kept)


def _oppose(made: Any, own: Cell) -> None:
    """A refine gate with a bias opposed to the forget gate's is opposed to the adopted one."""
    rows = slot_rows(own)
    if "refine" not in rows or made.mechanism.refine_bias != "opposed":
        return
    held = dict(made.named_parameters())
    for name, bias in held.items():
        if name.startswith("bias_ih"):
            forget = bias[rows["forget"]] + held[name.replace("_ih", "_hh")][rows["forget"]]
            bias[rows["refine"]] = -forget
