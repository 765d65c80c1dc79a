"""One model trained by several processes: each takes its share of every batch.

Under ``torchrun`` every process runs the same program on the same data with the same seed. The
learner gives each its sequences of a batch and sums what they found, so the result is that of one
process with the whole batch.
"""

import os

import torch
import torch.distributed as dist
from torch import Tensor

from gatecore.contracts.model import Batch


def join() -> None:
    """Meet the other processes that ``torchrun`` started, if any."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and dist.is_available() and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def world() -> tuple[int, int]:
    """This process's number, and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def device() -> torch.device:
    """Torch's default device; one GPU for each process where several share a machine of them."""
    if world()[1] > 1 and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.get_default_device()


def share(size: int) -> slice:
    """This process's sequences of a batch of ``size``."""
    rank, count = world()
    return slice(rank * size // count, (rank + 1) * size // count)


def part(batch: Batch, mine: slice) -> Batch:
    """The sequences ``mine`` of a batch."""
    resets = None if batch.resets is None else batch.resets[:, mine]
    return Batch(batch.inputs[:, mine], batch.targets[:, mine], resets)


def total(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if world()[1] == 1:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, whole in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(whole.view_as(tensor))
