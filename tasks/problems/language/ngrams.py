"""What counting words and pairs of words predicts: the baselines of a language model."""

from collections.abc import Iterator

import numpy as np

from gatecore.tasks.problems.language.encoding import Tokens

DISCOUNT = 0.75  # taken from every pair's count, as is usual (Ney, Essen, Kneser 1994)
PAIRS = 3 << 20  # sorted at a time: what bounds the memory


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

    After v, P(w) is (c(vw) − D) / c(v) where vw was seen, with D the discount, and else α(v) times
    the unigram's; α(v) makes the sum over w one. After a v that was never seen, P is the unigram's.
    """
    single = unigram(train, size)
    before = np.zeros(size, np.int64)
    for block in train.blocks():
        before += np.bincount(block[:-1], minlength=size)
    total = 0.0
    for low, high in _groups(before):
        pairs, counts = _pairs(train, low, high, size)
        asked, times = _pairs(test, low, high, size)
        total += float((times * np.log(_backed_off(pairs, counts, asked, single))).sum())
    return -total / len(test)


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of first words with at most ``PAIRS`` pairs, or of one word; each word is in one."""
    cumulative, low = np.cumsum(counts), 0
    while low < len(counts):
        done = cumulative[low - 1] if low else 0
        high = max(int(np.searchsorted(cumulative, done + PAIRS, side="right")), low + 1)
        yield low, min(high, len(counts))
        low = high


def _pairs(tokens: Tokens, low: int, high: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs v·size + w with v in [low, high), ascending, and how often each occurs."""
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
    """Distinct pairs, ascending, and their counts, with those of ``more`` pairs."""
    fresh, times = np.unique(np.concatenate([*more, pairs[:0]]), return_counts=True)
    together, place = np.unique(np.concatenate([pairs, fresh]), return_inverse=True)
    return together, np.bincount(place, np.concatenate([counts, times])).astype(np.int64)


def _backed_off(
    pairs: np.ndarray, counts: np.ndarray, asked: np.ndarray, single: np.ndarray
) -> np.ndarray:
    """The probability of each pair that is asked, from those seen and their counts."""
    size = len(single)
    first, second = pairs // size, pairs % size
    total = np.bincount(first, counts, size)
    kinds = np.bincount(first, minlength=size)
    covered = np.bincount(first, single[second], size)
    with np.errstate(divide="ignore", invalid="ignore"):
        freed = np.where(total > 0, DISCOUNT * kinds / total / (1 - covered), 1.0)
    place = np.minimum(np.searchsorted(pairs, asked), max(len(pairs) - 1, 0))
    after, word = asked // size, asked % size
    probability = freed[after] * single[word]
    if len(pairs):
        seen = pairs[place] == asked
        probability[seen] = (counts[place[seen]] - DISCOUNT) / total[after[seen]]
    return probability
