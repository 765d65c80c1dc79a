"""The bit-reversal permutation of the pixels of an image (Appendix D.5)."""

import numpy as np

from gatecore import _checks


def bit_reversal(n: int) -> np.ndarray:
    """The bit-reversal permutation of n indices (Appendix D.5), for any n ≥ 1.

    Reverse the m = ⌈log₂ n⌉ bits of 0, 1, ..., 2^m − 1 and drop results of n and above. Unless n
    is a power of two, the permutation is not its own inverse. ValueError if n is below 1.

    >>> bit_reversal(6)
    array([0, 4, 2, 1, 5, 3])
    """
    bits = (_checks.integer("n", n) - 1).bit_length()
    index = np.arange(1 << bits)
    order = sum(((index >> k & 1) << (bits - 1 - k) for k in range(bits)), np.zeros_like(index))
    return order[order < n]
