"""The signature of a cell: all that its results depend on, but for the sizes, as a string.

Operators and checkpoints carry it. Two mechanisms of equal signature differ in their initial biases
alone, so their weights interchange: "standard", "U" and "C" do.
"""

import functools

from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

# of the layers of torch.nn, whose states name no mechanism
TORCH_SIGNATURES = {"lstm": "lstm sigmoid none 1", "gru": "gru sigmoid none 1"}


def signature(core: str, mechanism: Mechanism) -> str:
    """Core, activation, auxiliary gate and downsizing, for example "lstm sigmoid refine 1"."""
    downsize = mechanism.downsize if mechanism.auxiliary == "master" else 1
    return f"{core} {mechanism.activation} {mechanism.auxiliary} {downsize}"


@functools.lru_cache(maxsize=256)
def cell_of(signature: str, input_size: int, hidden_size: int) -> Cell:
    """A cell of this signature."""
    core, activation, auxiliary, downsize = signature.split()
    mechanism = Mechanism(
        name=signature, activation=activation, auxiliary=auxiliary, downsize=int(downsize)
    )
    return CELLS[core](input_size, hidden_size, mechanism)
