"""Temperature and prevalence: from what a classifier says to a probability that can be taken at its word.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017: p ∝ p^(1/T), T the one that makes held-out labels most
likely. k images of a class are too few to hold any out, so T comes from tasks of common diseases, from leaving support
images out one at a time, or from both: the first as prior of the second.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from torch import Tensor

from rareshot.data.collection import LabelledImages
from rareshot.episodes import Episodes, EpisodeSpec
from rareshot.methods.probabilities import TINY
from rareshot.trust.left_out import LeftOut, refuse_transductive
from rareshot.types import Learner

LOWEST, HIGHEST = 1 / 16, 16.0
"""Bounds of a temperature: at k = 1 logistic regression on features of length 1 asks for less than a quarter. Tasks that are all
answered rightly, or at random, would send it beyond any."""
PRIOR_STRENGTH = 3.0
"""Weight of (log T - log prior)² / 2 against the summed log-likelihood of the support images. Chosen on common diseases: 20
tasks at k = 5, among 0, 1, 3, 10, 30; with 0 the calibration gets worse than with none."""


def with_temperature(probabilities: Float[Tensor, "n way"], temperature: float) -> Float[Tensor, "n way"]:
    """p ∝ p^(1/T), in double precision, so that no two images change places: for two classes the AUC stays what it was.

    For more classes each image's own ranking of them stays, but the order of images by one class may change.

    Raises:
        ValueError: if the temperature is not a positive number.
    """
    _check_temperature(temperature, "temperature")
    return torch.softmax(_logs(probabilities) / temperature, -1)


def temperature_from_tasks(
    learner: Learner, held: LabelledImages, spec: EpisodeSpec, *, episodes: int = 60, seed: int = 0
) -> float:
    """The temperature that makes the query labels of tasks of common diseases most likely, all episodes pooled.

    Args:
        held: common diseases' lesions that the learner was not trained on (`validation.held_out`).
        spec: k as the learner will be used.

    Raises:
        ValueError: if the learner is not inductive, or a class is too small.
    """
    refuse_transductive(learner)
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: at least 1 is needed")
    drawn = Episodes(held, spec, seed=seed)
    logs, labels = [], []
    for i in range(episodes):
        episode = drawn[i]
        logs.append(_logs(learner.adapt(episode.support, seed=i)(episode.query_x)))
        labels.append(episode.query_y)
    return _most_likely(torch.cat(logs), torch.cat(labels), prior=1.0, strength=0.0)


def temperature_from_support(left_out: LeftOut, *, prior: float = 1.0) -> float:
    """The temperature that makes the left-out support labels most likely, drawn towards `prior`.

    Maximises Σ_i log p_T(y_i | x_i, support without i) - 3 (log T - log prior)² / 2: way · k answers alone are too few.

    Args:
        prior: the learner's temperature from tasks; 1 where there is none.

    Raises:
        ValueError: if `prior` is not a positive number.
    """
    _check_temperature(prior, "prior")
    return _most_likely(_logs(left_out.probabilities), left_out.support.labels, prior=prior, strength=PRIOR_STRENGTH)


def with_prevalence(
    probabilities: Float[Tensor, "n way"], classes: Sequence[str], prevalence: Mapping[str, float]
) -> Float[Tensor, "n way"]:
    """Probabilities where the classes are as frequent as `prevalence` says: p_c ∝ p_c · π_c / (1 / way).

    k images against k images tell a learner that classes are equally frequent; in a clinic they are not.

    Args:
        classes: names of the columns.
        prevalence: share of each class among the patients who will be judged; the shares sum to 1.

    Raises:
        ValueError: if a class is missing or unknown, a share is not above 0, or the shares do not sum to 1.

    Example:
        >>> with_prevalence(torch.tensor([[0.5, 0.5]]), ("a", "b"), {"a": 0.9, "b": 0.1}).tolist()
        [[0.9, 0.1]]
    """
    unknown, missing = sorted(set(prevalence) - set(classes)), sorted(set(classes) - set(prevalence))
    if unknown or missing:
        raise ValueError(
            f"prevalence needs one share for each of {', '.join(classes)}; "
            f"unknown: {', '.join(unknown) or 'none'}, missing: {', '.join(missing) or 'none'}"
        )
    wrong = {name: share for name, share in prevalence.items() if not (math.isfinite(share) and share > 0)}
    if wrong:
        raise ValueError(f"prevalence: every share must be above 0; got {wrong}: leave such a class out of the support")
    total = sum(prevalence.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"prevalence: the shares must sum to 1; they sum to {total:g}: divide each by that")
    shares = torch.tensor([prevalence[name] for name in classes], dtype=torch.float64)
    return torch.softmax(_logs(probabilities) + shares.log(), -1)


def _most_likely(logs: Float[Tensor, "n way"], labels: Int[Tensor, " n"], *, prior: float, strength: float) -> float:
    def cost(log_temperature: float) -> float:
        nll = F.cross_entropy(logs / math.exp(log_temperature), labels, reduction="sum")
        return float(nll) + strength * (log_temperature - math.log(prior)) ** 2 / 2

    found = minimize_scalar(cost, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return math.exp(float(found.x))


def _logs(probabilities: Float[Tensor, "n way"]) -> Float[Tensor, "n way"]:
    if not probabilities.isfinite().all():
        raise ValueError("probabilities hold NaN or infinity: the classifier has diverged")
    return probabilities.detach().double().clamp_min(TINY).log()


def _check_temperature(value: float, name: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be a number above 0; 1 changes nothing")
