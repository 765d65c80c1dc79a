"""Benchmark of ``watch``: the time of a training step with it, relative to one without.

    python benchmarks/watch.py

For each layer and interval: the ratio of alternated steps, its median with the 10 % and 90 %
quantiles over the rounds. Times are processor times of one thread, which other processes affect
little.
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
    results = []
    for _ in range(rounds):
        plain = np.mean([step(layer, x) for _ in range(every)])
        with watch(layer, every=every):
            watched = np.mean([step(layer, x) for _ in range(every)])
        results.append(watched / plain)
    return np.array(results)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--every", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    print("| layer | steps, batch, hidden |", *(f"every={n} |" for n in options.every))
    print("|---|---|" + "---|" * len(options.every))
    for shape in options.shapes:
        steps, batch, inputs, hidden = SHAPES[shape]
        x = torch.randn(steps, batch, inputs)
        for name, make in LAYERS.items():
            layer, cells = make(inputs, hidden), []
            for every in options.every:
                rounds = max(3, options.rounds // every)
                low, middle, high = np.quantile(ratios(layer, x, every, rounds), [0.1, 0.5, 0.9])
                cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f}) |")
            print(f"| {name} | {steps}, {batch}, {hidden} |", *cells, flush=True)


if __name__ == "__main__":
    main()
