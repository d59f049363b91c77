"""A step on a GPU: every design gets all tasks in one process and is timed by the GPU's own clock.

The gate is that of the CPU's table: each design in float64 on the device, against the textbook loop on the CPU. TF32 is off for
everyone (`rareshot.machine`).
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rareshot.bench.designs import TEXTBOOK, Design
from rareshot.bench.lanes import Array, FailedError, Lanes, flat, prepared
from rareshot.bench.problem import Problem
from rareshot.machine import use_device

Record = dict[str, Any]
ITERATIONS = 3000
"""Of a training at the paper's scale, for the projected time."""


def on_device(
    designs: Sequence[Design],
    problem: Problem,
    rounds: int,
    lanes: Lanes,
    observe: Callable[[str, int, int], None],
) -> Iterator[Record]:
    """Gate, then rounds, in both orders; a record for each design.

    Args:
        problem: its `device` says where.
    """
    name = torch.cuda.get_device_name() if problem.device.startswith("cuda") else problem.device
    for order in (True, False):
        stage = f"on {problem.device}, {'second' if order else 'first'} order"
        asked = replace(problem, second_order=order)
        passed: list[tuple[Design, Record]] = []
        own = [design for design in designs if order in design.orders]
        for number, design in enumerate(own):
            observe(stage, number, len(own) + rounds)
            record: Record = {"part": "device", "device": name, "design": design.name, "second_order": order}
            record |= {"version": design.version, "exact": design.exact}
            try:
                record["distance"] = _distance(design, asked, lanes)
                if record["distance"] > design.tolerance:
                    raise FailedError(f"its gradient is {record['distance']:.0e} away from the textbook's")
                lanes.wide(timed, design, asked)  # what is done once: recording, choosing algorithms
            except FailedError as failed:
                yield {**record, "failed": str(failed)}
                continue
            passed.append((design, record))
        seconds: dict[str, list[float]] = {design.name: [] for design, _ in passed}
        for number in range(rounds):
            observe(stage, len(own) + number, len(own) + rounds)
            for turn in range(len(passed)):
                design = passed[(number + turn) % len(passed)][0]
                seconds[design.name].append(lanes.wide(timed, design, asked)[0])
        observe(stage, len(own) + rounds, len(own) + rounds)
        for design, record in passed:
            times, first = seconds[design.name], seconds[passed[0][0].name]
            ratios = [a / b for a, b in zip(times, first, strict=True)]
            hours = statistics.median(times) * ITERATIONS / 3600
            yield {**record, "seconds": times, "ratios": ratios, "hours": hours, "to": passed[0][0].name}


def timed(design: Design, problem: Problem) -> tuple[float, Array]:
    """Seconds of a step of all tasks, and the answer; runs in a lane."""
    if not design.installed:
        raise RuntimeError("not installed")
    device = use_device(problem.device)
    step = prepared(design, problem, tuple(range(problem.tasks)))
    if device.type == "cpu":
        begun = time.perf_counter()
        answer = step()
        return time.perf_counter() - begun, flat(answer)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    answer = step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000, flat(answer)


def _distance(design: Design, problem: Problem, lanes: Lanes) -> float:
    small = replace(problem, shot=min(problem.shot, 2), query=3, steps=min(problem.steps, 2), tasks=2, double=True)
    wanted = lanes.wide(timed, TEXTBOOK, replace(small, device="cpu"))[1]
    got = lanes.wide(timed, design, small)[1]
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)) if got.shape == wanted.shape else float("inf")
