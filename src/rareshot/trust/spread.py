"""What would change the answer: other support images, another turn of the camera.

The answers without each support image (`LeftOut.answers`) and with support and query turned, scaled and flipped; the lowest
and highest of them. A range of sensitivity, not an interval that holds the truth with a known probability.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.data.augment import affine
from rareshot.equal_parts import adapt_evenly
from rareshot.types import Learner, Support


def augmented_answers(
    learner: Learner, support: Support, images: Float[Tensor, "n 3 h w"], *, draws: int = 3, seed: int = 0
) -> Float[Tensor, "draws n way"]:
    """Answers with every support and query image turned, scaled and flipped by draws of its own; `draws` adaptations
    where classes have as many images.

    Raises:
        ValueError: if `draws` is below 1.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: at least 1 is needed")
    answers = []
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        turned = Support(affine(support.images, rng).clamp(0, 1), support.labels, support.classes)
        answers.append(adapt_evenly(learner, turned, seed=seed)(affine(images, rng).clamp(0, 1)))
    return torch.stack(answers)


def spread(answers: Float[Tensor, "views n way"]) -> tuple[Float[Tensor, "n way"], Float[Tensor, "n way"]]:
    """Lowest and highest probability of each class, for each image, over several views of the same task.

    Give each view the temperature and the prevalence of the answer that it stands beside.

    Raises:
        ValueError: if there is no view.
    """
    if not len(answers):
        raise ValueError(
            "a spread needs at least one view: give left_out.answers(images), augmented_answers(...) or both"
        )
    return answers.amin(0), answers.amax(0)
