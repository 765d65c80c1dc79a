"""Whole sequences on a CPU by one small C++ library, for every cell and mechanism in float32.

``library`` finds and calls it, ``layer`` puts it behind the explicit driver's interface. The
library is optional: where it was not built, ``library.missing()`` says why.
"""
