"""What the figures of many episodes are worth: intervals that say over what, paired tests, ranks.

Two questions, two intervals. "Would other episodes drawn from the same lesions give the same mean?" is Student's t
over episodes (`interval`, `paired`). "Would other lesions to be judged?" is the bootstrap of `rareshot.lesion_bootstrap`:
the episodes share their lesions, so more episodes narrow the first interval without end, but not the second. Neither asks
for other lesions to learn from, or for another training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[Any]

POWER = 0.8
"""The chance that `Paired.needed` asks for; the usual convention."""


@dataclass(frozen=True)
class Interval:
    """A mean and its interval.

    `low` and `high` are NaN when a single value gives none. `kind` says over what, as in "over episodes", "over
    lesions" or, number included, "over 600 episodes"; the text puts `n` in where `kind` has no number.

    Example:
        >>> print(Interval(0.812, 0.790, 0.834, 600, "over episodes"))
        0.812 (0.790 to 0.834, 95 % over 600 episodes)
    """

    mean: float
    low: float
    high: float
    n: int
    kind: str
    level: float = 0.95

    def __post_init__(self) -> None:
        if not self.kind.startswith("over "):
            raise ValueError(f"kind must say over what, as in 'over episodes' or 'over lesions'; got {self.kind!r}")
        check_level(self.level)

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:.3f} (no interval, n = {self.n})"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}, {100 * self.level:g} % {self._over_n()})"

    def _over_n(self) -> str:
        what = self.kind.removeprefix("over ")
        return self.kind if what[:1].isdigit() else f"over {self.n} {what}"


def interval(values: Sequence[float] | Array, kind: str, level: float = 0.95) -> Interval:
    """Student's t interval of the mean; `low` and `high` are NaN when there is only one value.

    Args:
        values: (n,) one for each independent draw: an episode (its training seeds averaged first), or a training seed.
        kind: over what, see `Interval`.
        level: the share of such intervals that hold the true mean.

    Raises:
        ValueError: if there is no value, or one is NaN or infinite.
    """
    check_level(level)
    x = finite(values, "values")
    mean = float(x.mean())
    if len(x) == 1:
        return Interval(mean, math.nan, math.nan, 1, kind, level)
    half = float(stats.t.ppf((1 + level) / 2, len(x) - 1)) * _sd(x) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half, len(x), kind, level)


@dataclass(frozen=True)
class Paired:
    """The mean difference of two methods that met the same episodes."""

    interval: Interval
    """Of the differences, first minus second."""
    p_value: float
    """Two-sided, paired t."""
    p_wilcoxon: float
    """Two-sided, Wilcoxon's signed ranks: the same question without the normal distribution."""
    needed: int | None
    """How many pairs make the interval exclude 0 with power 0.8, if mean and spread are as observed.

    None if the mean is 0, or so small that a billion pairs are too few.
    """

    @property
    def mean(self) -> float:
        """Mean of first minus second."""
        return self.interval.mean

    @property
    def n(self) -> int:
        """The number of pairs."""
        return self.interval.n

    def __str__(self) -> str:
        i = self.interval
        way = "higher than" if self.mean > 0 else "lower than" if self.mean < 0 else "different from"
        needed = "no practicable n would show" if self.needed is None else f"n = {self.needed} would show"
        return (
            f"The first is {abs(self.mean):.3f} {way} the second "
            f"({100 * i.level:g} % interval of the difference {i.low:.3f} to {i.high:.3f} {i._over_n()}, "
            f"paired t p = {self.p_value:.2g}, Wilcoxon p = {self.p_wilcoxon:.2g}); "
            f"{needed} such a difference with power {POWER:g}."
        )


def paired(a: Sequence[float] | Array, b: Sequence[float] | Array, kind: str, level: float = 0.95) -> Paired:
    """The difference a - b, episode by episode: interval, two p-values, and how many episodes it would take.

    Args:
        a: (n,) the first method's value of each episode.
        b: (n,) the second method's, of the same episodes in the same order.
        kind: over what, see `Interval`.
        level: of the interval; `needed` speaks of the same one.

    Raises:
        ValueError: if the lengths differ, there are fewer than 2 pairs, or a value is NaN or infinite.
    """
    x, y = finite(a, "a"), finite(b, "b")
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"a pair needs one value of each method, and a comparison 2 pairs; got {len(x)} and {len(y)} values"
        )
    d = x - y
    n, mean, sd = len(d), float(d.mean()), _sd(d)
    if not _tied(d).any():
        return Paired(interval(d, kind, level), 1.0, 1.0, None)
    t = mean / (sd / math.sqrt(n)) if sd else math.inf
    return Paired(
        interval=interval(d, kind, level),
        p_value=float(2 * stats.t.sf(abs(t), n - 1)),
        p_wilcoxon=float(stats.wilcoxon(_tied(d)).pvalue),
        needed=_needed(mean, sd, level),
    )


def average_ranks(matrix: Array) -> tuple[Array, float]:
    """Mean rank of each method over tasks, 1 is best, and Nemenyi's critical difference at the 5 % level.

    Two methods differ if their mean ranks lie further apart than that (Demšar, JMLR 7, 2006, §3.2.2).

    Args:
        matrix: (tasks, methods), higher is better.
    """
    if matrix.ndim != 2 or matrix.shape[1] < 2 or not np.isfinite(matrix).all():
        raise ValueError(
            f"ranks need a finite (tasks, methods) matrix with 2 methods or more; got shape {matrix.shape}"
        )
    tasks, k = matrix.shape
    q = float(stats.studentized_range.ppf(0.95, k, np.inf)) / math.sqrt(2)
    ranks: Array = stats.rankdata(-_tied(matrix), axis=1)
    return ranks.mean(axis=0), q * math.sqrt(k * (k + 1) / (6 * tasks))


def _tied(values: Array) -> Array:
    """For ranks: AUCs are fractions, and what differs by the rounding of a difference or a mean alone is equal."""
    rounded: Array = np.round(values, 12)
    return rounded


def _needed(mean: float, sd: float, level: float) -> int | None:
    """The smallest n whose t interval lies on the side of `mean`, without 0, with power 0.8: noncentral t."""
    if not mean:
        return None
    if not sd:
        return 2
    z = float(stats.norm.ppf((1 + level) / 2))
    # Guenther's approximation (The American Statistician 35, 1981) is at most a few too low; from there count up.
    ratio = sd / abs(mean) * (z + float(stats.norm.ppf(POWER)))
    if ratio > math.sqrt(1e9):
        return None
    n = max(2, math.floor(ratio**2 + z**2 / 2) - 1)
    while stats.nct.sf(stats.t.ppf((1 + level) / 2, n - 1), n - 1, math.sqrt(n) * abs(mean) / sd) < POWER:
        n += 1
    return n


def _sd(x: Array) -> float:
    return float(x.std(ddof=1))


def finite(values: Sequence[float] | Array, name: str) -> Array:
    """As float64, (n,).

    Raises:
        ValueError: if there is no value, or one is NaN or infinite.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"{name} must be a list of at least one number; got shape {x.shape}")
    wrong = np.flatnonzero(~np.isfinite(x))
    if len(wrong):
        raise ValueError(
            f"{name}: {len(wrong)} of {len(x)} are NaN or infinite, first number {wrong[0]}; find the run that diverged"
        )
    return x


def check_level(level: float) -> None:
    """Refuse what is no share of intervals.

    Raises:
        ValueError: naming it.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, as in 0.95; got {level}")
