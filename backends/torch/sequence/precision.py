"""The precision of computation: gates and states have at least float32."""

import contextlib
from typing import Any

import torch
from torch import Tensor

LOW = (torch.float16, torch.bfloat16)
_NO_CHANGE = contextlib.nullcontext()


def autocast_dtype(device: str) -> torch.dtype | None:
    """The dtype that autocast gives to outputs on this kind of device, if it is on."""
    if not torch._C._is_any_autocast_enabled():
        return None
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return None


def no_autocast(device: str) -> Any:
    """A context in which products keep the weights' precision: gates must not be rounded."""
    off = autocast_dtype(device) is None
    return _NO_CHANGE if off else torch.autocast(device, enabled=False)


def dtypes(weight: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """The dtype in which a layer of such weights computes, and that of its output."""
    dtype = weight.dtype
    cast = None if dtype == torch.float64 else autocast_dtype(weight.device.type)
    return torch.float32 if dtype in LOW else dtype, cast or dtype
