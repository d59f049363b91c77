"""Intervals, paired tests and the lesion bootstrap against scipy, scikit-learn and the plain loops."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from rareshot import statistics
from rareshot.lesion_bootstrap import (
    QueryScores,
    bootstrap_apart_over_groups,
    bootstrap_over_groups,
    bootstrap_pairs_over_groups,
    weighted_aucs,
)
from rareshot.statistics import Interval, average_ranks, interval, paired


def made_episodes(count=4, lesions=12, images=20, seed=0, shift=1.0):
    """Episodes that share their lesions; a lesion has one class and a difficulty of its own; scores have ties."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=lesions)
    episodes = []
    for _ in range(count):
        groups = np.concatenate([np.arange(4), rng.integers(0, lesions, images - 4)])
        scores = shift * (groups % 2) + difficulty[groups] + rng.normal(size=images)
        episodes.append(QueryScores(scores.round(1), groups % 2, groups))
    return episodes


# Intervals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_interval_equals_student_t_of_scipy(level):
    x = np.random.default_rng(0).normal(0.8, 0.1, 30)
    ours = interval(x, "over episodes", level)
    assert (ours.low, ours.high) == pytest.approx(stats.ttest_1samp(x, 0).confidence_interval(level))
    assert (ours.mean, ours.n, ours.kind, ours.level) == (x.mean(), 30, "over episodes", level)


def test_interval_holds_the_true_mean_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0.7, 0.1, size=(400, 6))
    held = [i.low <= 0.7 <= i.high for i in (interval(x, "over episodes") for x in draws)]
    # 400 intervals hold it 380 times, give or take 3 · √(400 · 0.95 · 0.05) = 13.
    assert abs(sum(held) - 380) <= 13


def test_one_value_has_a_mean_and_no_interval():
    one = interval([0.7], "over seeds")
    assert (one.mean, one.n) == (0.7, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert str(one) == "0.700 (no interval, n = 1)"


def test_equal_values_have_an_interval_of_no_width():
    assert interval([0.5, 0.5, 0.5], "over seeds") == Interval(0.5, 0.5, 0.5, 3, "over seeds")


def test_interval_says_over_what():
    assert str(Interval(0.8124, 0.79, 0.834, 600, "over episodes")) == "0.812 (0.790 to 0.834, 95 % over 600 episodes)"
    assert str(Interval(0.8, 0.7, 0.9, 3, "over seeds", 0.9)) == "0.800 (0.700 to 0.900, 90 % over 3 seeds)"
    thirty = Interval(0.8, 0.7, 0.9, 30, "over 30 episodes (sampler)")
    assert str(thirty) == "0.800 (0.700 to 0.900, 95 % over 30 episodes (sampler))"


def test_interval_of_nothing_definite_is_refused():
    with pytest.raises(ValueError, match=r"kind must say over what.*got 'episodes'"):
        interval([0.1, 0.2], "episodes")
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, as in 0.95; got 95"):
        interval([0.1, 0.2], "over episodes", 95)
    with pytest.raises(ValueError, match=r"values: 1 of 3 are NaN or infinite, first number 1; find the run that div"):
        interval([0.1, math.nan, 0.2], "over episodes")
    with pytest.raises(ValueError, match=r"values must be a list of at least one number; got shape \(0,\)"):
        interval([], "over episodes")


# Paired differences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "digits"), [(5, 6), (12, 1), (40, 6), (40, 1), (200, 2)])
def test_p_values_equal_those_of_scipy(n, digits):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.8, 0.1, n).round(digits), rng.normal(0.75, 0.1, n).round(digits)
    ours, theirs = paired(a, b, "over episodes"), stats.ttest_rel(a, b)
    assert ours.p_value == pytest.approx(theirs.pvalue)
    assert ours.p_wilcoxon == pytest.approx(stats.wilcoxon((a - b).round(12)).pvalue)
    assert (ours.interval.low, ours.interval.high) == pytest.approx(theirs.confidence_interval())
    assert (ours.mean, ours.n) == (pytest.approx((a - b).mean()), n)


@pytest.mark.parametrize("base", [100, 150, 180, 200, 210])
def test_equal_differences_of_auc_tie_whatever_the_level(base):
    d = np.array([1, 1, 1, 2, 2, -1, -1, 3, -2, 1, 1, 2, -1, 1, 3, -1, 2, 1, -3, 1] * 2)
    ours = paired((base + d) / 225, np.full(40, base / 225), "over episodes")
    assert ours.p_wilcoxon == pytest.approx(stats.wilcoxon(d).pvalue)


