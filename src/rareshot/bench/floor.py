"""The floor: how many operations the gradient needs, and the least time in which this machine can do them.

Counted are conv4's convolutions, which are all but a hundredth of the work; one forward convolution of a layer is F = 2 · 9 ·
inputs · filters · pixels · images, and so is each half of its backward (the kernel's and the input's; the first layer's input
needs none). A gradient of n images goes forward and backward once. A Hessian-vector product goes twice forward and twice
backward through every layer, but once through the first, whose images do not move:

| calls of a layer, a task | forward | backward |
|---|---|---|
| support, first order | T | T |
| support, second order | 3 T; first layer 2 T | the same |
| query | 1 | 1 |

No algorithm with fewer multiplications (Winograd, FFT) is counted: the floor is that of direct convolution.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch

from rareshot.bench.problem import Problem

BLOCKS = 4


class Layer(NamedTuple):
    """A convolution of a batch."""

    inputs: int
    filters: int
    size: int
    images: int
    first: bool

    @property
    def forward_flop(self) -> int:
        """Operations of one forward call."""
        return 2 * 9 * self.inputs * self.filters * self.size**2 * self.images

    @property
    def backward_flop(self) -> int:
        """Operations of one backward call."""
        return self.forward_flop * (1 if self.first else 2)


class Calls(NamedTuple):
    """How often a layer runs in one direction, for all tasks together: as often as in the other."""

    layer: Layer
    times: int

    @property
    def flop(self) -> int:
        """Operations."""
        return self.times * (self.layer.forward_flop + self.layer.backward_flop)


def calls(problem: Problem) -> list[Calls]:
    """Every convolution of one meta-gradient (no norm mode that passes the support set once more is counted)."""
    found = []
    for i in range(BLOCKS):
        inner = problem.steps * ((3 if i else 2) if problem.second_order else 1)
        for images, often in ((problem.support_images, inner), (problem.query_images, 1)):
            inputs, size = problem.width if i else 3, problem.size // 2**i
            found.append(Calls(Layer(inputs, problem.width, size, images, first=not i), problem.tasks * often))
    return found


def flop(problem: Problem) -> int:
    """Operations of one meta-gradient."""
    return sum(each.flop for each in calls(problem))


class Rate(NamedTuple):
    """Seconds of a call, as if each core did its share: the better of one call on all threads and one call on each."""

    forward: float
    backward: float


def least_seconds(problem: Problem, rates: dict[Layer, Rate]) -> float:
    """The floor: every call at the rate of its own shape."""
    return sum(times * (rates[layer].forward + rates[layer].backward) for layer, times in calls(problem))


def measure_rates(problem: Problem, threads: int, *, seconds: float) -> list[dict[str, Any]]:
    """Rates of every shape in `problem`, one record each; runs in a lane.

    Args:
        seconds: to spend on each of three repeats, of which the fastest counts: the machine's limit, not its habit.
    """
    records = []
    for layer in dict.fromkeys(each.layer for each in calls(problem)):
        record: dict[str, Any] = {**layer._asdict()}
        for direction, flop_of_call in (("forward", layer.forward_flop), ("backward", layer.backward_flop)):
            once = partial(_call, layer, direction)
            together, apart = _together(once, threads, seconds), _apart(once, threads, seconds)
            record[direction] = min(together, apart)
            record[f"{direction}_gflops"] = {
                f"1 x {threads} threads": flop_of_call / together / 1e9,
                f"{threads} x 1 thread": flop_of_call / apart / 1e9,
            }
        records.append(record)
    return records


def rates_of(records: list[dict[str, Any]]) -> dict[Layer, Rate]:
    """What `least_seconds` takes."""
    return {
        Layer(**{name: record[name] for name in Layer._fields}): Rate(record["forward"], record["backward"])
        for record in records
    }


def _call(layer: Layer, direction: str) -> Callable[[], object]:
    """A convolution on tensors of its own."""
    last = torch.channels_last
    x = torch.randn(layer.images, layer.inputs, layer.size, layer.size).contiguous(memory_format=last)
    kernel = torch.randn(layer.filters, layer.inputs, 3, 3).contiguous(memory_format=last)
    if direction == "forward":
        return lambda: torch.conv2d(x, kernel, padding=1)
    one, wanted = [1, 1], [not layer.first, True, False]
    dy = torch.randn(layer.images, layer.filters, layer.size, layer.size).contiguous(memory_format=last)
    return lambda: torch.ops.aten.convolution_backward(dy, x, kernel, None, one, one, one, False, [0, 0], 1, wanted)


def _together(make: Callable[[], Callable[[], object]], threads: int, seconds: float) -> float:
    """Seconds of a call that has all threads."""
    torch.set_num_threads(threads)
    call = make()
    return min(_repeat(call, _often(call, seconds)) for _ in range(3))


def _apart(make: Callable[[], Callable[[], object]], threads: int, seconds: float) -> float:
    """Seconds of a call over the number of threads, each of which calls for itself."""
    torch.set_num_threads(1)
    own = [make() for _ in range(threads)]
    often = _often(own[0], seconds)
    with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
        begun = [max(pool.map(_repeat, own, [often] * threads)) for _ in range(4)][1:]
    return min(begun) / threads


def _often(call: Callable[[], object], seconds: float) -> int:
    _repeat(call, 2)
    return max(1, round(seconds / _repeat(call, 2)))


def _repeat(call: Callable[[], object], often: int) -> float:
    """Mean seconds of a call."""
    begun = time.perf_counter()
    for _ in range(often):
        call()
    return (time.perf_counter() - begun) / often
