"""A layer over a sequence on CUDA by gatecore's kernels, with torch's memory and streams.

They need the driver, NVRTC and cuBLAS, which torch brings or a wheel has, and not CuPy. Products
have the precision of those of ``torch.nn.LSTM``, by ``torch.backends.cudnn.allow_tf32``.
"""

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.signature import signature
from gatecore.backends.cuda import selftest, support
from gatecore.backends.cuda.steps import saved_shapes
from gatecore.backends.torch.sequence.call import Call, cell_of
from gatecore.backends.torch.sequence.cuda_device import CudaDevice
from gatecore.backends.torch.sequence.cuda_engine import Engine
from gatecore.backends.torch.sequence.cuda_plan import Plan
from gatecore.backends.torch.sequence.implementation import (
    DTYPES,
    Gradients,
    OperatorImplementation,
    contiguous,
)
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.cells import Cell


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
    cell, new = call.cell, call.x.new_empty
    time, batch, _ = call.x.shape
    x, params, fields = contiguous("x", call.x), _params(call, call.params), _fields(call)
    states = [_checked("state", state, (batch, cell.hidden_size), x) for state in call.states]
    outputs = [new((time, batch, cell.hidden_size)) for _ in range(call.num_outputs)]
    last = [new((1, batch, cell.hidden_size)) for _ in cell.state_names]
    direction = "forward, saved" if save else "forward"
    with engine.lock, engine.device.current():
        plan = engine.plan(cell, x, keep)
        operand, logits, *_ = saved = [new(shape) for shape in plan.saved[save]]
        fields |= {"bias_n": params.get("bias_n"), **by_state("output", outputs)}
        fields |= _saved_fields(cell, saved) if save else {"logits": logits}
        plan.arguments("forward", fields)
        _begin(plan, direction, x, operand, params, states, fields.get("resets"))
        plan.multiply(direction, operand.data_ptr(), plan.packed, logits.data_ptr())
        plan.run("forward")
        copies, launch = plan.copies("last")
        for (name, buffer), state in zip(plan.states.items(), last, strict=True):
            copies.set(name, state.data_ptr(), buffer)
        launch()
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
    d_outputs = [_checked("d_output", d, full, x) for d in d_outputs]
    d_last = [_checked("d_state", d, last, x) for d in d_states]
    fields |= {"bias_n": params.get("bias_n"), **by_state("d_output", d_outputs),
               **_saved_fields(cell, saved)}  # fmt: skip
    with engine.lock, engine.device.current():
        plan = engine.plan(cell, x, keep)
        scratch = new((sum(plan.scratch),))
        parts = itertools.accumulate(plan.scratch, initial=0)
        d_logits, d_candidate, of_weights, of_candidate, _ = (
            scratch.data_ptr() + x.element_size() * part for part in parts
        )
        fields["d_logits"] = d_logits
        if cell.separate_candidate:
            fields["d_state_candidate"] = d_candidate
        plan.arguments("backward", fields)
        copies, launch = plan.copies("backward")
        copies.set("weight_hh", plan.weights, params["weight_hh"].data_ptr())
        copies.set("d_state", plan.d_state)
        for (name, buffer), d in zip(plan.d_states.items(), d_last, strict=True):
            copies.set(name, buffer, 0 if d is None else d.data_ptr())
        launch()
        plan.run("backward")
        operand = saved[0].data_ptr()
        plan.multiply("weights", d_logits, operand, of_weights)
        if cell.separate_candidate:  # whose U h + b_n is not added to the input's part
            plan.multiply("candidates", d_candidate, operand, of_candidate)
        gradients = _gradients(plan, call, of_weights, of_candidate, fields.get("resets"))
        if wrt_x:
            gradients["x"] = new(x.shape)
            weight_ih = params["weight_ih"].data_ptr()
            plan.multiply("inputs", d_logits, weight_ih, gradients["x"].data_ptr())
    return gradients


def _begin(plan: Plan, direction: str, x: Tensor, operand: Tensor, params: Mapping[str, Tensor],
           states: Sequence[Tensor], resets: Tensor | None) -> None:  # fmt: skip
    """Copy what the forward pass reads: the operand, the parameters, the initial states."""
    copies, launch = plan.copies(direction)
    start, packed, bias_hh = operand.data_ptr(), plan.packed, params.get("bias_hh")
    bias = x.shape[-1] * x.element_size()  # where its column begins, that of the 1 in the operand
    copies.set("inputs", start, x.data_ptr())
    copies.set("tail", start + bias, plan.tail)
    copies.set("weight_hh", plan.weights, params["weight_hh"].data_ptr())
    copies.set("weight_ih", packed, params["weight_ih"].data_ptr())
    copies.set("bias", packed + bias, params["bias"].data_ptr(),
               0 if bias_hh is None else bias_hh.data_ptr())  # fmt: skip
    first = 0 if resets is None else resets.data_ptr()
    for k, (name, buffer) in enumerate(plan.states.items()):
        copies.set(name, buffer, states[k].data_ptr() if states else 0, zeroed=first)
    launch()


def _gradients(plan: Plan, call: Call, source: int, candidate: int,
               resets: Tensor | None) -> dict[str, Tensor]:  # fmt: skip
    """Copies of the gradients of the parameters, by column, and of the initial states, if any.

    ``source`` and ``candidate`` are the addresses of the products with the operand, the second that
    of the part of the state in a GRU's candidate.
    """
    cell, new, size = call.cell, call.x.new_empty, call.x.element_size()
    inputs, hidden, rows, batch = cell.input_size, cell.hidden_size, cell.rows, call.x.shape[1]
    copies, launch = plan.copies("gradients, state" if call.states else "gradients")
    weight_ih, bias, weight_hh = new((rows, inputs)), new((rows,)), new((rows, hidden))
    target, of_bias, of_state = weight_hh.data_ptr(), inputs * size, plan.projected * size
    copies.set("weight_ih", weight_ih.data_ptr(), source)
    copies.set("bias", bias.data_ptr(), source + of_bias)
    copies.set("weight_hh", target, source + of_state)
    gradients = {"weight_ih": weight_ih, "bias": bias, "bias_hh": bias, "weight_hh": weight_hh}
    if cell.separate_candidate:
        bias_n, part = new((hidden,)), plan.candidate
        gradients["bias_n"] = bias_n
        copies.set("candidate", target + part.start * hidden * size, candidate + of_state)
        copies.set("rest", target + part.stop * hidden * size,
                   source + part.stop * plan.width * size + of_state)  # fmt: skip
        copies.set("bias_n", bias_n.data_ptr(), candidate + of_bias)
    if call.states:
        d_initial = [new((batch, hidden)) for _ in call.states]
        added, first = plan.d_state, 0 if resets is None else resets.data_ptr()
        for (name, buffer), d in zip(plan.d_states.items(), d_initial, strict=True):
            copies.set(name, d.data_ptr(), buffer, added, first)
            added = 0  # the product with the recurrent weights is of the hidden state
        gradients |= by_state("state", d_initial)
    launch()
    return gradients


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
        return contiguous(name, value)
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
