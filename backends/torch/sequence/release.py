"""Giving back what the backend keeps between calls."""

from gatecore.backends.torch.sequence import cuda_graphs, pooled_tensors


def release() -> None:
    """Free the CPU memory and the CUDA graphs that are kept for later calls."""
    pooled_tensors.release()
    cuda_graphs.release()
