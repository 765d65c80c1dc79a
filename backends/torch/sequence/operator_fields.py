"""The fields of the operators: names, types, and which of them have a derivative."""

from typing import Any, NamedTuple

from torch import Tensor

from gatecore.backends.torch.sequence.call import Call, active, cell_of, signature

Values = dict[str, Any]  # of an operator's fields, by name


class Field(NamedTuple):
    """An argument of an operator; ``type`` as torch's schemas write it."""

    name: str
    type: str
    differentiable: bool = False


_PARAMETERS = ("weight_ih", "weight_hh", "bias", "bias_n")
STATES = ("hidden", "cell")
_CALL = (
    Field("signature", "str"),
    Field("x", "Tensor", True),
    Field("weight_ih", "Tensor", True),
    Field("weight_hh", "Tensor", True),
    Field("bias", "Tensor", True),
    Field("bias_n", "Tensor?", True),
    Field("hidden", "Tensor", True),
    Field("cell", "Tensor?", True),
    Field("resets", "Tensor?"),
    Field("cell_mask", "Tensor?"),  # zoneout masks, in place of probabilities
    Field("hidden_mask", "Tensor?"),
    Field("cell_zoneout", "float"),
    Field("hidden_zoneout", "float"),
    Field("return_cells", "bool"),
    Field("impl", "str"),
)
FORWARD = (*_CALL, Field("save_for_backward", "bool"))
BACKWARD = (
    *_CALL,
    Field("saved", "Tensor[]"),
    Field("d_output", "Tensor?", True),
    Field("d_output_cell", "Tensor?", True),
    Field("d_hidden", "Tensor?", True),
    Field("d_cell", "Tensor?", True),
    Field("wrt_x", "bool"),
)


def schema(fields: tuple[Field, ...]) -> str:
    """The operator's schema."""
    return f"({', '.join(f'{field.type} {field.name}' for field in fields)}) -> Tensor[]"


def by_name(fields: tuple[Field, ...], values: tuple[Any, ...]) -> Values:
    """The operator's arguments by name."""
    return {field.name: value for field, value in zip(fields, values, strict=True)}


def in_order(fields: tuple[Field, ...], values: Values) -> tuple[Any, ...]:
    """The operator's arguments, or their gradients, in its order; None for those without."""
    return tuple(values.get(field.name) for field in fields)


def differentiable(fields: tuple[Field, ...], values: Values) -> list[str]:
    """Names of the tensors that have a gradient."""
    return [f.name for f in fields if f.differentiable and values.get(f.name) is not None]


def pack(call: Call, impl: str) -> Values:
    """The operators' common arguments, of a complete call."""
    values: Values = {
        "signature": signature(call.cell.core, call.cell.mechanism), "x": call.x, **call.params,
        **dict(zip(STATES, call.states, strict=False)), "resets": call.resets,
        "return_cells": call.return_cells, "impl": impl,
    }  # fmt: skip
    zoneout = (0.0, 0.0, *(call.zoneout or ()))[-2:]
    for state, amount in zip(("cell", "hidden"), zoneout, strict=True):
        mask = isinstance(amount, Tensor)
        values[f"{state}_mask"] = amount if mask else None
        values[f"{state}_zoneout"] = 0.0 if mask else float(amount)
    return values


def unpack(values: Values) -> Call:
    """The call of an operator's arguments: the inverse of :func:`pack`."""
    x, weight_hh = values["x"], values["weight_hh"]
    cell = cell_of(values["signature"], int(x.shape[2]), int(weight_hh.shape[1]))
    zoneout = tuple(
        values[f"{state}_zoneout"] if (mask := values[f"{state}_mask"]) is None else mask
        for state in ("cell", "hidden")[-len(cell.state_names) :]
    )
    params = {name: values[name] for name in _PARAMETERS if values[name] is not None}
    states = tuple(values[name] for name in STATES if values[name] is not None)
    rest = active(zoneout), values["return_cells"]
    return Call(cell, x, params, states, values["resets"], *rest)
