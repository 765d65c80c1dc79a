"""The paper's Tables 2, 3 and 6a as printed, with an asterisk for each of 3 diverged seeds."""

import dataclasses
from collections.abc import Mapping

from gatecore import MECHANISMS, Mechanism
from gatecore.tasks.training.config import Config

_ORDER = ("standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR")
_ROWS = {  # validation accuracy in % by data and core
    ("pMNIST", "lstm"): "94.77** 94.69 96.17 96.05 95.84* 95.98 96.40 95.50 96.43",
    ("sCIFAR", "lstm"): "63.24** 65.60 67.78 67.63 71.85* 67.73* 70.41 67.29* 71.05",
    ("sCIFAR", "gru"): "71.30* 64.61 69.81** 70.10 70.74* 70.20* 71.40** 69.17* 71.04",
}
_DATA = {("MNIST", False): "sMNIST", ("MNIST", True): "pMNIST", ("CIFAR-10", False): "sCIFAR"}
TABLE2 = {key: dict(zip(_ORDER, row.split(), strict=True)) for key, row in _ROWS.items()}
TABLE3 = {  # test accuracy in % by data
    "standard": {"sMNIST": "98.9", "pMNIST": "95.11", "sCIFAR": "63.01"},
    "UR": {"sMNIST": "99.28", "pMNIST": "96.96", "sCIFAR": "71.00"},
    "UR, zoneout": {"sMNIST": "99.21", "pMNIST": "97.58", "sCIFAR": "74.34"},
    "UR, GRU, zoneout": {"sMNIST": "99.27", "pMNIST": "96.51", "sCIFAR": "74.4"},
}
PERPLEXITIES = {  # validation, test; C had T_max = the hidden size, 3072
    "standard": ("34.3", "35.8"), "OM": ("34.0", "34.7"), "U": ("33.8", "34.9"),
    "UR": ("33.6", "34.6"), "C": ("35.0", "36.4"), "C, t_max=8": ("34.3", "36.1"),
    "C, t_max=11": ("34.6", "35.8"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reference:
    """A column of the paper's values."""

    source: str  # table, data set and kind of score
    values: Mapping[str, str]  # as printed, by the mechanism's name

    def value(self, mechanism: Mechanism) -> str | None:
        """The paper's value for a mechanism; None if it has none."""
        known = MECHANISMS.get(mechanism.name)
        if known is None or mechanism != dataclasses.replace(
            known, downsize=mechanism.downsize, t_max=mechanism.t_max
        ):
            return None
        if mechanism.initial == "chrono" and mechanism.t_max != "hidden":
            t_max = "none" if mechanism.t_max is None else f"{float(mechanism.t_max):g}"
            return self.values.get(f"{mechanism.name}, t_max={t_max}")
        return self.values.get(mechanism.name)


def reference(config: Config) -> Reference | None:
    """The paper's values for this data, core and kind of score; None for data of another kind."""
    task = config.task.name
    if task == "language" and config.core == "lstm":
        return _language(config)
    single = config.layers == 1 and config.core in ("lstm", "gru")
    return _pixels(config) if task == "pixels" and single else None


def _pixels(config: Config) -> Reference | None:
    data = getattr(config.task, "known", ""), getattr(config.task, "permute", False)
    if (name := _DATA.get(data)) is None:
        return None
    table = "Table 3, test"
    if any(config.zoneout):
        row = "UR, zoneout" if config.core == "lstm" else "UR, GRU, zoneout"
        values = {"UR": TABLE3[row][name]}
    elif (name, config.core) in TABLE2:
        table, values = "Table 2, best validation", TABLE2[name, config.core]
    elif config.core == "lstm":
        values = {mechanism: TABLE3[mechanism][name] for mechanism in ("standard", "UR")}
    else:
        return None
    return Reference(f"{table} accuracy on {name}, %", values)


def _language(config: Config) -> Reference | None:
    named = ("data", "level", "min_count", "vocabulary")  # fewer symbols have a lower perplexity
    if [getattr(config.task, name) for name in named] != ["wikitext103", "word", 1, None]:
        return None
    values = {name: test for name, (_, test) in PERPLEXITIES.items()}
    return Reference("Table 6a, test perplexity on WikiText-103", values)
