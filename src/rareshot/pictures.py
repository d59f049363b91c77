"""Pixels as pictures of a page: written anew from their values, so that nothing else of the file comes along.

A map's colours are two of Okabe and Ito, which the colour-blind can tell apart: orange speaks for, blue against.
"""

import base64
import io

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

FOR, AGAINST = (213, 94, 0), (0, 114, 178)
OPAQUE = 0.75
"""Of the colour where a map is strongest."""
LOSSLESS = 128
"""Pixels up to which a picture is PNG; larger ones are JPEG, a tenth of the size."""
QUALITY = 90
CELLS = 8
"""Patches across a map; between their middles the colour runs smoothly."""


def picture(pixels: UInt8[Tensor, "3 h w"], size: int | None = None) -> str:
    """A `data:` address that holds the picture; the same pixels give the same text.

    Args:
        size: at most so many pixels across.
    """
    made = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    if size is not None and made.width > size:
        made = made.resize((size, size), Image.Resampling.LANCZOS)
    return _address(made)


def map_picture(pixels: UInt8[Tensor, "3 h w"], found: Float[Tensor, "h w"], strongest: float) -> str:
    """The picture in grey under the map's colours, as a `data:` address.

    Args:
        strongest: the value, for or against, that has the full colour.
    """
    grey = pixels.float().mean(0, keepdim=True).expand(3, -1, -1)
    grey = 0.7 * grey + 0.3 * 255  # light, so that the colours stand out on dark pictures too
    cells = F.interpolate(found[None, None], (CELLS, CELLS), mode="area")
    smooth = F.interpolate(cells, found.shape, mode="bilinear")[0]
    alpha = OPAQUE * (smooth.abs() / strongest).clamp(0, 1)
    colour = torch.where(smooth > 0, torch.tensor(FOR).view(3, 1, 1), torch.tensor(AGAINST).view(3, 1, 1))
    blended = ((1 - alpha) * grey + alpha * colour).round().clamp(0, 255).to(torch.uint8)
    pixels_of: npt.NDArray[np.uint8] = blended.permute(1, 2, 0).contiguous().numpy()
    return _address(Image.fromarray(pixels_of))


def _address(made: Image.Image) -> str:
    buffer = io.BytesIO()
    if made.width <= LOSSLESS:
        made.save(buffer, "PNG", optimize=True)
    else:
        made.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    kind = "png" if made.width <= LOSSLESS else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
