"""Shapes in annotations are checked while the tests run: a pytest plugin, for it must come before any import of rareshot.

The rooms of tensors only: elsewhere tests hand over wrong values on purpose, to see them refused by name.
"""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

ROOMS = [
    "data.augment",
    "episodes",
    "explicit",
    "gradients",
    "inner",
    "meta_batch",
    "pixels",
    "policies",
    "resident",
    "training",
]

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
hook = install_import_hook([f"rareshot.{room}" for room in ROOMS], "shapes.checked")