def test_turning_the_pair_round_turns_the_difference_round():
    a, b = np.random.default_rng(0).random((2, 25))
    there, back = paired(a, b, "over episodes"), paired(b, a, "over episodes")
    assert (back.mean, back.interval.low) == pytest.approx((-there.mean, -there.interval.high))
    assert (back.p_value, back.p_wilcoxon, back.needed) == pytest.approx(
        (there.p_value, there.p_wilcoxon, there.needed)
    )


def test_needed_is_the_smallest_number_with_power():
    for effect in (0.05, 0.2, 0.5, 1.0, 2.0, 5.0, 50.0):
        d = np.array([effect - 1, effect + 1]) / math.sqrt(2)
        needed = paired(d, np.zeros(2), "over episodes").needed
        n = np.arange(2, needed + 10)
        power = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, np.sqrt(n) * effect / math.sqrt(2))
        assert needed == n[np.argmax(power >= 0.8)]


def test_needed_pairs_show_the_difference_four_times_in_five():
    d = np.random.default_rng(0).normal(0.03, 0.05, 20)
    needed = paired(d, np.zeros(20), "over episodes").needed
    draws = np.random.default_rng(1).normal(d.mean(), d.std(ddof=1), size=(4000, needed))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(needed))
    # At least 0.8, less than one pair's worth more; simulated to ± 0.02.
    assert 0.78 < (t > stats.t.ppf(0.975, needed - 1)).mean() < 0.85


def test_equal_methods_do_not_differ_and_no_number_would_show_it():
    a = np.array([0.7, 0.8, 0.9])
    same = paired(a, a, "over episodes")
    assert (same.mean, same.p_value, same.p_wilcoxon, same.needed) == (0.0, 1.0, 1.0, None)
    assert paired([1.0, -1.0], [0.0, 0.0], "over episodes").needed is None
    assert paired([1.0, -1.0, 1e-9], [0.0, 0.0, 0.0], "over episodes").needed is None


def test_a_constant_difference_is_certain():
    sure = paired([0.75, 0.5], [0.5, 0.25], "over episodes")
    assert (sure.mean, sure.p_value, sure.needed) == (0.25, 0.0, 2)


def test_comparison_reads_as_a_sentence():
    a = [0.7, 0.8, 0.9, 0.6]
    # t = 0.075 / (0.0957 / √4) = 1.567 with 3 degrees of freedom; 15: test_needed_is_the_smallest_number_with_power.
    assert str(paired(a, [0.6, 0.8, 0.7, 0.6], "over episodes")) == (
        "The first is 0.075 higher than the second (95 % interval of the difference -0.077 to 0.227 over 4 episodes, "
        "paired t p = 0.22, Wilcoxon p = 0.5); n = 15 would show such a difference with power 0.8."
    )
    assert "The first is 0.100 lower than the second" in str(paired([0.5, 0.6], [0.6, 0.7], "over episodes"))
    assert str(paired(a, a, "over episodes")) == (
        "The first is 0.000 different from the second (95 % interval of the difference 0.000 to 0.000 over 4 episodes, "
        "paired t p = 1, Wilcoxon p = 1); no practicable n would show such a difference with power 0.8."
    )


def test_values_that_make_no_pairs_are_refused():
    with pytest.raises(ValueError, match=r"a comparison 2 pairs; got 2 and 3 values"):
        paired([0.1, 0.2], [0.1, 0.2, 0.3], "over episodes")
    with pytest.raises(ValueError, match=r"a comparison 2 pairs; got 1 and 1 values"):
        paired([0.1], [0.2], "over episodes")
    with pytest.raises(ValueError, match=r"b: 1 of 2 are NaN or infinite, first number 0"):
        paired([0.1, 0.2], [math.inf, 0.2], "over episodes")


# Ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_the_published_table(methods, q):
    """q from Demšar (JMLR 7, 2006), Table 5 (a)."""
    _, difference = average_ranks(np.random.default_rng(0).random((14, methods)))
    assert difference == pytest.approx(q * math.sqrt(methods * (methods + 1) / (6 * 14)), rel=1e-3)


