"""The precision of computation: gates and states have at least float32."""

import contextlib
from typing import Any

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
_AS_IT_IS = contextlib.nullcontext()


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast gives to outputs on this kind of device, if it is on."""
    if not torch._C._is_any_autocast_enabled():
        return None
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def no_autocast(device: str) -> Any:
    """Products in the weights' own precision: gates and states must not be rounded."""
    if autocast_dtype(device) is None:
        return _AS_IT_IS
    return torch.autocast(device, enabled=False)


def dtypes(weight: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The dtype in which a layer of such weights computes, and that of its output."""
    own = weight.dtype
    cast = None if own == torch.float64 else autocast_dtype(weight.device.type)
    return torch.float32 if own in LOW else own, cast or own
