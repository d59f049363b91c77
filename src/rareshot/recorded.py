"""Adaptation on a GPU: recorded once for each shape of a support set, replayed for every other one; see `rareshot.graphs`.

Ten steps of adaptation are a thousand operations of a few microseconds, and the pictures of an episode are few: what an
evaluation on a GPU waits for is Python.
"""

from collections.abc import Mapping
from functools import cache
from threading import Lock

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rareshot import explicit
from rareshot.backbones.norms import Moments
from rareshot.explicit import batched
from rareshot.graphs import Record, Replayed


class RecordedAdaptation:
    """`inner.adapt_to_support` for networks that `rareshot.explicit` knows: from any weights of one shape, in any thread.

    Args:
        device: where it computes.
        steps, lr, norm: see `rareshot.explicit.adapt`.
        record: see `rareshot.graphs.Replayed`.
    """

    def __init__(self, device: torch.device, steps: int, lr: float, norm: str, record: Record | None = None) -> None:
        def compute(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
            x, y = given["x"], given["y"]
            params = {name: value for name, value in given.items() if name not in ("x", "y")}
            rows = batched.adapt(params, x[None], y[None], steps=steps, lr=lr, norm=norm)
            moved = {name: value[0] for name, value in rows.items()}
            seen = explicit.moments(batched.side_by_side(moved, 1), x[None]) if norm == "support" else []
            return {**moved, **{f"moments.{layer}": torch.stack(both) for layer, both in enumerate(seen)}}

        self._replayed = Replayed(compute, device, record)
        self._lock = Lock()  # a replay overwrites what the last one answered

    def __call__(
        self, params: Mapping[str, Tensor], x: Float[Tensor, "s 3 h w"], y: Int[Tensor, " s"]
    ) -> tuple[dict[str, Tensor], list[Moments] | None]:
        """Adapted weights and the frozen statistics that go with them; None where the norm needs none."""
        with self._lock:
            answer = {name: value.clone() for name, value in self._replayed({**params, "x": x, "y": y}).items()}
        moved = {name: answer.pop(name) for name in params}
        return moved, [Moments(mean, var, len(x)) for mean, var in answer.values()] or None


recorded_adaptation = cache(RecordedAdaptation)
"""The one for these arguments: every learner of a kind replays the same."""
