"""Unigram and bigram models: the baselines of a language model."""

from collections.abc import Iterator

import numpy as np

from gatecore.tasks.problems.language.encoding import Tokens

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
        pairs, counts = _pairs(train, low, high, size)
        test_pairs, test_counts = _pairs(test, low, high, size)
        probabilities = _backed_off(pairs, counts, test_pairs, single)
        total += float((test_counts * np.log(probabilities)).sum())
    return -total / len(test)


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of first words with at most ``PAIRS`` pairs, or of one word, that cover all words."""
    cumulative, low = np.cumsum(counts), 0
    while low < len(counts):
        done = cumulative[low - 1] if low else 0
        high = max(int(np.searchsorted(cumulative, done + PAIRS, side="right")), low + 1)
        yield low, min(high, len(counts))
        low = high


def _pairs(tokens: Tokens, low: int, high: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs v·size + w with v in [low, high), ascending, and their counts."""
    pairs, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    waiting: list[np.ndarray] = []
    for block in tokens.blocks():
        chosen = np.flatnonzero((block[:-1] >= low) & (block[:-1] < high))
        waiting.append(block[chosen].astype(np.int64) * size + block[chosen + 1])
        if sum(map(len, waiting)) > PAIRS:
            pairs, counts = _merged(pairs, counts, waiting)
            waiting = []
    return _merged(pairs, counts, waiting)


def _merged(
    pairs: np.ndarray, counts: np.ndarray, more: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs, ascending, and their counts, after adding ``more`` pairs."""
    new, new_counts = np.unique(np.concatenate([*more, pairs[:0]]), return_counts=True)
    union, place = np.unique(np.concatenate([pairs, new]), return_inverse=True)
    return union, np.bincount(place, np.concatenate([counts, new_counts])).astype(np.int64)


def _backed_off(
    pairs: np.ndarray, counts: np.ndarray, queries: np.ndarray, single: np.ndarray
) -> np.ndarray:
    """The probability of each pair of ``queries``, from training pairs and their counts."""
    size = len(single)
    first, second = pairs // size, pairs % size
    total = np.bincount(first, counts, size)
    kinds = np.bincount(first, minlength=size)
    covered = np.bincount(first, single[second], size)
    with np.errstate(divide="ignore", invalid="ignore"):
        backoff = np.where(total > 0, DISCOUNT * kinds / total / (1 - covered), 1.0)
    place = np.minimum(np.searchsorted(pairs, queries), max(len(pairs) - 1, 0))
    before, word = queries // size, queries % size
    probability = backoff[before] * single[word]
    if len(pairs):
        known = pairs[place] == queries
        probability[known] = (counts[place[known]] - DISCOUNT) / total[before[known]]
    return probability
