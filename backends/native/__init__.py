"""The C++ library for CPUs: whole sequences of every cell and mechanism, in float32.

``library`` loads it, ``layer`` calls it, ``src`` holds its source. The library is optional: where
it was not built, ``library.unsupported()`` returns the reason.
"""

from gatecore.backends.native.library import instruction_set

__all__ = ["instruction_set"]
