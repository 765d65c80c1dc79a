"""Recurrent layers and cells for ``torch.jit.script``, which cannot compile the others' Python.

Where torch has the layer, it is torch's with the same parameters; else one of a few lines that call
the operator ``gatecore::sequence``. A saved script of the second kind is loaded where
``gatecore.backends.torch`` has been imported.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gatecore.backends.common.layout import slot_rows
from gatecore.backends.torch.nn.parameters import core_params
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.call import Call

_TORCH_SIZES = ("bias", "num_layers", "batch_first", "dropout", "bidirectional", "proj_size")


def scriptable(module: Any) -> nn.Module:
    """A module of the same parameters, buffers and results that torch.jit.script compiles.

    Raises RuntimeError for zoneout, ``return_cells``, hooks, a subclass's forward, reparametrized
    weights, layer normalization, and for projections and half precision where torch has no such
    layer.
    """
    tensors = dict(module._parameters) | dict(module._buffers)
    names = [name for names in module._names for name in names.values()]
    torch_layer: Any = getattr(nn, type(module).__name__, None)
    compatible = module.two_biases and module._torch_compatible and torch_layer
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    reason = (
        "zoneout" if any(module.zoneout)
        else "hooks" if hooks or getattr(module, "observers", ())
        else "a forward of its own" if not type(module).forward.__module__.startswith("gatecore.")
        else "return_cells=True" if getattr(module, "return_cells", False)
        else "reparametrized weights" if not all(name in tensors for name in names)
        else None if compatible
        else "layer normalization" if module.layer_norm
        else "a projection" if getattr(module, "proj_size", 0)
        else "no recurrent weights" if not module._cells[0].recurrent
        else None if tensors[names[0]].dtype in (torch.float32, torch.float64)
        else "half precision"
    )  # fmt: skip
    if reason is not None:
        raise RuntimeError(f"{type(module).__name__} with {reason} cannot be compiled by "
                           "torch.jit.script: use torch.export, or torch.compile")  # fmt: skip
    if compatible:
        sizes = {name: getattr(module, name) for name in _TORCH_SIZES if hasattr(module, name)}
        if not sizes.get("proj_size"):
            sizes.pop("proj_size", None)  # a GRU has none
        result = torch_layer(module.input_size, module.hidden_size, **sizes, device="meta")
        for name in names:
            setattr(result, name, tensors[name])
        return result.train(module.training)
    is_cell, pair = not hasattr(module, "num_layers"), len(module._cells[0].state_names) > 1
    kind = (_PairCell if pair else _Cell) if is_cell else (_PairLayer if pair else _Layer)
    return kind(module).train(module.training)


class _Sequence(nn.Module):
    """In a module's place: TorchScript compiles ``forward``, Python goes on calling the module."""

    __jit_ignored_attributes__ = ("module",)

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.__dict__["module"] = module
        self._parameters, self._buffers = module._parameters, module._buffers
        cells = module._cells
        self.weights = [list(module._weights(k).values()) for k in range(len(cells))]
        self.signature = module._signature
        self.hidden_size, self.two_states = module.hidden_size, len(cells[0].state_names) > 1
        self.two_biases = module.two_biases
        self.directions = 2 if getattr(module, "bidirectional", False) else 1
        self.dropout = float(getattr(module, "dropout", 0.0))
        self.batch_first = bool(getattr(module, "batch_first", False))
        x = self.weights[0][0].new_zeros(1, 1, module.input_size)
        params = core_params(cells[0], module._weights(0), module.two_biases, x.dtype)
        rows = slot_rows(cells[0])["candidate"] if "bias_n" in params else slice(0, 0)
        self.candidate = [rows.start, rows.stop]  # of a GRU, whose second bias is also bias_n
        self.input_size = module.input_size
        self.single, self.double_ = (_implementation(cells[0], x, params, dtype)
                                     for dtype in (torch.float32, torch.float64))  # fmt: skip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["module"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["module"], name)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.__dict__["module"]._load_from_state_dict(*arguments)

    def train(self, mode: bool = True) -> Any:
        self.__dict__["module"].train(mode)
        return super().train(mode)

    def run(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """The outputs of all steps, and the last states (layers · directions, batch, hidden)."""
        if x.size(-1) != self.input_size:
            raise RuntimeError(f"input must have {self.input_size} features, got {x.size(-1)}")
        if x.size(0) == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        impl = self.double_ if x.dtype == torch.float64 else self.single
        if len(states) == 0:
            zeros = x.new_zeros(len(self.weights), x.size(1), self.hidden_size)
            states = [zeros, zeros] if self.two_states else [zeros]
        hidden: list[Tensor] = []
        cells: list[Tensor] = []
        for layer in range(len(self.weights) // self.directions):
            if layer > 0 and self.dropout > 0.0:
                x = nn.functional.dropout(x, self.dropout, self.training)
            outputs: list[Tensor] = []
            for direction in range(self.directions):
                k = layer * self.directions + direction
                weights = self.weights[k]
                bias, bias_n = self.biases(weights)
                cell: Tensor | None = None
                if self.two_states:
                    cell = states[1][k]
                results = torch.ops.gatecore.sequence(
                    self.signature, x.flip(0) if direction == 1 else x, weights[0], weights[1],
                    bias, bias_n, states[0][k], cell, None, None, None, 0.0, 0.0, False,
                    impl, torch.is_grad_enabled(),
                )  # fmt: skip
                outputs.append(results[0].flip(0) if direction == 1 else results[0])
                hidden.append(results[1])
                if self.two_states:
                    cells.append(results[2])
            x = torch.cat(outputs, -1)
        last = [torch.cat(hidden)]
        if self.two_states:
            last.append(torch.cat(cells))
        return [x] + last  # noqa: RUF005  TorchScript has no unpacking in lists

    def biases(self, weights: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The operator's bias and a GRU's ``bias_n``."""
        start, stop = self.candidate[0], self.candidate[1]
        if len(weights) == 2:
            zeros = weights[0].new_zeros(weights[0].size(0))
            return zeros, zeros[start:stop] if stop > 0 else None
        if stop == 0:
            return weights[2] + weights[3], None
        bias_n = weights[3][start:stop]
        if not self.two_biases:  # the other rows are 0
            return weights[2], bias_n
        rest = [weights[3][:start], torch.zeros_like(bias_n), weights[3][stop:]]
        return weights[2] + torch.cat(rest), bias_n

    def run_layout(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """:meth:`run` on inputs with ``batch_first`` or without a batch."""
        batched = x.dim() == 3
        if not batched:
            x, states = x.unsqueeze(1), [state.unsqueeze(1) for state in states]
        elif self.batch_first:
            x = x.transpose(0, 1)
        results = self.run(x, states)
        if not batched:
            return [result.squeeze(1) for result in results]
        return [results[0].transpose(0, 1) if self.batch_first else results[0]] + results[1:]  # noqa: RUF005

    def run_cell(self, x: Tensor, states: list[Tensor]) -> list[Tensor]:
        """The next states of a cell, from an input (batch, input) or (input,)."""
        batched = x.dim() == 2
        if not batched:
            x, states = x.unsqueeze(0), [state.unsqueeze(0) for state in states]
        last = self.run(x.unsqueeze(0), [state.unsqueeze(0) for state in states])[1:]
        return [state[0] if batched else state[0][0] for state in last]


class _PairLayer(_Sequence):
    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        results = self.run_layout(input, [] if hx is None else [hx[0], hx[1]])
        return results[0], (results[1], results[2])


class _Layer(_Sequence):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        results = self.run_layout(input, [] if hx is None else [hx])
        return results[0], results[1]


class _PairCell(_Sequence):
    def forward(self, input: Tensor,
                hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        results = self.run_cell(input, [] if hx is None else [hx[0], hx[1]])
        return results[0], results[1]


class _Cell(_Sequence):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self.run_cell(input, [] if hx is None else [hx])[0]


def _implementation(cell: Any, x: Tensor, params: dict[str, Tensor], dtype: torch.dtype) -> str:
    """The name of that which "auto" takes for tensors of this dtype."""
    typed = {name: value.to(dtype) for name, value in params.items()}
    return dispatch.choose("auto", Call(cell, x.to(dtype), typed).complete()).name
