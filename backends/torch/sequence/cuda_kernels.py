"""A layer over a sequence on CUDA by gatecore's kernels, with torch's memory and streams.

They need the driver, NVRTC and cuBLAS, which torch brings or a wheel has, and not CuPy. Products
have the precision of those of ``torch.nn.LSTM``, by ``torch.backends.cudnn.allow_tf32``.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.layout import slot_rows
from gatecore.backends.common.signature import signature
from gatecore.backends.cuda import selftest, support
from gatecore.backends.cuda.steps import saved_shapes
from gatecore.backends.torch.sequence.call import Call, cell_of
from gatecore.backends.torch.sequence.cuda_device import CudaDevice
from gatecore.backends.torch.sequence.cuda_engine import Engine, Plan
from gatecore.backends.torch.sequence.implementation import (
    DTYPES,
    Gradients,
    OperatorImplementation,
    resolved,
)
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.cells import Cell

_split: Any = torch.split_with_sizes_copy  # torch declares that it returns nothing


class Engines:
    """An engine for each GPU, made and tested at the first use; ``device`` makes a CudaDevice."""

    def __init__(self, device: Callable[[int], Any]) -> None:
        self._device, self._lock = device, threading.RLock()
        self._engines: dict[int, Engine | str] = {}  # or the reason why there is none

    def engine(self, index: int, cell: Cell, dtype: torch.dtype) -> Engine:
        """The engine of a GPU, with the kernels of a cell; RuntimeError if they cannot run on it.

        Whoever calls the operator need not have asked before, as a saved graph does not.
        """
        reason, engine = self.unsupported(index, cell, dtype), self._engines.get(index)
        if reason is not None or not isinstance(engine, Engine):
            raise RuntimeError(f"the CUDA kernels cannot run: {reason}")
        return engine

    def unsupported(self, index: int, cell: Cell, dtype: torch.dtype) -> str | None:
        """Why the kernels of a cell cannot run on a GPU; None if they can, and have been loaded."""
        engine = self._engines.get(index)
        if isinstance(engine, str):
            return engine
        if engine is not None and engine.loaded(cell, dtype):
            return None
        device = self._device(index)
        with self._lock, _disable_current_modes(), device.current():
            if device.capturing():
                return ("a CUDA graph is being captured and the kernels are not loaded: call the "
                        "layer once before")  # fmt: skip
            if index not in self._engines:
                self._engines[index] = _tested(device)
            engine = self._engines[index]
            if isinstance(engine, str):
                return engine
            try:
                engine.functions(cell, dtype)
            except (RuntimeError, ValueError) as error:
                return str(error)
            return None

    def release(self) -> None:
        """Free the memory and the graphs that are kept for later calls."""
        for engine in list(self._engines.values()):
            if isinstance(engine, Engine):
                engine.release()


ENGINES = Engines(CudaDevice)


class CudaKernels(OperatorImplementation):
    """The kernels, with a product and a launch a time step; as one graph where it ``replays``."""

    name, device = "fused", "cuda"
    completes_calls = True

    def __init__(self, replays: bool = True) -> None:
        self._replays = replays

    @functools.cached_property
    def operator(self) -> "CudaKernels":
        """The implementation without graphs, which a capture may contain."""
        return CudaKernels(replays=False)

    def _unsupported(self, call: Call) -> str | None:
        (time, batch, _), cell, dtype = call.x.shape, call.cell, DTYPES[call.x.dtype]
        reason = support.unsupported(cell, (time, batch), dtype)
        if reason is not None:
            return reason
        kind = signature(cell.kind, cell.mechanism)
        return _device_unsupported(_index(call.x), kind, cell.hidden_size, dtype)

    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        with no_autocast(call.x.device.type):
            return forward(_engine(call), call, save_for_backward, self._replays)

    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        with no_autocast(call.x.device.type):
            gradients = backward(_engine(call), call, saved, d_outputs, d_states, wrt_x,
                                 self._replays)  # fmt: skip
        names = [*(["x"] if wrt_x else []), *call.params]
        states = by_state("state", [None] * len(call.states))
        return [gradients[name] for name in (*names, *states)]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        time, batch, _ = call.x.shape
        return [*saved_shapes(call.cell, (time, batch))]


def _device_unsupported(index: int, kind: str, hidden_size: int, dtype: str) -> str | None:
    return ENGINES.unsupported(index, cell_of(kind, 1, hidden_size), getattr(torch, dtype))


# evaluated while torch.compile traces, as torch.compiler.assume_constant_result does
_device_unsupported._dynamo_marked_constant = True  # type: ignore[attr-defined]


def release() -> None:
    """Free the memory and the graphs that are kept for later calls."""
    ENGINES.release()


def _index(x: Tensor) -> int:
    return x.device.index or 0


def _engine(call: Call) -> Engine:
    return ENGINES.engine(_index(call.x), call.cell, call.x.dtype)


def forward(engine: Engine, call: Call, save: bool, keep: bool) -> list[Tensor]:
    """Outputs and last states, then the saved tensors if they are to be saved.

    ``keep`` keeps a plan for later calls.
    """
    cell, x, new = call.cell, resolved("x", call.x), call.x.new_empty
    time, batch, _ = x.shape
    params, fields = _params(call, call.params), _fields(call)
    states = [_checked("state", state, (batch, cell.hidden_size), x) for state in call.states]
    outputs = [new((time, batch, cell.hidden_size)) for _ in range(call.num_outputs)]
    with engine.lock, engine.device.current():
        plan = engine.plan(cell, x, keep)
        operand, logits, *_ = saved = [new(shape) for shape in plan.saved[save]]
        torch.cat((x, plan.tail), 2, out=operand[..., : plan.projected] if save else operand)
        _pack(plan, params)
        plan.multiply("project, saved" if save else "project", operand, plan.packed, logits)
        _start(plan.states, states, call)
        fields["bias_n"] = params.get("bias_n")
        fields |= by_state("output", outputs)
        fields |= _saved_fields(cell, saved) if save else {"logits": logits}
        plan.run("forward", fields)
        last = [state.clone() for state in plan.last]
    return [*outputs, *last, *(saved if save else ())]


def backward(
    engine: Engine, call: Call, saved: Sequence[Tensor], d_outputs: Gradients,
    d_states: Gradients, wrt_x: bool, keep: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients by the names of the parameters, ``x`` if ``wrt_x``, ``state_hidden`` …"""
    cell, x, new = call.cell, call.x, call.x.new_empty
    time, batch, _ = x.shape
    full, last = (time, batch, cell.hidden_size), (1, batch, cell.hidden_size)
    names = {"weight_hh": True, "weight_ih": wrt_x, "bias_n": "bias_n" in call.params}
    params, fields = _params(call, (name for name in names if names[name])), _fields(call)
    d_logits = new((time, batch, cell.rows))
    d_state_candidate = new(full) if cell.core == "gru" else None
    fields |= by_state("d_output", [_checked("d_output", d, full, x) for d in d_outputs])
    fields |= {"d_logits": d_logits, "d_state_candidate": d_state_candidate,
               "bias_n": params.get("bias_n"), **_saved_fields(cell, saved)}  # fmt: skip
    d_last = [_checked("d_state", d, last, x) for d in d_states]
    with engine.lock, engine.device.current():
        plan = engine.plan(cell, x, keep)
        plan.weights.copy_(params["weight_hh"])
        running = [plan.arrays[name] for name in ("d_hidden", "d_cell")[: len(d_last)]]
        for array, d in zip(running, d_last, strict=True):
            array.zero_() if d is None else array.copy_(d[0])
        d_product = plan.arrays["d_state"].zero_()
        plan.run("backward", fields)
        gradients = _weights(plan, call, d_logits, d_state_candidate, saved[0])
        if call.states:
            d_initial = [running[0] + d_product, *(array.clone() for array in running[1:])]
            gradients |= by_state("state", d_initial)
        if wrt_x:
            gradients["x"] = new(x.shape)
            plan.multiply("inputs", d_logits, params["weight_ih"], gradients["x"])
    if call.resets is not None:
        for d in d_initial if call.states else ():
            d.masked_fill_(call.resets[0].unsqueeze(1), 0)
    return gradients


