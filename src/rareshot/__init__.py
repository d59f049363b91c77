"""Few-shot learning for rare-disease images. A few-shot learner is a function from a support set to a classifier."""

from importlib.metadata import version

__version__ = version("rareshot")
