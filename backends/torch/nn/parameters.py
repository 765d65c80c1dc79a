"""Parameters of the modules: torch's names and two biases, the mechanism's rows and laws."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from gatecore.backends.torch.sequence.call import add_biases
from gatecore.cells import Cell


def generator() -> np.random.Generator:
    """A NumPy generator seeded by torch's default one: ``torch.manual_seed`` determines it."""
    return np.random.default_rng(int(torch.randint(2**62, (), device="cpu")))


def slot_rows(cell: Cell) -> dict[str, slice]:
    """The rows of each slot in the packed weights and biases."""
    rows, start = {}, 0
    for slot, width in cell.slots:
        rows[slot] = slice(start, start + width)
        start += width
    return rows


def shapes(cell: Cell, bias: bool, proj_size: int = 0) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one layer's parameters, in torch's order."""
    found: dict[str, tuple[int, ...]] = {
        "weight_ih": (cell.rows, cell.input_size),
        "weight_hh": (cell.rows, proj_size or cell.hidden_size),
    }
    found |= {"bias_ih": (cell.rows,), "bias_hh": (cell.rows,)} if bias else {}
    return found | ({"weight_hr": (proj_size, cell.hidden_size)} if proj_size else {})


@torch.no_grad()
def initialise(cell: Cell, own: Mapping[str, nn.Parameter]) -> None:
    """Weights U(−1/√d, 1/√d), the mechanism's biases in ``bias_ih``, zeros in ``bias_hh``."""
    bound = 1 / math.sqrt(cell.hidden_size)
    for name, value in own.items():
        if name.startswith("weight"):
            nn.init.uniform_(value, -bound, bound)
    if "bias_ih" not in own or own["bias_ih"].is_meta:
        return
    biases = cell.mechanism.biases(cell.core, cell.hidden_size, generator())
    packed = torch.from_numpy(np.concatenate(list(biases.values())))
    own["bias_ih"].copy_(packed)
    own["bias_hh"].zero_()


def layer_params(
    cell: Cell, own: Mapping[str, Tensor], two_biases: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The cell's parameters of torch's, and ``bias_hh``: what is to be added to ``bias``.

    Where a layer has one bias, what ``bias_hh`` adds to it is constant.
    """
    params = {name: v if v.dtype == dtype else v.to(dtype) for name, v in own.items()}
    if "bias_ih" not in params:
        params["bias"] = other = params["weight_ih"].new_zeros(cell.rows)
    else:
        params["bias"], other = params.pop("bias_ih"), params.pop("bias_hh")
    constant = other.detach() if other.requires_grad and not two_biases else other
    if "bias_n" not in cell.parameter_shapes():
        params["bias_hh"] = constant
        return params
    n = slot_rows(cell)["candidate"]
    none = torch.zeros_like(other[n])
    params["bias_hh"] = torch.cat([constant[: n.start], none, constant[n.stop :]])
    params["bias_n"] = other[n]
    return params


def core_params(
    cell: Cell, own: Mapping[str, Tensor], two_biases: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The cell's parameters of torch's."""
    return add_biases(layer_params(cell, own, two_biases, dtype))
