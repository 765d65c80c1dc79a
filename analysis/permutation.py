"""The bit-reversal permutation of Appendix D.5."""

import numpy as np

from gatecore.analysis._claim import CORRECTED, ENUMERATION, Result, claim
from gatecore.permutation import bit_reversal


def reversed_bits(index: int, bits: int) -> int:
    """The number whose binary digits are those of ``index`` in reverse order."""
    return int(format(index, f"0{bits}b")[::-1], 2)


@claim("D.5, bit reversal", CORRECTED, "The permutation of 784 pixels sends i to the reverse of "
       "its binary digits", "That of 1024 does; without the indices from 784 on it is no longer an "
       "involution", ENUMERATION)  # fmt: skip
def _check_bit_reversal() -> Result:
    powers = all(list(bit_reversal(1 << m)) == [reversed_bits(i, m) for i in range(1 << m)]
                 for m in range(1, 11))  # fmt: skip
    order = bit_reversal(784)
    pixels = np.arange(784)
    moved = int(np.sum(order != [reversed_bits(int(i), 10) for i in pixels]))
    twice = int(np.sum(order[order] != pixels))
    return moved == 0, [
        ("n = 2, 4, ..., 1024: the reverse of i's digits, its own inverse", powers),
        (f"n = 784: a permutation, but {moved} indices are not sent to their reverse",
         np.array_equal(np.sort(order), pixels) and moved > 0),
        (f"applied twice it moves {twice} of 784 indices, so its direction matters", twice > 0),
    ]  # fmt: skip
