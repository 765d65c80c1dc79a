"""The base of the operator's implementations: what none of them supports."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from gatecore.backends.torch.sequence.call import Call

Gradients = Sequence[Tensor | None]

DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def resolved(name: str, value: Tensor) -> Tensor:
    """``value`` with its values in memory; ValueError, which calls it ``name``, if there is none.

    Neither lazily negated nor lazily zero, and with a storage that holds it all.
    """
    if value.layout is not torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {value.layout}: use .to_dense()")
    _check_storage(name, value)
    return value.clone() if value.is_neg() or value._is_zerotensor() else value


def contiguous(name: str, value: Tensor) -> Tensor:
    """``value`` contiguous, and as of :func:`resolved`."""
    if (  # what is true of most: it costs less than `resolved`
        value.is_contiguous() and not value.is_neg() and value.data_ptr()
        and value.untyped_storage().nbytes()
        >= value.nbytes + value.itemsize * value.storage_offset()
    ):  # fmt: skip
        return value
    return resolved(name, value).contiguous()


def check_memory(**arguments: Sequence[Any]) -> None:
    """Raise ValueError if a tensor's storage has been freed or is too short: torch reads beyond it.

    Other values, and tensors that torch traces or transforms, have no storage to check.
    """
    if torch.compiler.is_compiling() or active_transform():
        return
    if torch._C._get_tracing_state() is not None:
        return
    for name, values in arguments.items():
        for value in values:
            if type(value) in (Tensor, Parameter) and value.layout is torch.strided:
                _check_storage(name, value)


def _check_storage(name: str, value: Tensor) -> None:
    size = value.nbytes + value.storage_offset() * value.itemsize
    if value.is_contiguous() and value.untyped_storage().nbytes() >= size:
        return  # as most do
    if not value.numel() or value.is_meta or value._is_zerotensor():
        return
    storage, extent = value.untyped_storage(), value.storage_offset() + 1
    extent += sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
    if storage.nbytes() < extent * value.itemsize or not storage.data_ptr():
        raise ValueError(f"{name} of shape {tuple(value.shape)} needs {extent * value.itemsize} "
                         f"bytes of memory and its storage has {storage.nbytes()}: it was freed or "
                         "resized")  # fmt: skip


def active_transform() -> str | None:
    """The transformation under which the operator has no rule; None outside of one."""
    if torch._C._functorch.maybe_current_level() is not None:
        return "a transformation of torch.func is active"
    return "forward-mode differentiation is active" if forward_ad._current_level >= 0 else None


# evaluated while torch.compile traces, which guards on what it reads
active_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]


def needs_operator(x: Any) -> bool:
    """Whether torch traces or profiles, or a mode or a subclass of Tensor intercepts operators."""
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    observed = torch.autograd.profiler._is_profiler_enabled
    return tracing or observed or torch._C._len_torch_dispatch_stack() > 0 or type(x) is not Tensor


class OperatorImplementation(abc.ABC):
    """An implementation of ``gatecore::sequence``, for one kind of device."""

    name: ClassVar[str]
    device: ClassVar[str | None]  # None: any
    traceable: ClassVar[bool] = True  # torch.compile may trace a call of the operator
    completes_calls: ClassVar[bool] = False  # a call may lack states and have two biases
    normalizes: ClassVar[bool] = False  # has layer normalization, but not as the operator

    @property
    def operator(self) -> "OperatorImplementation":
        """The same as the operator runs it, which somebody may capture in a CUDA graph."""
        return self

    def unsupported(self, call: Call) -> str | None:
        """Why the operator cannot run ``call`` this way; None if it can."""
        x = call.x
        if self.device is not None and x.device.type != self.device:
            return f"it needs tensors on {self.device}, the input is on {x.device.type}"
        if x.layout is not torch.strided:
            return f"it needs a dense input, not {x.layout}"
        if x.dtype not in DTYPES:
            return f"it computes in float32 or float64, not {x.dtype}"
        if "weight_hr" in call.params:
            return "it has no projection of the hidden state (proj_size)"
        if call.cell.layer_norm and not (self.normalizes and not needs_operator(x)):
            return "it has no layer normalization" + " under tracing" * self.normalizes
        if not self.traceable and torch.compiler.is_compiling():
            return "torch.compile is tracing"
        return active_transform() or self._unsupported(call)

    def _unsupported(self, call: Call) -> str | None:
        """The same for this implementation alone."""
        return None

    @abc.abstractmethod
    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        """Outputs and last states, then the saved tensors, of a complete call."""

    @abc.abstractmethod
    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        """Gradients of the call's sources."""

    @abc.abstractmethod
    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        """Shapes of the saved tensors."""
