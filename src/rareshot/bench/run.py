"""The parts of a bench, in order; every measurement is a record, plain JSON values with the name of its part."""

import os
import platform
import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from rareshot.bench import floor
from rareshot.bench.designs import (
    DESIGNS,
    META_TEST,
    ON_A_GPU,
    OUR_ANSWERS,
    OURS,
    PLAIN,
    PLAIN_ANSWERS,
    RECOMPUTED,
    TEXTBOOK,
    TEXTBOOK_ANSWERS,
    Arrangement,
    Design,
)
from rareshot.bench.device import on_device
from rareshot.bench.lanes import Array, FailedError, Lanes, memory_growth
from rareshot.bench.problem import Problem
from rareshot.data.synthetic import separable
from rareshot.methods.maml import MAML
from rareshot.run_record import versions

Record = dict[str, Any]
Observe = Callable[[str, int, int], None]
"""(stage, done, total)"""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    problem: Problem = field(default_factory=Problem)
    rounds: int = 7
    """Steps of each design; ratios are taken within a round."""
    test_steps: int = 10
    """Steps of adaptation in the meta-test."""
    rate_seconds: float = 0.1
    """To spend on each repeat of a convolution."""
    repeats: int = 2
    """Steps of each point of the scaling."""
    points: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("steps", (1, 10)),
        ("shot", (1, 3)),
        ("tasks", (2, 8)),
        ("size", (28, 64)),
    )
    """What to scale, and to which values."""

    def __post_init__(self) -> None:
        problem = self.problem
        if problem.size < 16:
            raise ValueError(f"size={problem.size}: conv4 halves an image four times, so at least 16 pixels are needed")
        for name, value in (
            ("shot", problem.shot), ("steps", problem.steps), ("tasks", problem.tasks), ("rounds", self.rounds)
        ):  # fmt: skip
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")


class Contender(NamedTuple):
    """A design as it will be timed."""

    design: Design
    problem: Problem
    arrangement: Arrangement


def run(
    plan: Plan,
    *,
    observe: Observe = lambda stage, done, total: None,
    designs: Sequence[Design] = DESIGNS,
    answers: Sequence[Design] = META_TEST,
    device: str | None = None,
) -> Iterator[Record]:
    """Measure everything on as many threads as torch has now, and give each record as soon as it is there.

    Call it from a script's `if __name__ == "__main__"`: it starts processes.

    Args:
        designs: gradients to time; the first that passes the gate is what ratios are to.
        answers: the same for the meta-test.
        device: what to measure last, with designs of its own; None: the GPU where there is one.
    """
    threads = torch.get_num_threads()
    device = device or ("cuda" if torch.cuda.is_available() else "")
    yield _setting(plan, threads)
    with Lanes(threads) as lanes:
        bench = _Bench(plan, lanes, observe)
        yield from bench.floor()
        orders = [(order, replace(plan.problem, second_order=order)) for order in (True, False)]
        passed: dict[bool, list[Design]] = {}
        for order, problem in orders:
            passed[order] = yield from bench.gate([each for each in designs if order in each.orders], problem, TEXTBOOK)
        yield from bench.memory(passed[True], plan.problem)
        for order, problem in orders:
            yield from bench.steps("step", passed[order], problem)
        test = replace(plan.problem, second_order=False, steps=plan.test_steps)
        good_answers = yield from bench.gate(answers, test, TEXTBOOK_ANSWERS, "meta-test gate")
        yield from bench.steps("meta-test", good_answers, test)
        if OURS in passed[True]:
            yield from bench.inductive(OURS, PLAIN, plan.problem, "training step")
            yield from bench.inductive(OUR_ANSWERS, PLAIN_ANSWERS, test, "meta-test")
            yield from bench.scaling()
        yield from bench.data(threads)
        if device:
            yield from on_device(ON_A_GPU, replace(plan.problem, device=device), plan.rounds, lanes, observe)


