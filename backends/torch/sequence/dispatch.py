"""The implementations of a layer over a sequence, in order of preference, and their choice.

"native"    on a CPU by gatecore's C++ library, in float32
"parallel"  by an associative scan over time, for gates that do not depend on the state
"reference" on a CPU by manual BPTT in NumPy, in float32 and float64
"fused"     on CUDA by gatecore's kernels
"graph"     on CUDA by captured graphs of torch's own operations
"plain"     step by step, differentiable by torch: supports everything. Gates that do not depend on
            the state are scanned as by "parallel"
"scan"      by torch's scan operation: traced with the number of steps left open

The first five are implementations of the operator ``gatecore::sequence``, see ``custom_op``.
"""

import torch

from gatecore.backends.common import implementation
from gatecore.backends.torch.sequence import cuda_graphs, cuda_kernels, pooled_tensors
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.cuda_graphs import CudaGraphs
from gatecore.backends.torch.sequence.cuda_kernels import CudaKernels
from gatecore.backends.torch.sequence.implementation import OperatorImplementation
from gatecore.backends.torch.sequence.native import Native
from gatecore.backends.torch.sequence.numpy_bptt import NumpyBptt
from gatecore.backends.torch.sequence.parallel import Parallel
from gatecore.backends.torch.sequence.stepping import PLAIN, SCAN, Stepping

TorchImplementation = OperatorImplementation | Stepping

IMPLEMENTATIONS: tuple[TorchImplementation, ...] = (
    Native(), Parallel(), NumpyBptt(), CudaKernels(), CudaGraphs(), PLAIN, SCAN,
)  # fmt: skip
_BY_NAME = {one.name: one for one in IMPLEMENTATIONS}


def checked(impl: str) -> str:
    """``impl`` if it is "auto" or the name of an implementation; else ValueError."""
    return implementation.checked(IMPLEMENTATIONS, impl)


def named(name: str) -> TorchImplementation:
    """The implementation of this name."""
    return _BY_NAME[name]


def operator(name: str) -> TorchImplementation:
    """The implementation that the operator runs under this name."""
    one = named(name)
    return one.operator if isinstance(one, OperatorImplementation) else one


def _exporting() -> bool:
    return torch.compiler.is_exporting()


# evaluated while torch traces: torch 2.11 takes the function itself for true in compiled code
_exporting._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose(impl: str, call: Call) -> TorchImplementation:
    """The implementation that runs ``call``.

    ValueError if ``impl`` does not support it, RuntimeError in ONNX's tracing exporter.
    """
    if impl == "auto" and _exporting():
        return SCAN
    chosen = implementation.choose(IMPLEMENTATIONS, impl, call)
    tracing = not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None
    if tracing and torch.onnx.is_in_onnx_export() and not isinstance(chosen, Stepping):
        raise RuntimeError("the ONNX exporter that traces has no operator for a layer over a "
                           "sequence: use torch.onnx.export(..., dynamo=True)")  # fmt: skip
    return chosen


def release() -> None:
    """Free the buffer pool and the CUDA graphs that later calls would use again."""
    pooled_tensors.release()
    cuda_graphs.release()
    cuda_kernels.release()
