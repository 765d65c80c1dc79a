"""A model as data, made of its parts, and the batches that train it."""

import dataclasses
import itertools
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array
from gatecore.cells import CELLS, Cell
from gatecore.contracts.memory import Core

INPUTS = ("one_hot", "embedding", "dense")
LOSSES = ("cross_entropy", "squared_error")


class Batch(NamedTuple):
    """One batch of sequences, as NumPy arrays; time comes first.

    ``inputs`` are symbols (time, batch), integers in [0, input_size), or -1 for none (a vector of
    zeros) of one-hot input; or features (time, batch, input_size). ``targets`` are for the
    cross-entropy integers (steps read, batch) in [0, output_size), or -1 where nothing is scored;
    for the squared error (steps read, batch, output_size). Where ``resets``, bool (time, batch), is
    true, the state is zeroed before that step.

    >>> tokens = np.array([[0, 1], [2, 3], [1, 0]])  # 2 sequences of 3 steps
    >>> Batch(tokens, targets=np.roll(tokens, -1, axis=0)).resets is None
    True
    """

    inputs: Array
    targets: Array
    resets: Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """The input of a model: symbols, one-hot or embedded, or features."""

    _acts: ClassVar[_checks.Acts] = {"locked_dropout": (lambda spec: spec.embedding_dropout,
                                                        "its embedding_dropout is 0")}  # fmt: skip

    input: str
    input_size: int
    embedding_size: int | None = None
    embedding_dropout: float = 0.0
    locked_dropout: bool = False

    def __post_init__(self) -> None:
        _checks.choice("input", self.input, INPUTS)
        _checks.check_fields(self, _checks.integer, "input_size", "embedding_size")
        _checks.check_fields(self, _checks.probability, "embedding_dropout", below_one=True)
        _checks.check_fields(self, _checks.flag, "locked_dropout")
        for name in ("embedding_size", "embedding_dropout", "locked_dropout"):
            if getattr(self, name) and self.input != "embedding":
                raise ValueError(f"{name} is for input='embedding', not {self.input!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The layers between a model's core and its output: ReLU layers and an output layer."""

    _acts: ClassVar[_checks.Acts] = {"dropout": (lambda spec: spec.head,
                                                 "its head has no ReLU layer")}  # fmt: skip

    output_size: int
    head: tuple[int, ...] = ()
    dropout: float = 0.0
    read: int | None = None
    tied: bool = False

    def __post_init__(self) -> None:
        _checks.check_fields(self, _checks.integer, "output_size", "read")
        _checks.check_fields(self, _checks.integers, "head")
        _checks.check_fields(self, _checks.probability, "dropout", below_one=True)
        _checks.check_fields(self, _checks.flag, "tied")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a model's output; an adaptive softmax is an output layer, too."""

    loss: str = "cross_entropy"
    adaptive: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _checks.choice("loss", self.loss, LOSSES)
        if self.adaptive is None:
            return
        _checks.check_fields(self, _checks.integers, "adaptive")
        if self.loss != "cross_entropy":
            raise ValueError(f"adaptive is an output and a loss of its own: loss={self.loss!r} "
                             "cannot be too")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec(Loss, Head, Core, Input):
    """Input, recurrent layers, head and loss: a model that every backend can build.

    ``input`` is "one_hot", "embedding" or "dense", of ``input_size`` symbols or features; an
    embedding has the width ``embedding_size``, by default ``hidden_size``. ``embedding_dropout`` is
    the probability in [0, 1) that an output of the embedding is dropped in training; if
    ``locked_dropout``, a feature of a sequence is dropped at all steps of a batch or at none.
    ``output_size`` is the number of classes, or of values to predict.

    ``core`` is "lstm", "gru", "minimal" or "mingru", of one or more ``layers``; or "rmc", "dnc" or
    "rma", which have an external memory of sizes ``memory`` (None, here or there: the defaults) and
    no zoneout, and need the torch backend. Its gates have the ``mechanism``. ``hidden_size`` is the
    units of a layer; of a slot of "rmc"; of the controller of "dnc", and of each of "rma"'s.
    ``zoneout`` has the probabilities in [0, 1] that a unit keeps its cell and its hidden value at a
    training step; all cores but the LSTM use the second. Evaluation takes the expectation. With
    ``two_biases`` each layer of the first three cores has a second trained bias, ``bias_hh``, which
    starts at zero and is added to the first: under Adam that doubles their learning rate (Appendix
    D.5). With ``layer_norm`` the first four cores have layer normalization (Appendix D.3;
    :class:`gatecore.cells.Cell` describes it). The ``candidate`` of "mingru" is "linear", the
    default, or "tanh".

    With ``residual`` each of the layers, whose core has no memory, is within a block
    x + V layer(LN(x)) + b of width ``hidden_size``; LN is a layer normalization with gain and bias,
    and one follows the last block. A linear layer projects the input to that width first, unless it
    is an embedding of that width.

    ``head`` has the widths of ReLU layers between the last recurrent layer and the output,
    ``dropout`` the probability in [0, 1) that an output of one is dropped in training. The head
    reads the last ``read`` steps, by default all of them. If ``tied``, the output layer's weight is
    the embedding, initialized as an output layer. ``loss`` is "cross_entropy" or "squared_error".
    ``adaptive`` is, in place of an output layer, ``torch.nn.AdaptiveLogSoftmaxWithLoss`` (Grave et
    al. 2017), with clusters that end at these classes, most frequent first. It needs the torch
    backend, and no accuracy is measured. With ``streams`` the model carries its state: each batch
    holds this many sequences and continues those of the batch before, into which no gradients flow;
    by default every batch starts from zeros. ValueError or TypeError names a wrong field, what
    came, and what was expected.

    >>> spec = ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=8)
    >>> spec.gate_shape, spec.initial(seed=0)["head.0.weight"].shape
    ((1, 8), (4, 8))
    """

    _acts: ClassVar[_checks.Acts] = {"zoneout": (lambda spec: any(spec.state_zoneout),
                                                 "its core has no cell state")}  # fmt: skip

    zoneout: tuple[float, float] = (0.0, 0.0)
    streams: int | None = None
    two_biases: bool = False

    def __post_init__(self) -> None:
        for part in (Input, Core, Head, Loss):
            part.__post_init__(self)
        both = _checks.entries("zoneout", self.zoneout, length=2)
        zoneout = tuple(_checks.probability("zoneout", amount) for amount in both)
        object.__setattr__(self, "zoneout", zoneout)
        if self.memory is not None and any(self.zoneout):
            raise ValueError(f"zoneout={self.zoneout}: core={self.core!r} has none")
        _checks.check_fields(self, _checks.integer, "streams")
        _checks.check_fields(self, _checks.flag, "two_biases")
        if self.two_biases and not (self.memory is None and CELLS[self.core].recurrent):
            raise ValueError(f"two_biases=True: core={self.core!r} has one bias; leave it at False")
        if self.tied:
            self._check_tied()
        if self.adaptive is not None:
            self._check_adaptive(self.adaptive)

    @property
    def features(self) -> int:
        """Width of the layers' input."""
        if self.input == "embedding":
            return self.embedding_size or self.hidden_size
        return self.input_size

    @property
    def projected(self) -> bool:
        """Whether a linear layer brings the input to the width of the residual blocks."""
        return self.residual and not (self.input == "embedding" and
                                      self.features == self.hidden_size)  # fmt: skip

    @property
    def state_zoneout(self) -> tuple[float, ...]:
        """The probabilities of a layer's state: of the cell and hidden state, or of the latter."""
        return self.zoneout[-len(self.state_names) :]

    def _check_tied(self) -> None:
        if self.input != "embedding":
            raise ValueError(f"tied is for input='embedding', not {self.input!r}")
        sizes = {"output_size": (self.output_size, self.input_size),
                 "embedding_size": (self.features, self.last_width)}  # fmt: skip
        for name, (size, needed) in sizes.items():
            if size != needed:
                raise ValueError(f"tied needs {name}={needed} for one shared matrix, got {size}")

    def _check_adaptive(self, ends: tuple[int, ...]) -> None:
        if not ends or list(ends) != sorted(set(ends)) or ends[-1] >= self.output_size:
            raise ValueError("adaptive must be ascending sizes below "
                             f"output_size={self.output_size}, got {ends}")  # fmt: skip
        if self.tied:
            raise ValueError("adaptive is an output and a loss of its own: tied cannot be too")
        if self.last_width // 4 ** len(ends) < 1:
            raise ValueError(f"adaptive={ends} needs {4 ** len(ends)} units or more before it, got "
                             f"{self.last_width}")  # fmt: skip

    @property
    def last_width(self) -> int:
        """Width of the output layer's input."""
        return [self.core_output_size, *self.head][-1]

    def cells(self) -> list[Cell]:
        """The recurrent layers, first to last; none of a core with a memory, which torch builds."""
        if self.memory is not None:
            return []
        first = self.hidden_size if self.residual else self.features
        widths = [first] + [self.hidden_size] * (self.layers - 1)
        return [CELLS[self.core](w, self.hidden_size, self.mechanism, self.layer_norm,
                                 **self.cell_fields) for w in widths]  # fmt: skip

    def head_widths(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each linear layer of the head, the output layer last.

        Where the output is adaptive, there is no output layer here.
        """
        output = () if self.adaptive else (self.output_size,)
        return list(itertools.pairwise([self.core_output_size, *self.head, *output]))

    def head_names(self) -> list[tuple[str, str]]:
        """Names of weight and bias of each linear layer of the head, the output layer last."""
        count = len(self.head_widths())
        names = [(f"head.{k}.weight", f"head.{k}.bias") for k in range(count)]
        if self.tied:
            names[-1] = ("embedding.weight", names[-1][1])
        return names

    def adaptive_shapes(self) -> dict[str, tuple[int, int]]:
        """Shapes (outputs, inputs) of the adaptive softmax's matrices, by torch's names.

        Cluster i projects to a (4 to the i+1)-th of the width. Empty unless ``adaptive`` is given.
        """
        if self.adaptive is None:
            return {}
        ends, width = [*self.adaptive, self.output_size], self.last_width
        shapes = {"head.weight": (ends[0] + len(ends) - 1, width)}
        for i, (start, end) in enumerate(itertools.pairwise(ends)):
            inner = width // 4 ** (i + 1)
            shapes |= {f"tail.{i}.0.weight": (inner, width)}
            shapes |= {f"tail.{i}.1.weight": (end - start, inner)}
        return shapes

    def carried(self) -> dict[str, tuple[int, int]]:
        """Shapes (streams, hidden) of the state carried from batch to batch, by name.

        Layer k has ``k.h``, and ``k.c`` if it is an LSTM. Empty unless ``streams`` is given, and
        for a core with a memory, whose state torch's learner knows.
        """
        if self.streams is None or self.memory is not None:
            return {}
        shape = (self.streams, self.hidden_size)
        return {f"{k}.{name}": shape for k in range(self.layers) for name in self.state_names}

    def initial(self, seed: int) -> dict[str, np.ndarray]:
        """Initial parameters by name, float64: the same draw on every backend.

        Embeddings are N(0, 1); a linear layer's weights and biases U(−1/√inputs, 1/√inputs), also
        where the weight is a tied embedding; recurrent layers as
        :meth:`gatecore.cells.Cell.init`; the gains of residual blocks are 1, and the biases of
        their normalizations 0. Torch's learner adds those of a core with a memory.
        """
        rng = np.random.default_rng(_checks.integer("seed", seed, 0, _checks.LARGEST_SEED))
        params: dict[str, Any] = {}

        def uniform(inputs: int, *shape: int) -> np.ndarray:
            return rng.uniform(-(inputs**-0.5), inputs**-0.5, shape)

        def linear(inputs: int, outputs: int, weight: str, bias: str) -> None:
            params[weight] = uniform(inputs, outputs, inputs)
            params[bias] = uniform(inputs, outputs)

        if self.input == "embedding":
            params["embedding.weight"] = rng.standard_normal((self.input_size, self.features))
        if self.projected:
            linear(self.features, self.hidden_size, "projection.weight", "projection.bias")
        for k, cell in enumerate(self.cells()):
            layer = cell.init(rng)
            if self.two_biases:
                layer["bias_hh"] = np.zeros_like(layer["bias"])
            params |= {f"layers.{k}.{name}": value for name, value in layer.items()}
            if self.residual:
                width, block = self.hidden_size, f"blocks.{k}"
                params |= {f"{block}.norm.weight": np.ones(width),
                           f"{block}.norm.bias": np.zeros(width)}  # fmt: skip
                linear(width, width, f"{block}.linear.weight", f"{block}.linear.bias")
        if self.residual:
            params |= {"norm.weight": np.ones(self.hidden_size),
                       "norm.bias": np.zeros(self.hidden_size)}  # fmt: skip
        for names, widths in zip(self.head_names(), self.head_widths(), strict=True):
            linear(*widths, *names)
        for name, (outputs, inputs) in self.adaptive_shapes().items():
            params[f"adaptive.{name}"] = uniform(inputs, outputs, inputs)
        return params
