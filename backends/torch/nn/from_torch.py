"""A recurrent layer or cell made from one of torch's: its sizes, and the weights that both have."""

import logging
from typing import Any

import torch

from gatecore.backends.common.layout import slot_rows
from gatecore.backends.torch.nn.parameters import merge_biases
from gatecore.cells import CELLS
from gatecore.mechanisms import REFINE_SLOTS, Mechanism

_SIZES = (
    "input_size", "hidden_size", "bias", "num_layers", "batch_first", "dropout", "bidirectional",
    "proj_size",
)  # fmt: skip
_log = logging.getLogger(__name__)


def from_torch(kind: type[Any], module: Any, mechanism: str | Mechanism, keep_weights: bool,
               **keywords: Any) -> Any:  # fmt: skip
    """A module of class ``kind`` with the sizes, device, dtype and mode of torch's ``module``.

    Its parameters are new tensors, which require gradients where those of ``module`` do.
    ``initialised`` of the result names the slots whose weights are new.
    """
    if keywords.get("layer_norm"):
        raise ValueError("layer_norm must be False for a layer with torch's weights, got True: "
                         "those are not of normalized products")  # fmt: skip
    weight = next(module.parameters())
    sizes = {name: getattr(module, name) for name in _SIZES if hasattr(module, name)}
    keywords |= {"device": weight.device, "dtype": weight.dtype, "mechanism": mechanism}
    new = kind(**sizes, **keywords).train(module.training)
    slots, standard = (slot_rows(CELLS[new.core](module.input_size, module.hidden_size, mechanism))
                       for mechanism in (new.mechanism, "standard"))  # fmt: skip
    # the logits of an ordered gate mean something else than those of a sigmoid
    shared = [s for s in slots if s in standard and s not in new.mechanism.ordered_slots]
    if keep_weights:
        with torch.no_grad():
            _copy(new, module, [(slots[slot], standard[slot]) for slot in shared])
            _adapt_biases(new, slots)
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(module, name).requires_grad)
    new.initialised = tuple(slot for slot in slots if not (keep_weights and slot in shared))
    if new.initialised:
        _log.info("%s: new weights of %s", new, ", ".join(new.initialised))
    return new


def _copy(new: Any, module: Any, rows: list[tuple[slice, slice]]) -> None:
    """Copy the projection whole, and of the other parameters these rows."""
    for name in (name for names in new._names for name in names.values()):
        target, source = getattr(new, name), getattr(module, name)
        whole = [(slice(None), slice(None))]
        for target_rows, source_rows in whole if name.startswith("weight_hr") else rows:
            target[target_rows] = source[source_rows]


def _adapt_biases(new: Any, slots: dict[str, slice]) -> None:
    """Oppose the refine gates' biases to those of their gates, and merge two biases into one."""
    for k, cell in enumerate(new._cells):
        weights = new._weights(k)
        if "bias_ih" not in weights:
            continue
        first, second = weights["bias_ih"], weights["bias_hh"]
        for gate, slot in REFINE_SLOTS.items():
            if slot in slots and new.mechanism.refine_bias == "opposed":
                first[slots[slot]] = -(first[slots[gate]] + second[slots[gate]])
        if not new.two_biases:
            merged = merge_biases(cell, first, second)
            for target, value in zip((first, second), merged, strict=True):
                target.copy_(value)
