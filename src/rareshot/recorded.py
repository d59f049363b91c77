"""What an evaluation computes on a GPU, recorded at the first call with a shape and replayed at every later one (`graphs`).

Ten steps of adaptation are a thousand operations of a few microseconds, as are the features of one image through a deep network:
without a recording, the GPU waits for Python.
"""

import copy
from collections.abc import Callable, Mapping
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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

    def __call__(
        self, params: Mapping[str, Tensor], x: Float[Tensor, "s 3 h w"], y: Int[Tensor, " s"]
    ) -> tuple[dict[str, Tensor], list[Moments] | None]:
        """Adapted weights, and the frozen statistics that go with them (None where the norm needs none), on the device."""
        answer = self._replayed({**params, "x": x, "y": y})
        moved = {name: answer.pop(name) for name in params}
        return moved, [Moments(mean, var, len(x)) for mean, var in answer.values()] or None


_lock = Lock()
_adaptations: dict[tuple[torch.device, int, float, str], RecordedAdaptation] = {}
_networks: WeakKeyDictionary[nn.Module, dict[torch.device, Callable[[Tensor], Tensor]]] = WeakKeyDictionary()


def recorded_adaptation(device: torch.device, steps: int, lr: float, norm: str) -> RecordedAdaptation:
    """The one for these arguments: every learner of a kind replays the same."""
    with _lock:
        return _adaptations.setdefault((device, steps, lr, norm), RecordedAdaptation(device, steps, lr, norm))


def recorded_network(
    net: nn.Module, device: torch.device
) -> Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n features"]]:
    """What `net` says, on the CPU, computed on a device; for a CPU, `net` itself.

    Args:
        net: its weights must stay as they are; its copy on the device lives as long as it does.
    """
    if device.type == "cpu":
        return net
    with _lock:
        copies = _networks.setdefault(net, {})
        if device not in copies:
            copies[device] = there(net, device)
        return copies[device]


def there(net: nn.Module, device: torch.device, record: Record | None = None) -> Callable[[Tensor], Tensor]:
    """A copy of `net` on a device, recorded: images in, features out, both on the CPU."""
    own = copy.deepcopy(net).to(device)
    replayed = Replayed(lambda given: {"features": own(given["x"])}, device, record)
    return lambda x: replayed({"x": x})["features"].cpu()
