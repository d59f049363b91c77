"""The curriculum of task sampling, against a simulation whose rewards are known."""

from collections import Counter

import numpy as np
import pytest

from rareshot.policies import BUFFER, EXPLORE, Curriculum

STILL, RISING = (0, 1), (1, 2)


def played(draws: int, seed: int = 0, first: int = 0, policy: Curriculum | None = None) -> tuple[Curriculum, list[str]]:
    """A student that makes progress on `RISING` alone: every draw of it changes the AUC by 0.1, up and down in turns."""
    policy = policy or Curriculum(3, 2, seed=seed)
    log = []
    for number in range(first, first + draws):
        classes = policy.choose(number)
        rising = tuple(sorted(classes)) == RISING
        policy.observe(classes, 0.5 + 0.1 * (log.count("rising") % 2) if rising else 0.7)
        log.append("rising" if rising else "still")
    return policy, log


def test_every_arm_is_seen_before_any_reward_counts() -> None:
    policy = Curriculum(4, 2, seed=0)
    seen: Counter[tuple[int, ...]] = Counter()
    for number in range(40):
        classes = tuple(sorted(policy.choose(number)))
        seen[classes] += 1
        policy.observe(classes, 0.5)
    assert set(seen) == set(policy.arms)
    assert len(policy.arms) == 6


def test_the_arm_with_progress_is_drawn_but_for_the_exploration() -> None:
    _, log = played(2000)
    later = log[200:]
    assert later.count("rising") / len(later) == pytest.approx(1 - EXPLORE * 2 / 3, abs=0.02)


def test_a_loss_counts_like_a_gain() -> None:
    """Half of the rising arm's rewards are negative, and it is drawn all the same: the largest absolute reward wins."""
    policy, _ = played(300)
    rewards = policy.state()["rewards"][policy.arms.index(RISING)].numpy()
    np.testing.assert_allclose(np.abs(rewards), 0.1)
    assert (rewards < 0).any()
    assert (rewards > 0).any()


def test_the_buffer_holds_the_last_rewards() -> None:
    policy = Curriculum(2, 2, seed=0)
    values = np.random.default_rng(0).random(25)
    for value in values:
        policy.observe((0, 1), float(value))
    kept = policy.state()["rewards"][0].numpy()
    assert sorted(kept) == pytest.approx(sorted(np.diff(values)[-BUFFER:]))


def test_classes_come_in_random_order() -> None:
    policy = Curriculum(2, 2, seed=0)
    assert {policy.choose(number) for number in range(30)} == {(0, 1), (1, 0)}


def test_a_run_that_is_resumed_draws_the_same_tasks() -> None:
    whole, log = played(100)
    half, begun = played(40)
    fresh = Curriculum(3, 2, seed=0)
    fresh.restore(half.state())
    again = list(begun)
    for number in range(40, 100):
        classes = fresh.choose(number)
        rising = tuple(sorted(classes)) == RISING
        fresh.observe(classes, 0.5 + 0.1 * (again.count("rising") % 2) if rising else 0.7)
        again.append("rising" if rising else "still")
    assert again == log
    assert all((fresh.state()[name] == value).all() for name, value in whole.state().items())


def test_a_state_of_other_classes_is_refused() -> None:
    with pytest.raises(
        ValueError, match="the state to resume from is of another curriculum: its classes or way differ"
    ):
        Curriculum(4, 2, seed=0).restore(Curriculum(3, 2, seed=0).state())


def test_a_state_is_finite_and_does_not_change_with_what_comes_later() -> None:
    policy, _ = played(5)
    state = {name: value.clone() for name, value in policy.state().items()}
    held = policy.state()
    policy.observe(STILL, 0.1)
    policy.observe(STILL, 0.9)
    assert all(value.isfinite().all() for value in state.values())
    assert all((held[name] == value).all() for name, value in state.items())


def curriculum_with(rewards: list[list[float]]) -> Curriculum:
    """Of three arms with these rewards; none: never drawn."""
    policy = Curriculum(3, 2, seed=0)
    for classes, own in zip(policy.arms, rewards, strict=True):
        for auc in np.cumsum([0.0, *own]) if own else []:
            policy.observe(classes, float(auc))
    return policy


def shares(policy: Curriculum) -> list[float]:
    drawn = Counter(tuple(sorted(policy.choose(number))) for number in range(3000))
    return [drawn[arm] / 3000 for arm in policy.arms]


def test_an_arm_stands_for_one_of_its_rewards_drawn_at_random() -> None:
    """The largest is 1 in one draw of ten, the mean is 0.1: neither maximum nor mean nor the last reward decides."""
    found = shares(curriculum_with([[-1.0] + [0.0] * (BUFFER - 1), [0.5] * BUFFER, [0.0] * BUFFER]))
    assert found == pytest.approx([0.9 * 0.1 + EXPLORE / 3, 0.9 * 0.9 + EXPLORE / 3, EXPLORE / 3], abs=0.02)


def test_an_arm_without_a_reward_goes_first() -> None:
    assert shares(curriculum_with([[0.9], [0.9], []]))[2] == pytest.approx(1 - 2 * EXPLORE / 3, abs=0.02)


def test_equal_rewards_are_drawn_alike() -> None:
    assert shares(curriculum_with([[0.2], [0.2], [0.2]])) == pytest.approx([1 / 3] * 3, abs=0.04)


def test_another_seed_draws_other_tasks() -> None:
    one, other = ([Curriculum(4, 2, seed=seed).choose(number) for number in range(10)] for seed in (0, 1))
    assert one != other
