"""What a layer computes, as a string: a custom operation and a saved state can carry it.

Two mechanisms with equal strings differ in nothing but their initial biases, so their weights
interchange: "standard", "U" and "C" do.
"""

import functools

from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

# what torch.nn computes, and the layers that refuse any other state than its own can say so
TORCH = {"lstm": "lstm sigmoid none 1", "gru": "gru sigmoid none 1"}


def computation(core: str, mechanism: Mechanism) -> str:
    """Core, activation, auxiliary gate and downsizing, for example "lstm sigmoid refine 1"."""
    downsize = mechanism.downsize if mechanism.auxiliary == "master" else 1
    return f"{core} {mechanism.activation} {mechanism.auxiliary} {downsize}"


@functools.lru_cache(maxsize=256)
def cell_of(text: str, input_size: int, hidden_size: int) -> Cell:
    """A cell that computes this."""
    core, activation, auxiliary, downsize = text.split()
    mechanism = Mechanism(
        name=text, activation=activation, auxiliary=auxiliary, downsize=int(downsize)
    )
    return CELLS[core](input_size, hidden_size, mechanism)