def test_the_best_method_has_rank_one_and_ties_share():
    ranks, _ = average_ranks(np.array([[0.9, 0.5, 0.5], [0.8, 0.7, 0.6]]))
    assert ranks.tolist() == [1.0, 2.25, 2.75]


def test_means_over_seeds_that_differ_by_rounding_alone_share_a_rank():
    one, other = np.mean([0.1, 0.2, 0.3]), np.mean([0.3, 0.2, 0.1])
    assert one != other
    ranks, _ = average_ranks(np.array([[one, other], [one, other]]))
    assert ranks.tolist() == [1.5, 1.5]


def test_ranks_need_a_full_matrix_of_methods():
    with pytest.raises(
        ValueError, match=r"finite \(tasks, methods\) matrix with 2 methods or more; got shape \(3, 1\)"
    ):
        average_ranks(np.zeros((3, 1)))


# Bootstrap over lesions --------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.integers(2, 30), st.sampled_from([1, 2, 5, 1000]))
@settings(max_examples=80, deadline=None)
def test_weighted_auc_equals_scikit_learn_and_the_double_sum(seed, n, distinct):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, distinct, n) / distinct
    labels = rng.permutation(np.arange(n) % 2)
    weights = rng.integers(0, 4, (n, 6))
    pairs = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None]) / 2 + 0.5
    for ours, w in zip(weighted_aucs(scores, labels, weights), weights.T, strict=True):
        if not w[labels == 1].sum() * w[labels == 0].sum():
            assert math.isnan(ours)
        else:
            plain = w[labels == 1] @ pairs @ w[labels == 0] / (w[labels == 1].sum() * w[labels == 0].sum())
            assert ours == pytest.approx(plain, abs=1e-12)
            assert ours == pytest.approx(roc_auc_score(labels, scores, sample_weight=w), abs=1e-12)


def test_bootstrap_equals_the_plain_loop_over_repeated_images():
    episodes = made_episodes()
    times = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=40)
    means = []
    for multiplicity in times:
        areas = []
        for episode in episodes:
            images = np.repeat(np.arange(len(episode.labels)), multiplicity[episode.groups])
            if len(set(episode.labels[images])) == 2:
                areas.append(roc_auc_score(episode.labels[images], episode.scores[images]))
        means.append(np.mean(areas))
    ours = bootstrap_over_groups(episodes, resamples=40, seed=3, level=0.9)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert ours.mean == pytest.approx(np.mean([roc_auc_score(e.labels, e.scores) for e in episodes]))
    assert (ours.n, ours.kind, ours.level) == (12, "over lesions", 0.9)


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    episodes = made_episodes()
    assert bootstrap_over_groups(episodes, seed=1) == bootstrap_over_groups(episodes, seed=1)
    assert bootstrap_over_groups(episodes, seed=1) != bootstrap_over_groups(episodes, seed=2)


def test_more_photographs_of_a_lesion_add_no_certainty():
    episodes = made_episodes()
    fivefold = [QueryScores(*(np.tile(x, 5) for x in (e.scores, e.labels, e.groups))) for e in episodes]
    once, often = bootstrap_over_groups(episodes), bootstrap_over_groups(fivefold)
    assert (often.mean, often.low, often.high, often.n) == pytest.approx((once.mean, once.low, once.high, once.n))


def test_more_episodes_of_the_same_lesions_add_no_certainty():
    episodes = made_episodes(count=100)
    lesions = bootstrap_over_groups(episodes)
    over_episodes = interval([roc_auc_score(e.labels, e.scores) for e in episodes], "over episodes")
    assert lesions.high - lesions.low > 3 * (over_episodes.high - over_episodes.low)


def test_lesion_interval_holds_the_true_auc_nearly_as_often_as_it_says():
    rng = np.random.default_rng(0)
    true, lesions = stats.norm.cdf(1 / math.sqrt(2)), np.arange(80)
    held = 0
    for _ in range(150):
        episode = QueryScores(rng.normal(size=80) + lesions % 2, lesions % 2, lesions)
        i = bootstrap_over_groups([episode], resamples=200)
        held += i.low <= true <= i.high
    # 150 intervals hold it 142 times, give or take 3 · √(150 · 0.95 · 0.05) = 8; percentiles are a little too narrow.
    assert 132 <= held <= 150


