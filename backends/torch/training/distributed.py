"""One model trained by the processes of ``torchrun``: each computes its share of every batch.

The learner sums losses and gradients, so the result is that of one process with the whole batch.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from gatecore.contracts.model import Batch


def join() -> None:
    """Join the process group of ``torchrun``, if there is one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def world() -> tuple[int, int]:
    """The rank of this process, and the number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def device() -> torch.device:
    """Torch's default device; under ``torchrun`` the GPU of this process."""
    if world()[1] > 1 and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.get_default_device()


def share(batch: Batch) -> tuple[Batch, slice]:
    """This process's sequences of a batch, and which they are."""
    (rank, count), size = world(), batch.inputs.shape[1]
    local = slice(rank * size // count, (rank + 1) * size // count)
    return Batch(*(array if array is None else array[:, local] for array in batch)), local


def total(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world()[1] == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, whole in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(whole.view_as(tensor))
