import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rareshot.losses import DifficultyAware, Mean, MetaLoss, difficulty_weight, task_loss

getcontext().prec = 60
ETAS = [1, 3, 5, 7]
EPS = Decimal("1e-6")
KINK = 1 - EPS
GRID = [
    *(10.0**-power for power in (12, 9, 6, 3)),
    *np.linspace(0.01, 0.99, 40),
    *(0.999, 0.99999, 1 - 3e-6, 1 - 1.1e-6, 1 - 0.9e-6, 1 - 1e-7, 1.0, 1 + 1e-9, 1.001),
    *np.linspace(1.1, 20, 40),
]


def printed(L: float, eta: int) -> Decimal:
    """Eq. (3) for one task, to 60 digits."""
    x = Decimal(L)
    return -(x**eta) * max(EPS, 1 - x).ln()


def printed_slope(L: float, eta: int) -> Decimal:
    x = Decimal(L)
    power = eta * x ** (eta - 1)
    return -power * (1 - x).ln() + x**eta / (1 - x) if x < KINK else -power * EPS.ln()


def value_of(loss: MetaLoss, L: float, way: int = 2) -> float:
    return loss(torch.tensor([L], dtype=torch.float64), way).item()


def slope_of(loss: MetaLoss, L: float, way: int = 2) -> float:
    return difficulty_weight(loss, torch.tensor([L], dtype=torch.float64), way).item()