def test_paired_bootstrap_is_the_bootstrap_of_the_difference():
    a = made_episodes(shift=2.0)
    b = [QueryScores(np.roll(e.scores, 1), e.labels, e.groups) for e in a]
    both = bootstrap_pairs_over_groups(a, b, resamples=50)
    means = [bootstrap_over_groups(x, resamples=50).mean for x in (a, b)]
    assert both.mean == pytest.approx(means[0] - means[1])
    assert both.low <= both.mean <= both.high
    assert (both.n, both.kind) == (12, "over lesions")


def test_a_method_does_not_differ_from_itself_in_any_resample():
    a = made_episodes()
    same = bootstrap_pairs_over_groups(a, a)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval_of_methods_that_fail_alike():
    a = made_episodes()
    b = [QueryScores(e.scores + np.where(np.arange(20) == 5, 0.5, 0.0), e.labels, e.groups) for e in a]
    difference, alone = bootstrap_pairs_over_groups(a, b), bootstrap_over_groups(a)
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


def test_other_episodes_apart_are_resampled_by_the_lesions_of_both_together():
    site, everywhere = made_episodes(seed=1), made_episodes(count=6, lesions=20, images=30, seed=2)
    times = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=40)
    means = []
    for multiplicity in times:
        of_each = []
        for episodes in (site, everywhere):
            areas = [
                weighted_aucs(e.scores, e.labels, multiplicity[e.groups][:, None].astype(float))[0] for e in episodes
            ]
            of_each.append(np.nanmean(areas))
        means.append(of_each[0] - of_each[1])
    apart = bootstrap_apart_over_groups(site, everywhere, resamples=40, seed=3, level=0.9)
    assert (apart.low, apart.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert apart.mean == pytest.approx(bootstrap_over_groups(site).mean - bootstrap_over_groups(everywhere).mean)
    assert apart.n == 20


def test_episodes_that_are_not_the_same_make_no_pairs():
    a = made_episodes()
    with pytest.raises(ValueError, match=r"same episodes of both methods; got 4 and 3"):
        bootstrap_pairs_over_groups(a, a[:3])
    with pytest.raises(ValueError, match=r"episode 0: labels or groups differ; evaluate both methods on the same"):
        bootstrap_pairs_over_groups(a, a[::-1])


def test_a_rare_resample_without_one_class_is_left_out():
    # Six and six lesions: 1 of 2048 resamples lacks a class, and one of the first 500 of seed 2 does.
    draws = np.random.default_rng(2).multinomial(12, np.full(12, 1 / 12), size=500)
    assert (draws[:, ::2].sum(axis=1) == 0).any() | (draws[:, 1::2].sum(axis=1) == 0).any()
    found = bootstrap_over_groups(made_episodes(), seed=2)
    assert found.low < found.mean < found.high


def test_too_few_lesions_are_refused():
    episode = QueryScores(np.array([0.1, 0.9]), np.array([0, 1]), np.array([4, 7]))
    with pytest.raises(ValueError, match=r"2 lesions are too few to resample: \d+ of 500 resamples leave no episode"):
        bootstrap_over_groups([episode])
    with pytest.raises(ValueError, match=r"the bootstrap needs episodes and resamples; got 0 and 500"):
        bootstrap_over_groups([])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 1, 1], r"one entry each for every query image; got shapes \(2,\), \(3,\) and \(3,\)"),
        ([0.1, math.nan, 0.2], [0, 1, 1], r"scores: 1 of 3 are NaN or infinite, first number 1"),
        ([0.1, 0.2, 0.3], [0, 1, 2], r"2-way episodes with images of both classes, labels 0 and 1; got \[0, 1, 2\]"),
        ([0.1, 0.2, 0.3], [1, 1, 1], r"labels 0 and 1; got \[1\]"),
    ],
)
def test_scores_of_no_two_way_episode_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        QueryScores(np.array(scores), np.array(labels), np.arange(3))


def test_examples_in_docstrings_run():
    assert doctest.testmod(statistics).failed == 0


def test_paired_bootstrap_takes_the_seed_and_the_level_asked_for() -> None:
    a = made_episodes(shift=2.0)
    b = [QueryScores(np.roll(e.scores, 1), e.labels, e.groups) for e in a]
    asked = {"resamples": 50, "seed": 3, "level": 0.8}
    ours = bootstrap_pairs_over_groups(a, b, **asked)
    assert ours == bootstrap_apart_over_groups(a, b, **asked)
    assert ours != bootstrap_pairs_over_groups(a, b, **{**asked, "seed": 0})
