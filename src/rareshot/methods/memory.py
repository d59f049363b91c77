"""`Memory`: features that were computed once need not be computed again.

An evaluation asks for the same few hundred images thousands of times. What is kept is a function of the image alone, so no
answer depends on it; it is no part of a learner's state and is not copied with it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from rareshot.types import Support

Array = npt.NDArray[Any]
LIMIT = 2**28
"""Bytes of features that are kept: 40,000 vectors of 84 px conv4."""


class Memory:
    """Features by image, up to `limit` bytes; those not asked for longest go first. Threads may share one."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._kept: OrderedDict[bytes, Array] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def features(
        self, images: Float[Tensor, "n 3 h w"], of: Callable[[Float[Tensor, "1 3 h w"]], Float[Tensor, "1 features"]]
    ) -> Array:
        """(n, features) float64.

        Args:
            of: the network. It is given one image at a time: the bits of an answer then depend on that image alone.
        """
        return np.stack([self._one(key_of(image), image[None], of) for image in images]).astype(np.float64)

    def __len__(self) -> int:
        return len(self._kept)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Memory":
        return Memory(self.limit)

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self.limit,)

    def _one(self, key: bytes, image: Tensor, of: Callable[[Tensor], Tensor]) -> Array:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        with torch.no_grad():
            vector = of(image)[0].numpy()
        with self._lock:
            if key not in self._kept:  # another thread may have been here meanwhile
                self._kept[key] = vector
                self._bytes += vector.nbytes
            while self._bytes > self.limit:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return vector


def key_of(image: Float[Tensor, "3 h w"]) -> bytes:
    """Digest of an image: the same for the same pixels, however they lie in memory."""
    plain = image.detach().contiguous().numpy()
    return hashlib.blake2b(plain.data, digest_size=16, person=str(tuple(plain.shape)).encode()[:16]).digest()


def in_one_order(support: Support) -> Support:
    """The same support set in an order that depends on its images, not on how they came: no answer can depend on that."""
    keys = [key_of(image) for image in support.images]
    order = sorted(range(len(keys)), key=lambda at: (keys[at], int(support.labels[at])))
    return Support(support.images[order], support.labels[order], support.classes)