class _Bench:
    def __init__(self, plan: Plan, lanes: Lanes, observe: Observe) -> None:
        self.plan, self.lanes, self.observe = plan, lanes, observe

    def floor(self) -> Iterator[Record]:
        """Operations of both orders, and the least time for them."""
        stage = "floor: convolution rates"
        self.observe(stage, 0, 1)
        rates = self.lanes.wide(
            floor.measure_rates, self.plan.problem, self.lanes.threads, seconds=self.plan.rate_seconds
        )
        self.observe(stage, 1, 1)
        for record in rates:
            yield {"part": "rate", **record}
        for order in (True, False):
            problem = replace(self.plan.problem, second_order=order)
            seconds = floor.least_seconds(problem, floor.rates_of(rates))
            yield {"part": "floor", "second_order": order, "gflop": floor.flop(problem) / 1e9, "seconds": seconds}

    def gate(
        self, designs: Sequence[Design], problem: Problem, reference: Design, part: str = "gate"
    ) -> Generator[Record, None, list[Design]]:
        """Each design in float64, on every layout that it may be timed in, against the reference; returns what passed."""
        small = replace(problem, shot=min(problem.shot, 2), query=3, steps=min(problem.steps, 2), tasks=2, double=True)
        passed = []
        wanted = self.lanes.step(reference, small, "intra-op")[1]
        for number, design in enumerate(designs):
            self.observe(part, number, len(designs))
            record: Record = {"part": part, "design": design.name, "second_order": problem.second_order}
            record |= {"version": design.version, "exact": design.exact}
            if not design.installed:
                yield {**record, "passed": False, "failed": "not installed"}
                continue
            try:
                error = max(
                    self._distance(design, replace(small, channels_last=last), wanted) for last in design.layouts
                )
            except FailedError as failed:
                yield {**record, "passed": False, "failed": str(failed)}
                continue
            good = error <= design.tolerance
            why = {} if good else {"failed": f"its gradient is {error:.0e} away from the textbook's"}
            yield {**record, "passed": good, "distance": error, **why}
            passed += [design] if good else []
        self.observe(part, len(designs), len(designs))
        return passed

    def _distance(self, design: Design, problem: Problem, wanted: Array) -> float:
        got = self.lanes.step(design, problem, design.arrangements[0])[1]
        if got.shape != wanted.shape:
            return float("inf")
        return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))

    def memory(self, designs: Sequence[Design], problem: Problem) -> Iterator[Record]:
        """Growth of a fresh process, and what four times the steps add to ours, with and without recomputation."""
        longer = replace(problem, steps=4 * problem.steps)
        cases = [(design, problem) for design in designs]
        cases += [(design, longer) for design in designs if design in (OURS, RECOMPUTED)]
        with ThreadPoolExecutor(self.lanes.threads) as pool:
            futures = [pool.submit(memory_growth, *case) for case in cases]
            for number, ((design, case), future) in enumerate(zip(cases, futures, strict=True)):
                self.observe("memory", number, len(cases))
                record: Record = {"part": "memory", "design": design.name, "steps": case.steps}
                try:
                    yield {**record, "bytes": future.result()}
                except FailedError as failed:
                    yield {**record, "failed": str(failed)}
        self.observe("memory", len(cases), len(cases))

    def steps(self, part: str, designs: Sequence[Design], problem: Problem) -> Iterator[Record]:
        """Each design in its best arrangement, in rounds."""
        stage = f"{part}, {'second' if problem.second_order else 'first'} order"
        total = len(designs) * (1 + self.plan.rounds)
        contenders: list[Contender] = []
        for number, design in enumerate(designs):
            self.observe(stage, number, total)
            record = {"part": part, "design": design.name, "second_order": problem.second_order}
            try:
                contenders.append(self._best(design, problem))
            except FailedError as failed:
                yield {**record, "failed": str(failed)}
        for contender in contenders:
            self.lanes.prepare(*contender)  # again where a later one took the lanes down with it
        for contender, seconds, ratios in self._rounds(contenders, self.plan.rounds, stage, len(designs), total):
            yield {
                "part": part,
                "design": contender.design.name,
                "second_order": problem.second_order,
                "exact": contender.design.exact,
                "arrangement": contender.arrangement,
                "channels_last": contender.problem.channels_last,
                "tasks": problem.tasks,
                "seconds": seconds,
                "ratios": ratios,
                "to": contenders[0].design.name,
            }

    def inductive(self, design: Design, plain: Design, problem: Problem, what: str) -> Iterator[Record]:
        """Our time with the support set's statistics, over that with the batch's own; the gate compares with `plain`."""
        (arrangement,) = design.arrangements
        contenders = [
            Contender(design, replace(problem, norm=norm), arrangement) for norm in ("transductive", "support")
        ]
        if not (yield from self.gate([design], contenders[1].problem, plain, "inductive gate")):
            return
        for contender in contenders:
            self.lanes.prepare(*contender)
        stage = f"inductive, {what}"
        rounds = list(self._rounds(contenders, self.plan.rounds, stage, 0, 2 * self.plan.rounds))
        yield {"part": "inductive", "what": what, "ratios": rounds[1][2]}

    def scaling(self) -> Iterator[Record]:
        """Our second-order step at other steps, shots, tasks and sizes."""
        base, points = self.plan.problem, self.plan.points
        cases = [("", 0), *((name, value) for name, values in points for value in values)]
        for number, (name, value) in enumerate(cases):
            self.observe("scaling", number, len(cases))
            changed: dict[str, Any] = {name: value} if name else {}
            contender = Contender(OURS, replace(base, **changed), "threads")
            seconds = [self.lanes.step(*contender)[0] for _ in range(1 + self.plan.repeats)][1:]
            told = [(name, value)] if name else [(each, getattr(base, each)) for each, _ in points]
            yield from ({"part": "scaling", "what": each, "value": at, "seconds": seconds} for each, at in told)
        self.observe("scaling", len(cases), len(cases))

    def data(self, threads: int) -> Iterator[Record]:
        """Share of sampling and augmentation in a step of `fit`."""
        self.observe("data path", 0, 1)
        records = self.lanes.wide(fit_records, self.plan.problem, 1 + self.plan.repeats, threads)[1:]
        self.observe("data path", 1, 1)
        shares = [record["data_seconds"] / record["seconds"] for record in records]
        yield {"part": "data", "share": statistics.median(shares), "records": records}

    def _best(self, design: Design, problem: Problem) -> Contender:
        """The layout, then the arrangement, in which the second of two steps of a task a core is fastest."""
        few = replace(problem, tasks=min(problem.tasks, self.lanes.threads))

        def seconds(last: bool, arrangement: Arrangement) -> float:
            return min(self.lanes.step(design, replace(few, channels_last=last), arrangement)[0] for _ in range(2))

        first = {last: seconds(last, design.arrangements[0]) for last in design.layouts}
        layout = min(first, key=lambda last: first[last])
        by_arrangement = {design.arrangements[0]: first[layout]}
        by_arrangement |= {each: seconds(layout, each) for each in design.arrangements[1:]}
        best = min(by_arrangement, key=lambda each: by_arrangement[each])
        contender = Contender(design, replace(problem, channels_last=layout), best)
        self.lanes.step(*contender)  # of all tasks: what has no memory for them fails here, and not in a round
        return contender

    def _rounds(
        self, contenders: Sequence[Contender], rounds: int, stage: str, done: int, total: int
    ) -> Iterator[tuple[Contender, list[float], list[float]]]:
        """Seconds of each contender in each round, and their ratios to the first's; the order turns from round to round."""
        seconds: dict[int, list[float]] = {place: [] for place in range(len(contenders))}
        for number in range(rounds):
            for turn in range(len(contenders)):
                place = (number + turn) % len(contenders)
                self.observe(stage, done, total)
                seconds[place].append(self.lanes.step(*contenders[place])[0])
                done += 1
        self.observe(stage, done, total)
        for place, contender in enumerate(contenders):
            yield contender, seconds[place], [a / b for a, b in zip(seconds[place], seconds[0], strict=True)]


def fit_records(problem: Problem, iterations: int, threads: int) -> list[dict[str, float]]:
    """Seconds of a few iterations of `fit` on made pictures, and of their data path; runs in a lane."""
    torch.set_num_threads(threads)
    method = MAML(
        width=problem.width,
        shot=problem.shot,
        query=problem.query,
        steps=problem.steps,
        tasks=problem.tasks,
        iterations=iterations,
        warmup=0,
        held_out=0.0,
    )
    common = separable(problem.size, lesions=problem.shot + problem.query + 1).common()
    records: list[dict[str, float]] = []
    method.fit(
        common,
        seed=0,
        observe=lambda now: records.append({name: now.record[name] for name in ("seconds", "data_seconds")}),
    )
    return records


def _setting(plan: Plan, threads: int) -> Record:
    return {
        "part": "setting",
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": _cpu(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "problem": asdict(plan.problem),
        "rounds": plan.rounds,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
