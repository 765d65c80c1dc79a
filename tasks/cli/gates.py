"""The table of ``gatecore gates``: each mechanism, its parameters, its initial timescales."""

import numpy as np
import rich.box
import rich.table

from gatecore import MECHANISMS, Mechanism, mechanism, timescale
from gatecore.cells import CELLS
from gatecore.tasks.training.config import ConfigError

QUANTILES = (0.05, 0.5, 0.95)


def gates_table(
    core: str, input_size: int, hidden_size: int, downsize: int, seed: int
) -> rich.table.Table:
    """A row for each of the paper's mechanisms, as a layer of these sizes has them.

    Raises
    ------
    ConfigError
        A mechanism that a layer of ``hidden_size`` units cannot have.
    """
    if hidden_size < 3:
        raise ConfigError(f"hidden_size={hidden_size} is too small for this table, which needs at "
                          "least 3 units: chrono gates draw timescales between 2 steps and as "
                          "many as there are units")  # fmt: skip
    table = rich.table.Table(
        title=f"Gate mechanisms: {core} of {hidden_size} units, {input_size} inputs",
        caption="Last columns: initial timescale 1/(1 − g), in steps, that so many of the units "
        f"do not exceed (seed {seed}). Master gates serve {downsize} units each.",
        box=rich.box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    for column in ("name", "main gate", "initial bias", "auxiliary", "input gate"):
        table.add_column(column, min_width=len(max(column.split(), key=len)))
    for column in ("parameters", *(f"{q:.0%}" for q in QUANTILES)):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    for row in MECHANISMS.values():
        chosen = mechanism(row, downsize=downsize) if row.auxiliary == "master" else row
        try:
            table.add_row(*_row(chosen, core, input_size, hidden_size, seed))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return table


def initial_timescales(gating: Mechanism, core: str, hidden_size: int, seed: int) -> np.ndarray:
    """Timescales in steps of a layer's units, (hidden_size,): biases alone, no pre-activation."""
    forget, _ = gating.gates(gating.biases(core, hidden_size, seed))
    return timescale(forget)


def _row(
    gating: Mechanism, core: str, input_size: int, hidden_size: int, seed: int
) -> tuple[str, ...]:
    cell = CELLS[core](input_size, hidden_size, gating)
    parameters = sum(value.size for value in cell.init(seed).values())
    steps = np.quantile(
        initial_timescales(gating, core, hidden_size, seed), QUANTILES, method="inverted_cdf"
    )
    return (
        gating.name,
        gating.activation,
        f"{gating.forget_bias:g}" if gating.initial == "constant" else gating.initial,
        _auxiliary(gating),
        _input(gating, core),
        f"{parameters:,}",
        *("∞" if np.isinf(value) else f"{value:.3g}" for value in steps),
    )


def _auxiliary(gating: Mechanism) -> str:
    return f"refine, {gating.refine_bias}" if gating.auxiliary == "refine" else gating.auxiliary


def _input(gating: Mechanism, core: str) -> str:
    if gating.auxiliary == "master":
        return "master"
    return "tied" if gating.tied(core) else "own"
