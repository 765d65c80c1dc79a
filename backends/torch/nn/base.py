"""The settings and parameters that recurrent layers and cells have in common."""

import warnings
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from gatecore import _checks, mechanisms
from gatecore.backends.common.signature import signature
from gatecore.backends.torch.nn.checkpoint import Stateful
from gatecore.backends.torch.nn.parameters import initialise, merge_biases
from gatecore.backends.torch.nn.scriptable import scriptable
from gatecore.cells import CELLS, GAINS, Cell
from gatecore.mechanisms import Mechanism

State = TypeVar("State", Tensor, tuple[Tensor, Tensor])


class RecurrentModule(Stateful, Generic[State]):
    """A module with a mechanism, zoneout, and torch's two biases, of which it may train one."""

    layer_norm = False  # of modules that earlier versions pickled

    def __init__(self, mechanism: str | Mechanism, zoneout: Any, two_biases: bool,
                 layer_norm: bool) -> None:  # fmt: skip
        super().__init__()
        self.mechanism = mechanisms.mechanism(mechanism)
        self.zoneout = zoneout_probabilities(CELLS[self.core], zoneout)
        self.two_biases = _checks.flag("two_biases", two_biases)
        self.layer_norm = _checks.flag("layer_norm", layer_norm)
        self._cells: list[Cell] = []
        # of the parameters of each layer and direction, by names without suffix
        self._names: list[dict[str, str]] = []

    def _unquantized(self, qconfig: Any) -> None:
        warnings.warn(
            f"torch.ao.quantization leaves {type(self).__name__} in its dtype: use .bfloat16(), or "
            "torch's layer with the state_dict of a torch-compatible mechanism",
            stacklevel=3,
        )

    qconfig = property(fset=_unquantized)  # torch.ao sets it on every module of a model

    def _register(self, cell: Cell, bias: bool, proj_size: int = 0, suffix: str = "",
                  **factory: Any) -> None:  # fmt: skip
        """Add a cell and its parameters, uninitialized."""
        rows, width = cell.rows, cell.hidden_size
        shapes = {"weight_ih": (rows, cell.input_size), "weight_hh": (rows, proj_size or width)}
        biases = {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
        projection = {"weight_hr": (proj_size, width)} if proj_size else {}
        norms = {name: shape for name, shape in cell.parameter_shapes().items()
                 if name in GAINS or (bias and name == "norm_c_bias")}  # fmt: skip
        if not cell.recurrent:
            shapes.pop("weight_hh"), biases.pop("bias_hh", None)
        self._cells.append(cell)
        self._names.append({})
        # in torch's order
        for name, shape in {**shapes, **biases, **projection, **norms}.items():
            self._names[-1][name] = full_name = name + suffix
            value = torch.empty(shape, **factory)
            if name == "bias_hh" and not (self.two_biases or "bias_n" in cell.parameter_shapes()):
                self.register_buffer(full_name, value)
            else:
                self.register_parameter(full_name, nn.Parameter(value))

    def _weights(self, k: int) -> dict[str, Any]:
        """The parameters of layer and direction ``k`` by their names without the suffix."""
        return {short: self._parameter(name) for short, name in self._names[k].items()}

    def _parameter(self, name: str) -> Any:
        """The attribute of this name; faster than getattr where it is not parametrized."""
        value = self._parameters.get(name)
        return getattr(self, name) if value is None else value

    def reset_parameters(self) -> None:
        """Re-initialize all parameters, from torch's default generator."""
        for k, cell in enumerate(self._cells):
            initialise(cell, self._weights(k))
        self._record_mechanism()

    def _checked_state(self, state_dict: dict[str, Any], prefix: str,
                       metadata: dict[str, Any]) -> dict[str, Any]:  # fmt: skip
        state = super()._checked_state(state_dict, prefix, metadata)
        for cell, names in zip(self._cells, self._names, strict=True):
            biases = [prefix + names[name] for name in ("bias_ih", "bias_hh") if name in names]
            if not self.two_biases and len(biases) == 2 and all(n in state for n in biases):
                merged = merge_biases(cell, *(state[name] for name in biases))
                state |= dict(zip(biases, merged, strict=True))
        return state

    def __prepare_scriptable__(self) -> nn.Module:
        return scriptable(self)

    @property
    def _signature(self) -> str:
        return signature(self._cells[0].kind, self.mechanism)

    def _settings_repr(self) -> str:
        text = f", mechanism={self.mechanism.name!r}{', layer_norm=True' * self.layer_norm}"
        if not self._cells[0].recurrent:
            text += f", candidate={self._cells[0].candidate!r}"
        return text + (f", zoneout={self.zoneout}" if any(self.zoneout) else "")


def check_tensors(name: str, *values: Any) -> None:
    """Raise TypeError unless the values of this argument are tensors."""
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {type(value).__name__}")


def zoneout_probabilities(cell: type[Cell], zoneout: Any) -> tuple[float, ...]:
    """A probability for each part of the cell's state, in the order (cell, hidden)."""
    count, zoneout = len(cell.state_names), _checks.plain(zoneout)
    values = tuple(zoneout) if isinstance(zoneout, tuple | list) else (zoneout,) * count
    if len(values) != count:
        expected = "a number or a pair (cell, hidden)" if count > 1 else "a number"
        raise ValueError(f"zoneout must be {expected}, got {zoneout!r}")
    return tuple(_checks.probability("zoneout", value) for value in values)


def zoneout_mask(probability: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A random mask in the dtype of ``like``: 1, with this probability, keeps the old value."""
    return (torch.rand(shape, device=like.device) < probability).to(like.dtype)


def round_states(states: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """States in the output's dtype but for the last (c, or h): 8 bits would spoil its long sums."""
    return (*(part.to(dtype) for part in states[:-1]), states[-1])
