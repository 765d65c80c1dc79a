"""The paper's results: Tables 2 and 3, and the perplexities of Table 6a.

Values are strings as printed, with an asterisk for each of the three seeds that diverged.
"""

import dataclasses
from collections.abc import Callable, Mapping

from gatecore import MECHANISMS, Mechanism
from gatecore.tasks.training.config import Config

_ORDER = ("standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR")


def _table2(row: str) -> dict[str, str]:
    return dict(zip(_ORDER, row.split(), strict=True))


PMNIST = _table2("94.77** 94.69 96.17 96.05 95.84* 95.98 96.40 95.50 96.43")
SCIFAR = _table2("63.24** 65.60 67.78 67.63 71.85* 67.73* 70.41 67.29* 71.05")
SCIFAR_GRU = _table2("71.30* 64.61 69.81** 70.10 70.74* 70.20* 71.40** 69.17* 71.04")
TABLE3 = {  # test accuracy in %: sMNIST, pMNIST, sCIFAR
    "standard": ("98.9", "95.11", "63.01"),
    "UR": ("99.28", "96.96", "71.00"),
    "UR, zoneout": ("99.21", "97.58", "74.34"),
    "UR, GRU, zoneout": ("99.27", "96.51", "74.4"),
}
PERPLEXITIES = {  # validation, test; C had T_max = the hidden size, 3072
    "standard": ("34.3", "35.8"),
    "C": ("35.0", "36.4"),
    "C, t_max=8": ("34.3", "36.1"),
    "C, t_max=11": ("34.6", "35.8"),
    "OM": ("34.0", "34.7"),
    "U": ("33.8", "34.9"),
    "UR": ("33.6", "34.6"),
}


@dataclasses.dataclass(frozen=True)
class Reference:
    """A column of the paper's values.

    Parameters
    ----------
    source : str
        Table, data set and kind of score.
    same : bool
        Whether the runs of the report have the same task; else ``note`` says how it differs.
    note : str
    values : mapping of mechanism name to value as printed
    """

    source: str
    same: bool
    note: str
    values: Mapping[str, str]

    def value(self, mechanism: Mechanism) -> str | None:
        """The paper's value for a mechanism; None if it has none."""
        known = MECHANISMS.get(mechanism.name)
        if known is None:
            return None
        alike = dataclasses.replace(known, downsize=mechanism.downsize, t_max=mechanism.t_max)
        if alike != mechanism:
            return None
        if mechanism.initial == "chrono" and mechanism.t_max != "hidden":
            t_max = "none" if mechanism.t_max is None else f"{float(mechanism.t_max):g}"
            return self.values.get(f"{mechanism.name}, t_max={t_max}")
        return self.values.get(mechanism.name)


def reference(config: Config) -> Reference | None:
    """The paper's values for runs of this task, or None if it has none.

    ``same`` is about data, core and kind of score; sizes, learning rates and training time may
    differ.
    """
    column = _COLUMNS.get(config.task.name)
    return column(config) if column else None


def _pixels(config: Config) -> Reference | None:
    data = getattr(config.task, "data", "digits")
    permuted = bool(getattr(config.task, "permute", False))
    if config.layers != 1 or config.core not in ("lstm", "gru"):
        return None
    if data == "cifar10":
        return _cifar(config) if not permuted else None
    column = 1 if permuted else 0
    name = ("sMNIST", "pMNIST")[column]
    same = data == "mnist"
    note = "" if same else f"{name} has other images (28 × 28, sequences of 784): no comparison"
    if zoned := any(config.zoneout):
        values = _zoneout(config, column)
    elif config.core == "gru":
        values = {}
    else:
        values = PMNIST if permuted else {k: TABLE3[k][column] for k in ("standard", "UR")}
    table = "Table 3, test" if zoned or not permuted else "Table 2, best validation"
    return Reference(f"{table} accuracy on {name}, %", same, note, values) if values else None


def _cifar(config: Config) -> Reference | None:
    if any(config.zoneout):
        values = _zoneout(config, 2)
        return Reference("Table 3, test accuracy on sCIFAR, %", True, "", values)
    values = SCIFAR_GRU if config.core == "gru" else SCIFAR
    return Reference("Table 2, best validation accuracy on sCIFAR, %", True, "", values)


def _zoneout(config: Config, column: int) -> dict[str, str]:
    row = "UR, zoneout" if config.core == "lstm" else "UR, GRU, zoneout"
    return {"UR": TABLE3[row][column]}


def _language(config: Config) -> Reference | None:
    if config.core != "lstm":
        return None
    words = getattr(config.task, "level", "word") == "word"
    same = words and getattr(config.task, "data", "") == "wikitext103"
    note = "" if same else "WikiText-103 by words is another text: no comparison"
    values = {name: test for name, (_, test) in PERPLEXITIES.items()}
    return Reference("Table 6a, test perplexity on WikiText-103", same, note, values)


_COLUMNS: dict[str, Callable[[Config], Reference | None]] = {
    "pixels": _pixels,
    "language": _language,
}
