"""Compilation for functions that run once or a few times, and whose rounding does not matter."""

import jax


def quickly_compiled(function):
    """``jax.jit`` without LLVM's optimisations, which would take longer than they save."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})
