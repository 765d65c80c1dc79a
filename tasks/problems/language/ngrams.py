"""Unigram and bigram models: the baselines of a language model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from gatecore.tasks.problems.language.encoding import Tokens

if TYPE_CHECKING:
    from scipy.sparse import csr_array

DISCOUNT = 0.75  # of every pair's count, the usual value (Ney, Essen & Kneser, 1994)
PAIRS = 3 << 20  # sorted at a time, which bounds the memory


def unigram(train: Tokens, size: int) -> np.ndarray:
    """Add-one probabilities (c + 1) / (N + V) of the ``size`` symbols, float64."""
    counts = np.zeros(size, np.int64)
    for block in train.blocks():
        counts += np.bincount(block[1:], minlength=size)
    return (counts + 1) / (counts.sum() + size)


def unigram_loss(train: Tokens, test: Tokens, size: int) -> float:
    """Mean loss of ``test`` in nats under add-one counts of ``train``."""
    logs = np.log(unigram(train, size))
    return -sum(float(logs[block[1:]].sum()) for block in test.blocks()) / len(test)


def bigram_loss(train: Tokens, test: Tokens, size: int) -> float:
    """Mean loss of ``test`` in nats under a bigram model that backs off to :func:`unigram`.

    P(w|v) is (c(vw) − D) / c(v) for a pair vw of the training text, with the discount D, and else
    α(v) P(w), where α(v) makes the sum over w one. For a v not in the training text it is P(w).
    """
    single = unigram(train, size)
    before = np.zeros(size, np.int64)
    for block in train.blocks():
        before += np.bincount(block[:-1], minlength=size)
    total = 0.0
    for low, high in _groups(before):
        counts, queries = (_pairs(tokens, low, high, size) for tokens in (train, test))
        if queries.nnz:
            total += float((queries.data * np.log(_backed_off(counts, queries, single))).sum())
    return -total / len(test)


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of first words with at most ``PAIRS`` pairs, or of one word, that cover all words."""
    cumulative, low = np.cumsum(counts), 0
    while low < len(counts):
        done = cumulative[low - 1] if low else 0
        high = max(int(np.searchsorted(cumulative, done + PAIRS, side="right")), low + 1)
        yield low, min(high, len(counts))
        low = high


def _pairs(tokens: Tokens, low: int, high: int, size: int) -> "csr_array":
    """Counts of the pairs vw with v in [low, high): row v − low, column w."""
    from scipy.sparse import csr_array  # the command line starts without it

    counts = csr_array((high - low, size), dtype=np.int64)
    for block in tokens.blocks():
        chosen = np.flatnonzero((block[:-1] >= low) & (block[:-1] < high))
        pairs = block[chosen] - low, block[chosen + 1]
        counts += csr_array((np.ones(len(chosen), np.int64), pairs), counts.shape)
    return counts


def _backed_off(counts: "csr_array", queries: "csr_array", single: np.ndarray) -> np.ndarray:
    """The probability of each pair of ``queries``, from the counts of training pairs."""
    total, kinds = counts.sum(axis=1), np.diff(counts.indptr)
    covered, (row, word) = (counts > 0) @ single, queries.nonzero()
    known = counts[row, word]
    with np.errstate(divide="ignore", invalid="ignore"):
        backoff = np.where(total > 0, DISCOUNT * kinds / total / (1 - covered), 1.0)
        return np.where(known > 0, (known - DISCOUNT) / total[row], backoff[row] * single[word])
