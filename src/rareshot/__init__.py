"""Few-shot learning for rare-disease images. A few-shot learner is a function from a support set to a classifier.

>>> import rareshot
>>> learner = rareshot.load("isic2018-transfer")
>>> classifier = learner.adapt(rareshot.support_from("photographs/", learner.size))   # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rareshot.estimator import RareShotClassifier
    from rareshot.predict import adapt_to, load, load_classifier
    from rareshot.support_set import support_from

__all__ = ["RareShotClassifier", "__version__", "adapt_to", "load", "load_classifier", "support_from"]
__version__ = version("rareshot")

_ROOMS = {
    "RareShotClassifier": "rareshot.estimator",
    "adapt_to": "rareshot.predict",
    "load": "rareshot.predict",
    "load_classifier": "rareshot.predict",
    "support_from": "rareshot.support_set",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'rareshot' has no attribute {name!r}")
    return getattr(import_module(_ROOMS[name]), name)  # torch is imported only when there is work
