"""What an answer is worth: calibration, prediction sets, "none of these", suspect labels, spread (docs/trust.md).

Pure functions on an inductive learner and a support set. What they need of common diseases is measured once, when the
learner is fitted: a temperature, a warning threshold, a `Reference`. The rest follows from the support set alone.
"""

from rareshot.trust.calibration import (
    temperature_from_support,
    temperature_from_tasks,
    with_prevalence,
    with_temperature,
)
from rareshot.trust.conformal import prediction_sets, smallest_error
from rareshot.trust.left_out import LeftOut, leave_one_out
from rareshot.trust.spread import augmented_answers, spread
from rareshot.trust.suspects import Suspects, suspects, warning_threshold
from rareshot.trust.typicality import Reference, Typicality

__all__ = [
    "LeftOut",
    "Reference",
    "Suspects",
    "Typicality",
    "augmented_answers",
    "leave_one_out",
    "prediction_sets",
    "smallest_error",
    "spread",
    "suspects",
    "temperature_from_support",
    "temperature_from_tasks",
    "warning_threshold",
    "with_prevalence",
    "with_temperature",
]