def test_task_loss_is_eq_1_averaged_over_the_images() -> None:
    logits, labels = np.array([[0.3, -1.2], [2.0, 0.1], [-0.4, 0.9]]), np.array([1, 0, 1])
    f = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    expected = np.mean(-(labels * np.log(f) + (1 - labels) * np.log(1 - f)))
    assert task_loss(torch.tensor(logits), torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("eta", ETAS)
def test_paper_form_is_eq_3_to_six_digits(eta: int) -> None:
    loss = DifficultyAware(eta=eta, form="paper")
    for L in GRID:
        assert value_of(loss, L) == pytest.approx(float(printed(L, eta)), rel=1e-6, abs=0), L
    assert value_of(loss, 0.0) == 0


@pytest.mark.parametrize("eta", ETAS)
def test_slope_of_the_paper_form_is_that_of_eq_3_to_six_digits(eta: int) -> None:
    loss = DifficultyAware(eta=eta, form="paper")
    for L in GRID:
        assert slope_of(loss, L) == pytest.approx(float(printed_slope(L, eta)), rel=1e-6, abs=0), L
    assert slope_of(loss, 0.0) == 0


def test_figures_of_the_paper_form_with_eta_5() -> None:
    # Rounded values of Eq. (3)'s slope, from the 60-digit reference above.
    loss = DifficultyAware(eta=5, form="paper")
    slopes = [slope_of(loss, L) for L in (0.3, math.log(2), 0.9, 1.0, 2.0, 3.0)]
    assert slopes == pytest.approx([0.0179, 1.885, 13.46, 69.1, 1105, 5595], rel=2e-3)


@pytest.mark.parametrize("form", ["paper", "smooth"])
def test_float32_losses_are_computed_in_float64(form: str) -> None:
    # 1e-12 ** 7 lies below float32's smallest number.
    loss = DifficultyAware(eta=7, form=form)  # type: ignore[arg-type]
    L = torch.tensor([1e-12], requires_grad=True)
    value = loss(L, 2)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(float(printed(L.item(), 7)), rel=1e-6, abs=0)


@given(eta=st.floats(1, 9), linear_from=st.floats(0.05, 0.99), L=st.floats(0, 1e6))
def test_smooth_is_finite_and_its_slope_is_never_negative(eta: float, linear_from: float, L: float) -> None:
    loss = DifficultyAware(eta=eta, linear_from=linear_from)
    value, slope = value_of(loss, L), slope_of(loss, L)
    assert math.isfinite(value)
    assert math.isfinite(slope)
    assert value >= 0
    assert slope >= 0


@pytest.mark.parametrize("eta", ETAS)
def test_smooth_increases_and_never_curves_down(eta: int) -> None:
    loss = DifficultyAware(eta=eta)
    grid = np.linspace(0.001, 5, 500)
    assert (np.diff([value_of(loss, L) for L in grid]) > 0).all()
    assert (np.diff([slope_of(loss, L) for L in grid]) >= -1e-12).all()


@pytest.mark.parametrize("linear_from", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("eta", ETAS)
def test_smooth_is_continuous_in_value_and_slope_at_linear_from(eta: int, linear_from: float) -> None:
    loss = DifficultyAware(eta=eta, linear_from=linear_from)
    below, above = linear_from * (1 - 1e-12), linear_from * (1 + 1e-12)
    for at in (below, linear_from, above):
        assert value_of(loss, at) == pytest.approx(float(printed(linear_from, eta)), rel=1e-8)
        assert slope_of(loss, at) == pytest.approx(float(printed_slope(linear_from, eta)), rel=1e-8)
    assert slope_of(loss, 17.0) == pytest.approx(slope_of(loss, above), rel=1e-12)


@pytest.mark.parametrize("eta", ETAS)
def test_smooth_is_the_paper_form_below_linear_from(eta: int) -> None:
    for L in np.linspace(0.01, 0.89, 30):
        assert value_of(DifficultyAware(eta=eta), L) == value_of(DifficultyAware(eta=eta, form="paper"), L)


@pytest.mark.parametrize("form", ["paper", "smooth"])
@pytest.mark.parametrize("way", [2, 3, 5, 10])
def test_normalised_gives_at_chance_the_two_way_loss_for_any_way(form: str, way: int) -> None:
    plain, normalised = (DifficultyAware(form=form, normalised=on) for on in (False, True))  # type: ignore[arg-type]
    assert value_of(normalised, math.log(way), way) == pytest.approx(value_of(plain, math.log(2)), rel=1e-12)


def test_normalised_changes_nothing_for_two_classes() -> None:
    for L in (0.1, 0.69, 0.95, 3.0):
        assert value_of(DifficultyAware(normalised=True), L) == value_of(DifficultyAware(), L)


def test_both_losses_are_means_over_the_tasks() -> None:
    L = torch.tensor([0.2, 0.7, 1.4], dtype=torch.float64)
    assert Mean()(L, 2).item() == pytest.approx(2.3 / 3, rel=1e-15)
    each = [value_of(DifficultyAware(), x) for x in L.tolist()]
    assert DifficultyAware()(L, 2).item() == pytest.approx(sum(each) / 3, rel=1e-14)


@pytest.mark.parametrize(
    "loss",
    [Mean(), DifficultyAware(), DifficultyAware(form="paper"), DifficultyAware(eta=1, normalised=True)],
    ids=["mean", "smooth", "paper", "normalised"],
)
def test_difficulty_weight_is_the_slope_by_finite_differences(loss: MetaLoss) -> None:
    L, way, h = torch.tensor([0.2, 0.4, 0.7, 1.3], dtype=torch.float64), 3, 1e-6
    weights = difficulty_weight(loss, L, way)
    for i in range(len(L)):
        step = torch.zeros_like(L)
        step[i] = h
        slope = (loss(L + step, way) - loss(L - step, way)).item() / (2 * h)
        assert weights[i].item() == pytest.approx(slope * len(L), rel=1e-6, abs=1e-8)


def test_every_task_weighs_one_under_the_mean() -> None:
    assert difficulty_weight(Mean(), torch.tensor([0.1, 5.0, 0.7]), 2).tolist() == [1, 1, 1]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("form", ["paper", "smooth"])
def test_a_task_that_is_not_finite_leaves_the_weights_of_the_others(form: str, broken: float) -> None:
    loss = DifficultyAware(form=form)  # type: ignore[arg-type]
    weights = difficulty_weight(loss, torch.tensor([0.5, broken, 0.8], dtype=torch.float64), 2)
    assert weights[0].item() == pytest.approx(slope_of(loss, 0.5), rel=1e-14)
    assert weights[2].item() == pytest.approx(slope_of(loss, 0.8), rel=1e-14)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eta": 0.5}, r"eta=0.5 must be at least 1, and finite"),
        ({"eta": math.nan}, r"eta=nan must be at least 1"),
        ({"eta": math.inf}, r"eta=inf must be"),
        ({"form": "printed"}, r"form='printed' is not a form of Eq. \(3\); choose paper or smooth"),
        ({"eps": 1}, r"eps=1 must lie between 0 and 1; at 1 the loss would be 0 everywhere"),
        ({"eps": 0}, r"eps=0 must lie between 0 and 1"),
        ({"linear_from": 0}, r"linear_from=0 must lie between 0 and 1 - eps = 0.999999"),
        ({"linear_from": 1}, r"linear_from=1 must lie between 0 and 1 - eps = 0.999999"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DifficultyAware(**wrong)  # type: ignore[arg-type]


def test_the_line_may_not_begin_where_eps_has_taken_over() -> None:
    assert DifficultyAware().linear_from == 0.9
    assert DifficultyAware(linear_from=1 - 1e-6).linear_from == 1 - 1e-6
    with pytest.raises(ValueError, match="linear_from="):
        DifficultyAware(linear_from=1 - 1e-7)