def _weights(plan: Plan, call: Call, d_logits: Tensor, d_state_candidate: Tensor | None,
             operand: Tensor) -> dict[str, Tensor]:  # fmt: skip
    """The gradients of the parameters, from one product with the operand (input | 1 | state)."""
    cell, new, width = call.cell, call.x.new_empty, operand.shape[-1]
    d_weights = new((cell.rows, width))
    plan.multiply("weights", d_logits, operand, d_weights)
    weight_ih, bias, _, weight_hh, _ = _split(d_weights, plan.columns, 1)
    gradients = {"weight_ih": weight_ih, "bias": bias.view(-1), "weight_hh": weight_hh}
    if d_state_candidate is not None:  # the GRU's U h + b_n is not added to the input's part
        d_weights = new((cell.hidden_size, width))
        plan.multiply("candidates", d_state_candidate, operand, d_weights)
        _, bias, _, candidate, _ = _split(d_weights, plan.columns, 1)
        weight_hh[slot_rows(cell)["candidate"]] = candidate
        gradients["bias_n"] = bias.view(-1)
    gradients["bias_hh"] = gradients["bias"]
    return gradients


def _pack(plan: Plan, params: Mapping[str, Tensor]) -> None:
    """The parameters into the plan's buffers, and the two biases into one."""
    plan.weights.copy_(params["weight_hh"])
    plan.input_weights.copy_(params["weight_ih"])
    if "bias_hh" in params:
        torch.add(params["bias"], params["bias_hh"], out=plan.bias)
    else:
        plan.bias.copy_(params["bias"])


