"""What a task asks of a backend: the model, as data, and the batches that train it."""

import dataclasses
import itertools
from typing import Any, NamedTuple

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import CORES, Mechanism, mechanism

INPUTS = ("one_hot", "embedding", "dense")
LOSSES = ("cross_entropy", "squared_error")


class Batch(NamedTuple):
    """One batch of sequences, as NumPy arrays; time comes first.

    Parameters
    ----------
    inputs : array
        Integers (time, batch) for one-hot and embedding input, else (time, batch, features).
    targets : array
        For the cross-entropy integers (steps read, batch), where -1 is not scored; for the
        squared error (steps read, batch, outputs).
    resets : bool array (time, batch), optional
        The state is zeroed before the steps where it is true.
    """

    inputs: Array
    targets: Array
    resets: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Input, recurrent layers, head and loss: a model that every backend can build.

    Parameters
    ----------
    input : {"one_hot", "embedding", "dense"}
    input_size : int
        Number of symbols, or of features for dense input.
    output_size, hidden_size : int
    core : {"lstm", "gru", "minimal"}
    mechanism : str or Mechanism
    layers : int
    embedding_size : int, optional
        Width of the embedding; default ``hidden_size``. Only for ``input="embedding"``.
    zoneout : (float, float)
        Probabilities that a unit keeps the old cell and the old hidden value at a training step;
        GRU and minimal cells use the second. At evaluation the expectation is taken.
    head : tuple of int
        Widths of ReLU layers between the last recurrent layer and the output.
    dropout : float
        Of the ReLU layers' outputs, while training.
    read : int, optional
        How many last steps the head reads; default all of them.
    loss : {"cross_entropy", "squared_error"}

    Raises
    ------
    ValueError, TypeError
        Naming the field, what came, and what was expected.
    """

    input: str
    input_size: int
    output_size: int
    hidden_size: int
    core: str = "lstm"
    mechanism: Mechanism | str = "UR"
    layers: int = 1
    embedding_size: int | None = None
    zoneout: tuple[float, float] = (0.0, 0.0)
    head: tuple[int, ...] = ()
    dropout: float = 0.0
    read: int | None = None
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        _checks.choice("input", self.input, INPUTS)
        _checks.choice("core", self.core, CORES)
        _checks.choice("loss", self.loss, LOSSES)
        for name in ("input_size", "output_size", "hidden_size", "layers"):
            _checks.integer(name, getattr(self, name))
        for name in ("embedding_size", "read"):
            if getattr(self, name) is not None:
                _checks.integer(name, getattr(self, name))
        for width in _tuple("head", self.head):
            _checks.integer("head", width)
        for amount in _tuple("zoneout", self.zoneout, length=2):
            _checks.probability("zoneout", amount)
        _checks.probability("dropout", self.dropout, below_one=True)
        if self.embedding_size is not None and self.input != "embedding":
            raise ValueError(f"embedding_size is for input='embedding', not {self.input!r}")
        object.__setattr__(self, "mechanism", mechanism(self.mechanism))
        object.__setattr__(self, "zoneout", tuple(self.zoneout))
        object.__setattr__(self, "head", tuple(self.head))
        self.cells()

    @property
    def features(self) -> int:
        """Width of what the first recurrent layer receives."""
        return (
            (self.embedding_size or self.hidden_size)
            if self.input == "embedding"
            else (self.input_size)
        )

    def cells(self) -> list[Cell]:
        """The recurrent layers, first to last."""
        widths = [self.features] + [self.hidden_size] * (self.layers - 1)
        return [CELLS[self.core](w, self.hidden_size, self.mechanism) for w in widths]

    def head_widths(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of the head, the output layer last."""
        widths = [self.hidden_size, *self.head, self.output_size]
        return list(itertools.pairwise(widths))

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        """Initial parameters by name, float64: the same draw on every backend.

        Embeddings are N(0, 1); a linear layer's weights and biases U(−1/√inputs, 1/√inputs);
        recurrent layers as :meth:`gatecore.cells.Cell.init`.
        """
        rng = np.random.default_rng(_checks.integer("seed", seed, at_least=0))
        params: dict[str, Any] = {}
        if self.input == "embedding":
            params["embedding.weight"] = rng.standard_normal((self.input_size, self.features))
        for k, cell in enumerate(self.cells()):
            params |= {f"layers.{k}.{name}": value for name, value in cell.init(rng).items()}
        for k, (inputs, outputs) in enumerate(self.head_widths()):
            bound = inputs**-0.5
            params[f"head.{k}.weight"] = rng.uniform(-bound, bound, (outputs, inputs))
            params[f"head.{k}.bias"] = rng.uniform(-bound, bound, outputs)
        return params


def _tuple(name: str, value: Any, length: int | None = None) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple, got {type(value).__name__} {value!r}")
    if length is not None and len(value) != length:
        raise ValueError(f"{name} must have {length} entries, got {len(value)}")
    return tuple(value)
