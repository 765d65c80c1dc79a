"""Paired statistics over seeds: the bootstrap interval of a difference, and a sign-flip test.

Runs of one seed see equal data, whatever their gates; so two mechanisms are compared seed by seed.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

CONFIDENCE = 0.95
ENOUGH = 6  # seeds: with fewer, all signs agree by chance in more than 5 % of experiments


@dataclasses.dataclass(frozen=True)
class Difference:
    """The scores of one set of runs less those of another, on their common ``seeds``.

    ``mean`` is the mean difference in units of the score, ``low`` and ``high`` its 95 % bootstrap
    interval, and ``chance`` the p-value of the exact sign-flip test, in [2^(1 − seeds), 1].
    """

    seeds: tuple[int, ...]
    mean: float
    low: float
    high: float
    chance: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0; with two seeds or one never."""
        return len(self.seeds) > 2 and (self.low > 0 or self.high < 0)

    @property
    def confirmed(self) -> bool:
        """Whether it is significant by the sign-flip test as well, at the 5 % level."""
        return self.significant and self.chance < 1 - CONFIDENCE


def compare(scores: Mapping[int, float], others: Mapping[int, float]) -> Difference | None:
    """The difference of two sets of runs, mappings of seed to score; None without a common seed.

    The interval is the percentile bootstrap of the mean paired difference, 9999 resamples of the
    seeds. With three seeds it reaches from the smallest to the largest difference, since a
    resample is three times the smallest in 1 of 27 cases. So it excludes 0 when all three agree in
    sign, which happens by chance in 1 of 4 experiments.

    >>> d = compare({0: 0.9, 1: 0.8, 2: 0.95}, {0: 0.85, 1: 0.79, 2: 0.85, 3: 0.1})
    >>> d.seeds, round(d.mean, 4), round(d.low, 4), round(d.high, 4), d.chance
    ((0, 1, 2), 0.0533, 0.01, 0.1, 0.25)
    """
    seeds = tuple(sorted(scores.keys() & others.keys()))
    if not seeds:
        return None
    differences = np.array([scores[seed] - others[seed] for seed in seeds])
    low, high = _interval(differences)
    return Difference(seeds, float(differences.mean()), low, high, _chance(differences))


def false_positives(seeds: int) -> float:
    """The fraction of intervals that exclude 0 if the differences are normal with mean 0.

    An approximation: it takes the bootstrap's distribution as normal, with a variance that is
    divided by n where Student's t divides by n − 1. At three seeds the exact value is 1/4.

    >>> [round(false_positives(n), 2) for n in (3, 5, 10, 30)]
    [0.25, 0.15, 0.1, 0.06]
    """
    from scipy import stats

    bound = stats.norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt((seeds - 1) / seeds)
    return float(2 * stats.t.sf(bound, seeds - 1))


def _interval(differences: np.ndarray) -> tuple[float, float]:
    from scipy import stats  # takes a second to import

    if len(differences) == 1 or np.ptp(differences) == 0:
        return float(differences.min()), float(differences.max())
    settings = dict(confidence_level=CONFIDENCE, method="percentile", rng=0)
    interval = stats.bootstrap((differences,), np.mean, **settings).confidence_interval
    return float(interval.low), float(interval.high)


def _chance(differences: np.ndarray) -> float:
    """The sign-flip test, two-sided; all 2^n signs, or 4096 random ones for more than 12 seeds."""
    n = len(differences)
    if n <= 12:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (4096, n))
        signs[0] = 1
    means = np.abs(signs @ differences)
    return float(np.mean(means >= means[0] * (1 - 1e-12)))
