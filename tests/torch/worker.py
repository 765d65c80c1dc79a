"""One of the processes of ``test_parallel``, started by torchrun with a folder to write."""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from gatecore import Batch, ModelSpec
from gatecore.backends.torch import LSTM, Learner, convert

SPEC = ModelSpec(
    input="embedding", input_size=5, output_size=4, hidden_size=6, layers=2, zoneout=(0.2, 0.1),
    head=(7,), dropout=0.2, streams=5, embedding_dropout=0.3,
)  # fmt: skip


def learned():
    """Losses, scores and final state after a few steps on batches of 5 sequences."""
    rng, learner = np.random.default_rng(0), Learner(SPEC, seed=1, dtype="float64")
    found = {}
    for k in range(4):
        tokens, targets = rng.integers(0, 5, (6, 5)), rng.integers(-1, 4, (6, 5))
        batch = Batch(tokens, targets, rng.random((6, 5)) < 0.2)
        metrics = learner.step(batch, learning_rate=1e-2, clip_norm=0.5)
        found |= {f"step {k} {name}": value for name, value in metrics.items()}
    found |= {f"score {name}": value for name, value in learner.evaluate([batch]).items()}
    return found | learner.state_dict()


def wrapped():
    """Gradients of a converted model under DistributedDataParallel, beside those of one process."""
    torch.manual_seed(2)
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 4, 2, bidirectional=True)})
    model["rnn"] = convert(model)["rnn"].double()
    x = torch.randn(5, 4, 3, dtype=torch.float64)
    model["rnn"](x)[0].pow(2).sum().backward()
    alone = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    together = nn.parallel.DistributedDataParallel(model["rnn"])
    mine = x.tensor_split(dist.get_world_size(), dim=1)[dist.get_rank()]
    together(mine)[0].pow(2).sum().backward()
    grads = [p.grad * dist.get_world_size() for p in model.parameters()]
    for a, b in zip(alone, grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    single = LSTM(3, 4).double()  # one bias: what is frozen takes no part
    nn.parallel.DistributedDataParallel(single)(mine)[0].sum().backward()


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = learned()
    wrapped()
    np.savez(f"{sys.argv[1]}/rank{dist.get_rank()}.npz", **found)
    dist.destroy_process_group()
