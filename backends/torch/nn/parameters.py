"""Parameters of layers and cells with torch's names and two biases, and the gates they form."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gatecore.algebra import Gate
from gatecore.backends.common.layout import slot_rows
from gatecore.backends.torch.nn.checkpoint import has_values
from gatecore.backends.torch.sequence.call import add_biases
from gatecore.cells import GAINS, Cell

# the slots that the effective forget gate depends on
_FORGET_SLOTS = ("forget", "refine", "master_forget", "master_input")


def generator() -> np.random.Generator:
    """A NumPy generator seeded from torch's default one, so by ``torch.manual_seed``."""
    return np.random.default_rng(int(torch.randint(2**62, (), device="cpu")))


@torch.no_grad()
def initialise(cell: Cell, weights: Mapping[str, Tensor]) -> None:
    """Weights U(−1/√d, 1/√d), the mechanism's biases in ``bias_ih``, gains 1, other biases 0."""
    bound = 1 / math.sqrt(cell.hidden_size)
    for name, value in weights.items():
        if name.startswith("weight"):
            nn.init.uniform_(value, -bound, bound)
        elif name.startswith("norm"):
            nn.init.constant_(value, name in GAINS)
    if "bias_ih" in weights and has_values(weights["bias_ih"]):
        biases = cell.mechanism.biases(cell.core, cell.hidden_size, generator())
        weights["bias_ih"].copy_(torch.from_numpy(np.concatenate(list(biases.values()))))
    if "bias_hh" in weights:
        weights["bias_hh"].zero_()


def layer_params(cell: Cell, weights: Mapping[str, Tensor], two_biases: bool,
                 dtype: torch.dtype) -> dict[str, Tensor]:  # fmt: skip
    """The cell's parameters from torch's, and ``bias_hh``, which is to be added to ``bias``."""
    params = {name: v if v.dtype == dtype else v.to(dtype) for name, v in weights.items()}
    if "bias_ih" not in params:
        params["bias"] = bias_hh = params["weight_ih"].new_zeros(cell.rows)
        if "norm_c" in params:
            params["norm_c_bias"] = torch.zeros_like(params["norm_c"])
    else:
        params["bias"] = params.pop("bias_ih")
        if not cell.recurrent:
            return params
        bias_hh = params.pop("bias_hh")
    if "bias_n" not in cell.parameter_shapes():
        params["bias_hh"] = bias_hh
        return params
    n = slot_rows(cell)["candidate"]
    params["bias_n"] = bias_hh[n]
    if two_biases:  # else the other parts are 0
        zeros = torch.zeros_like(bias_hh[n])
        params["bias_hh"] = torch.cat([bias_hh[: n.start], zeros, bias_hh[n.stop :]])
    return params


def merge_biases(cell: Cell, bias_ih: Tensor, bias_hh: Tensor) -> tuple[Tensor, Tensor]:
    """Two biases of the same sum, of which the second is 0 but for a GRU's ``bias_n``."""
    rest = torch.zeros_like(bias_hh)
    if "bias_n" in cell.parameter_shapes():
        n = slot_rows(cell)["candidate"]
        rest[n] = bias_hh[n]
    return bias_ih + (bias_hh - rest), rest


def core_params(cell: Cell, weights: Mapping[str, Tensor], two_biases: bool,
                dtype: torch.dtype) -> dict[str, Tensor]:  # fmt: skip
    """The cell's parameters from torch's."""
    return add_biases(layer_params(cell, weights, two_biases, dtype))


def forget_gates(
    cell: Cell, params: dict[str, Tensor], x: Tensor, start: Tensor, hidden: Tensor,
    resets: Tensor | None = None, main: bool = False,
) -> Gate:  # fmt: skip
    """Effective or main forget gates (time, batch, hidden); ``start``: the hidden state before."""
    before = torch.cat([start.unsqueeze(0), hidden[:-1]])
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), 0)
    return step_gates(cell, params, x, before, main)


def step_gates(cell: Cell, params: dict[str, Tensor], x: Tensor, before: Tensor,
               main: bool = False) -> Gate:  # fmt: skip
    """Effective forget gates (..., hidden) of inputs and the hidden states before them."""
    gates = cell.mechanism.activate(_forget_logits(cell, params, x, before))
    return gates["forget"] if main else cell.mechanism.combine(gates)[0]


def _forget_logits(cell: Cell, params: dict[str, Tensor], x: Tensor,
                   before: Tensor) -> dict[str, Tensor]:  # fmt: skip
    """The logits of at least the slots that the effective forget gate depends on."""
    if cell.layer_norm:  # of all rows together
        return cell.logits(params, x, before)
    rows = {name: part for name, part in slot_rows(cell).items() if name in _FORGET_SLOTS}
    packed = {name: torch.cat([params[name][part] for part in rows.values()])
              for name in ("weight_ih", "weight_hh", "bias") if name in params}  # fmt: skip
    logits = x @ packed["weight_ih"].T + packed["bias"]
    if cell.recurrent:
        logits = logits + before @ packed["weight_hh"].T
    widths = [part.stop - part.start for part in rows.values()]
    return dict(zip(rows, logits.split(widths, -1), strict=True))
