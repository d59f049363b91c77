"""A computation of fixed shapes, recorded once and then replayed: thousands of small operations started as one.

A step of meta-training is some ten thousand operations of a few microseconds each, which a GPU does sooner than Python asks
for them. A CUDA graph holds them all: it reads the memory that it was recorded with and writes the memory that it wrote then,
so what goes in is copied there first.
"""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

Function = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Tensors by name → tensors by name; it may wait for no number and choose nothing by one."""
WARM_UP = 3
"""Runs before the recording, in which libraries choose their algorithms and claim their memory."""


class Recording(NamedTuple):
    """What can be run again."""

    replay: Callable[[], object]
    answer: dict[str, Tensor]
    """What the last replay left; the next one overwrites it."""


Record = Callable[[Callable[[], dict[str, Tensor]]], Recording]

_recording = Lock()
"""CUDA records one graph at a time in a process."""


def as_it_is(function: Callable[[], dict[str, Tensor]]) -> Recording:
    """No recording at all: a replay calls the function."""
    answer: dict[str, Tensor] = {}
    return Recording(lambda: answer.update(function()), answer)


def as_cuda_graph(function: Callable[[], dict[str, Tensor]]) -> Recording:
    """One CUDA graph.

    Raises:
        RuntimeError: if the function does something that cannot be recorded.
    """
    with _recording:
        aside, graph = _stream(), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(aside):  # left also where the graph's own way out fails
                for _ in range(WARM_UP):
                    function()
                with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):  # other threads go on
                    answer = function()
        finally:
            torch.cuda.current_stream().wait_stream(aside)
    return Recording(graph.replay, answer)


@cache
def _stream() -> torch.cuda.Stream:
    """The one that every graph is recorded on: libraries keep memory for each."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class Replayed:
    """`function` on a device, recorded at the first call with tensors of some shapes, replayed at every call, in any thread.

    Args:
        device: where it computes; what a call is given is copied there.
        record: how it is recorded; None: as a CUDA graph on a GPU, not at all elsewhere. Where recording fails, one line says
            so and the function is called as it is.
    """

    def __init__(self, function: Function, device: torch.device, record: Record | None = None) -> None:
        self._function, self._device = function, device
        self._record = record or (as_cuda_graph if device.type == "cuda" else as_it_is)
        self._held: dict[object, tuple[dict[str, Tensor], Recording]] = {}
        self._lock = Lock()
        self.failed = ""
        """Why the last recording failed; empty if none did."""

    @torch.no_grad()
    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The answer, on the device; a copy, which later calls leave as it is."""
        shapes = tuple((name, value.shape, value.dtype) for name, value in given.items())
        with self._lock:
            if shapes not in self._held:
                held = {name: value.detach().to(self._device, copy=True) for name, value in given.items()}
                self._held[shapes] = held, self._recorded(held)
            held, recording = self._held[shapes]
            for name, value in given.items():
                held[name].copy_(value)
            recording.replay()
            return {name: value.clone() for name, value in recording.answer.items()}

    def _recorded(self, held: dict[str, Tensor]) -> Recording:
        function = self._function  # not `self`, which would hold itself
        try:
            return self._record(lambda: function(held))
        except RuntimeError as error:
            self.failed = str(error).strip().partition("\n")[0]
            logging.getLogger(__name__).warning(
                "no CUDA graph (%s): steps run one operation after the other", self.failed
            )
            return as_it_is(lambda: function(held))
