"""The mechanism in the states of flax cells, and the refusal of another mechanism's state.

The bias of a cell is named after the cell's signature, as ``bias_lstm_sigmoid_refine_1``. So a
state records what it was trained for in its structure, under every transformation and tracing,
whatever becomes of the numbers: casts, averages, weight decay, a state of the parameters alone.
"""

from gatecore.backends.common.signature import mechanism_names, signature
from gatecore.mechanisms import Mechanism

_PREFIX = "bias_"


def bias_name(core: str, mechanism: Mechanism) -> str:
    """The name of the bias in the state of a cell.

    >>> from gatecore import mechanism
    >>> bias_name("lstm", mechanism("UR"))
    'bias_lstm_sigmoid_refine_1'
    """
    return _PREFIX + signature(core, mechanism).replace(" ", "_")


def recorded(name: str) -> str:
    """The signature that the name of an entry records, else an empty string."""
    core, *words = name.removeprefix(_PREFIX).rsplit("_", 3)
    return " ".join((core, *words)) if name.startswith(_PREFIX) and len(words) == 3 else ""


def check_name(name: str, core: str, mechanism: Mechanism) -> None:
    """Raise ValueError if ``name`` is the bias of another signature."""
    saved, own = recorded(name), signature(core, mechanism)
    if saved and saved != own:
        names, kinds = mechanism_names(saved), [text.split()[0] for text in (saved, own)]
        advice = (f"make the cell with mechanism={names}, or load weights that were trained with "
                  f"{mechanism.name!r}")  # fmt: skip
        if len({*kinds}) > 1:
            advice = f"load weights of a {kinds[1]}, or make a cell that is a {kinds[0]}"
        raise ValueError(f"the state is of mechanism {names} ({saved}), this cell has "
                         f"{mechanism.name!r} ({own}): {advice}")  # fmt: skip
