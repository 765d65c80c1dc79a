"""The C++ library for CPUs: whole sequences of every cell and mechanism, in float32.

``library`` loads it, ``layer`` calls it, ``src`` holds its source. The library is optional: where
it was not built, ``library.unsupported()`` returns the reason.
"""
