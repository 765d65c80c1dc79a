"""A CUDA device of torch as the kernels use it: streams, graphs, precision.

All of ``torch.cuda`` that ``cuda_engine`` and ``cuda_kernels`` need is here, so that a CPU can take
its place in the tests.
"""

from collections.abc import Callable
from typing import Any

import torch

_RNN: Any = torch.backends.cudnn.rnn


class CudaDevice:
    """torch's CUDA device of an index."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index

    def current(self) -> Any:
        """A context in which it is the current device."""
        return torch.cuda.device(self.index)

    def stream(self) -> int:
        """The current stream, a ``cudaStream_t``."""
        return int(torch.cuda.current_stream(self.index).cuda_stream)

    def capturing(self) -> bool:
        """Whether the current stream is captured; where it is the current device."""
        return torch.cuda.is_current_stream_capturing()

    def capability(self) -> int:
        """Its compute capability, 90 for 9.0."""
        major, minor = torch.cuda.get_device_capability(self.index)
        return 10 * major + minor

    def cuda_version(self) -> int | None:
        """The major version of CUDA that torch was built with."""
        return int(torch.version.cuda.partition(".")[0]) if torch.version.cuda else None

    def tf32(self) -> bool:
        """Whether products of float32 may use TF32: the switch of ``torch.nn.LSTM``."""
        return bool(_RNN.fp32_precision == "tf32")

    def record(self, work: Callable[[int], None]) -> Callable[[], None]:
        """A function that launches, as one graph, what ``work`` enqueues on the stream it gets."""
        graph = torch.cuda.CUDAGraph()
        # a stream of this device, which the default need not be. Other threads may allocate
        # meanwhile, as a DataLoader's that pins memory does
        stream = torch.cuda.Stream()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            work(int(stream.cuda_stream))
        return graph.replay
