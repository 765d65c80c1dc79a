"""What ``watch`` costs: the time of a training step with and without it.

    python benchmarks/watch.py

For each layer and interval the ratio of two steps taken in turn: its median, with the 10 % and 90 %
quantiles over the rounds. Times are of the processor, on one thread, so that other work on the
machine disturbs them little.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn

from gatecore.backends.torch import LSTM, watch

SHAPES = {  # steps, batch, inputs, hidden
    "copy": (520, 32, 10, 256),
    "pixel": (784, 50, 1, 512),
    "small": (70, 32, 10, 128),
}
LAYERS = {
    "torch.nn.LSTM": lambda i, d: nn.LSTM(i, d),
    "torch.nn.LSTM, 2 layers": lambda i, d: nn.LSTM(i, d, num_layers=2),
    "gatecore LSTM, UR": lambda i, d: LSTM(i, d, mechanism="UR"),
}


def step(layer: nn.Module, x: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.process_time()
    layer(x)[0].square().mean().backward()
    return time.process_time() - start


def ratios(layer: nn.Module, x: Tensor, every: int, rounds: int) -> np.ndarray:
    """Mean seconds of ``every`` steps with the hooks over that of as many without, per round."""
    step(layer, x)
    found = []
    for _ in range(rounds):
        plain = np.mean([step(layer, x) for _ in range(every)])
        with watch(layer, every=every):
            watched = np.mean([step(layer, x) for _ in range(every)])
        found.append(watched / plain)
    return np.array(found)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--every", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    print("| layer | steps, batch, hidden |", *(f"every={n} |" for n in given.every))
    print("|---|---|" + "---|" * len(given.every))
    for shape in given.shapes:
        steps, batch, inputs, hidden = SHAPES[shape]
        x = torch.randn(steps, batch, inputs)
        for name, make in LAYERS.items():
            layer, cells = make(inputs, hidden), []
            for every in given.every:
                rounds = max(3, given.rounds // every)
                low, middle, high = np.quantile(ratios(layer, x, every, rounds), [0.1, 0.5, 0.9])
                cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f}) |")
            print(f"| {name} | {steps}, {batch}, {hidden} |", *cells, flush=True)


if __name__ == "__main__":
    main()
