"""``gatecore gates``: each mechanism, its parameters, its initial timescales."""

import math

import click
import numpy as np
import rich.table

from gatecore import MECHANISMS, Mechanism, mechanism, timescale
from gatecore._checks import LARGEST_SEED
from gatecore.cells import CELLS
from gatecore.mechanisms import CORES
from gatecore.tasks.cli.results import plain_table
from gatecore.tasks.cli.settings import Console, reported_errors
from gatecore.tasks.training.config import ConfigError, config_errors

QUANTILES = (0.05, 0.5, 0.95)


@click.command()
@click.option("--hidden-size", type=click.IntRange(1, 1_000_000), default=256, show_default=True)
@click.option("--input-size", type=click.IntRange(1, 1_000_000), default=10, show_default=True)
@click.option("--core", type=click.Choice(CORES), default="lstm", show_default=True)
@click.option("--downsize", type=click.IntRange(1, 1_000_000), default=16, show_default=True,
              help="Units that share a master gate.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, LARGEST_SEED), default=0, show_default=True)
def gates(hidden_size: int, input_size: int, core: str, downsize: int, seed: int) -> None:
    """Print the mechanisms with parameter counts and initial timescales.

    Timescales are in steps: quantiles over the units of one layer, of the effective forget gate
    with its initial biases and no input.
    """
    with reported_errors():
        table = gates_table(core, input_size, hidden_size, downsize, seed)
    Console().print(table)


def gates_table(core: str, input_size: int, hidden_size: int, downsize: int,
                seed: int) -> rich.table.Table:  # fmt: skip
    """A row for each of the paper's mechanisms; ConfigError if the layer cannot have one."""
    if hidden_size < 3:
        raise ConfigError(f"hidden_size={hidden_size} is too small for this table, which needs at "
                          "least 3 units: chrono gates draw timescales from 2 steps to the number "
                          "of units")  # fmt: skip
    table = plain_table(
        title=f"Gate mechanisms: {core} of {hidden_size} units, {input_size} inputs",
        caption="Last columns: initial timescales 1/(1 − g) in steps, quantiles over the units "
        f"(seed {seed}). {downsize} units share a master gate.",
    )
    for column in ("name", "main gate", "initial bias", "auxiliary", "input gate"):
        table.add_column(column, min_width=len(max(column.split(), key=len)))
    for column in ("parameters", *(f"{q:.0%}" for q in QUANTILES)):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    with config_errors():
        for gating in MECHANISMS.values():
            if gating.auxiliary == "master":
                gating = mechanism(gating, downsize=downsize)
            table.add_row(*_row(gating, core, input_size, hidden_size, seed))
    return table


def initial_timescales(gating: Mechanism, core: str, hidden_size: int, seed: int) -> np.ndarray:
    """Timescales of a layer's units in steps, (hidden_size,), by their biases alone."""
    forget, _ = gating.gates(gating.biases(core, hidden_size, seed))
    return timescale(forget)


def _row(gating: Mechanism, core: str, input_size: int, hidden_size: int,
         seed: int) -> tuple[str, ...]:  # fmt: skip
    cell = CELLS[core](input_size, hidden_size, gating)
    parameters = sum(map(math.prod, cell.parameter_shapes().values()))
    timescales = initial_timescales(gating, core, hidden_size, seed)
    steps = np.quantile(timescales, QUANTILES, method="inverted_cdf")
    bias = f"{gating.forget_bias:g}" if gating.initial == "constant" else gating.initial
    auxiliary = gating.auxiliary
    source = "master" if auxiliary == "master" else "tied" if gating.ties_gates(core) else "own"
    if auxiliary == "refine":
        auxiliary += f", {gating.refine_bias}"
    quantiles = ("∞" if np.isinf(value) else f"{value:.3g}" for value in steps)
    return gating.name, gating.activation, bias, auxiliary, source, f"{parameters:,}", *quantiles