def _start(buffers: list[Tensor], states: Sequence[Tensor], call: Call) -> None:
    """The initial states, which are zeros if there are none, into their buffers."""
    for k, buffer in enumerate(buffers):
        buffer.copy_(states[k]) if states else buffer.zero_()
        if states and call.resets is not None:
            buffer.masked_fill_(call.resets[0].unsqueeze(1), 0)


def _params(call: Call, names: Iterable[str]) -> dict[str, Tensor]:
    """The parameters of these names, contiguous."""
    shapes, params = _shapes(call.cell), call.params
    return {name: _checked(name, params[name], shapes[name], call.x) for name in names}


@functools.lru_cache(maxsize=256)
def _shapes(cell: Cell) -> dict[str, tuple[int, ...]]:
    shapes = cell.parameter_shapes()
    return {**shapes, "bias_hh": shapes["bias"]}


def _fields(call: Call) -> dict[str, Any]:
    """The kernels' arguments that both passes read, but for the parameters."""
    steps, x = call.x.shape[:2], call.x
    fields: dict[str, Any] = {}
    if call.resets is not None:
        fields["resets"] = _checked("resets", call.resets, steps, x, torch.bool)
    if call.zoneout is not None:
        shape = (*steps, call.cell.hidden_size)
        fields |= zoneout_fields(tuple(
            _checked("zoneout mask", z, shape, x) if isinstance(z, Tensor) else z
            for z in call.zoneout
        ))  # fmt: skip
    return fields


def _saved_fields(cell: Cell, saved: Sequence[Tensor]) -> dict[str, Tensor]:
    operand, logits, *rest = saved
    names = ["ordered"] if cell.mechanism.activation == "cumax" else []
    names += {"lstm": ["saved_cell"], "gru": ["state_candidate"]}.get(cell.core, [])
    return {"operand": operand, "logits": logits, **dict(zip(names, rest, strict=True))}


def _checked(name: str, value: Tensor | None, shape: Sequence[int], like: Tensor,
             dtype: torch.dtype | None = None) -> Any:  # fmt: skip
    """``value`` contiguous in the memory of the GPU of ``like``; None stays."""
    if value is None:
        return None
    dtype = dtype or like.dtype
    if value.shape == shape and value.dtype is dtype and value.device == like.device:
        if (  # what is true of most: it costs less than `resolved`
            not value.storage_offset() and value.is_contiguous() and not value.is_neg()
            and value.data_ptr() and value.untyped_storage().nbytes() >= value.nbytes
        ):  # fmt: skip
            return value
        return resolved(name, value).contiguous()
    raise ValueError(f"{name} must be {dtype} of shape {tuple(shape)} on {like.device}, got "
                     f"{value.dtype} of shape {tuple(value.shape)} on {value.device}")  # fmt: skip


def _tested(device: Any) -> Engine | str:
    """The engine of the current device, or why its kernels do not work."""
    if reason := support.device_unsupported(device.capability()):
        return reason
    try:
        engine = Engine(device)
    except (OSError, RuntimeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    with torch.inference_mode(False), torch.no_grad():
        reason = selftest.failure(functools.partial(_run, engine))
    return reason or engine


def _run(engine: Engine, params: Any, x: np.ndarray, d_output: np.ndarray) -> list[np.ndarray]:
    """The self-test's sequence on an engine's device."""
    where = torch.device(engine.device.kind, engine.device.index)
    x_, d = (torch.from_numpy(value).to(where) for value in (x, d_output))
    call = Call(selftest.CELL, x_, {k: torch.from_numpy(p).to(where) for k, p in params.items()})
    output, *rest = forward(engine, call, save=True, keep=True)
    saved = rest[len(call.cell.state_names) :]
    gradients = backward(engine, call, saved, [d], [None, None], wrt_x=True, keep=True)
    results = output, gradients["x"], *(gradients[name] for name in params)
    return [result.cpu().numpy() for result in results]
