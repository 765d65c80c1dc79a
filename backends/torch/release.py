"""Giving back what the backend keeps between calls."""

from gatecore.backends.torch import graphs, memory


def release() -> None:
    """Free the CPU memory and the CUDA graphs that are kept for later calls."""
    memory.release()
    graphs.release()
