"""The bench on tiny tasks: counts, gate, and all parts from end to end. Times mean nothing here."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rareshot.bench import floor, peers
from rareshot.bench.designs import (
    BFLOAT16_HESSIAN,
    META_TEST,
    ON_A_GPU,
    OURS,
    PLAIN,
    SIDE_BY_SIDE,
    TEXTBOOK,
    Design,
    ours,
    side_by_side,
)
from rareshot.bench.lanes import FailedError, run_step
from rareshot.bench.picture import draw_roofline
from rareshot.bench.problem import Problem, Step
from rareshot.bench.run import Plan, Record, _Bench, run
from rareshot.bench.tables import describe, markdown, tables
from rareshot.commands import bench as command
from rareshot.commands.bench import Bench, bench, plan_of
from rareshot.gradients import Task

TINY = Problem(size=28, shot=1, steps=1, query=2, tasks=2, width=8)


def slightly_wrong(problem: Problem, tasks: Sequence[Task]) -> Step:
    """Ours, with one number of the gradient off by a millionth."""
    right = ours(problem, tasks)

    def step() -> dict[str, Tensor]:
        gradient = right()
        gradient["head.weight"][0, 0] *= 1 + 1e-6
        return gradient

    return step


def breaking(problem: Problem, tasks: Sequence[Task]) -> Step:
    """A library that does not go with this torch."""
    raise RuntimeError("no such operator")


WRONG = Design("slightly wrong", slightly_wrong, arrangements=("threads",), layouts=(True,))
BROKEN = Design("broken", breaking)
ABSENT = Design("absent", breaking, package="no_such_package")


@pytest.fixture(scope="module")
def records() -> list[Record]:
    plan = Plan(TINY, rounds=2, test_steps=1, rate_seconds=0.001, repeats=1, points=(("steps", (2,)),))
    torch.set_num_threads(2)
    try:
        designs = (OURS, SIDE_BY_SIDE, BFLOAT16_HESSIAN, TEXTBOOK, WRONG, BROKEN, ABSENT)
        return list(run(plan, designs=designs, answers=(META_TEST[0],), device="cpu"))
    finally:
        torch.set_num_threads(1)


def of(records: list[Record], part: str, **wanted: Any) -> list[Record]:
    return [each for each in records if each["part"] == part and wanted.items() <= each.items()]


def test_counts_of_the_reference_problem_are_those_by_hand() -> None:
    # Forward of an image: 2 * 9 * 3 * 64 * 84^2 = 24.4 M, then 2 * 9 * 64 * 64 * (42^2 + 21^2 + 10^2) = 169.9 M.
    first, rest = 24_385_536, 169_869_312 + 73_728 * (42**2 + 21**2 + 10**2) - 169_869_312
    gradient, product = 2 * first + 3 * rest, 2 * first + 6 * rest
    assert floor.flop(Problem()) == 4 * (10 * 5 * (gradient + product) + 30 * gradient)
    assert floor.flop(Problem(second_order=False)) == 4 * (10 * 5 * gradient + 30 * gradient)
    assert round(floor.flop(Problem()) / 1e9) == 392


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("design", [TEXTBOOK, PLAIN], ids=lambda design: design.name)
def test_counts_are_what_torch_counts_in_autograd(design: Design, second_order: bool) -> None:
    problem = replace(TINY, steps=2, tasks=1, second_order=second_order)
    step = design.prepare(problem, [problem.task(0)])
    with FlopCounterMode(display=False) as counter:
        step()
    convolutions = {name: count for name, count in counter.get_flop_counts()["Global"].items() if "conv" in str(name)}
    # Autograd also takes the gradient in the support images of each step's gradient, for nobody.
    wasted = 2 * 2 * 9 * 3 * 8 * 28**2 * problem.steps if second_order else 0
    assert floor.flop(problem) + wasted == sum(convolutions.values())


def test_least_time_adds_up_every_call_at_its_own_rate() -> None:
    rates = {each.layer: floor.Rate(1.0, 10.0) for each in floor.calls(TINY)}
    # Support: 2 calls each way in the first layer, 3 in the other three; query: 1 in each of four. Two tasks.
    assert floor.least_seconds(TINY, rates) == 2 * 11 * (2 + 3 * 3 + 4)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("prepare", [peers.vmapped, ours, side_by_side], ids=lambda prepare: prepare.__name__)
def test_designs_without_a_library_give_the_textbook_gradient(prepare: Any, second_order: bool) -> None:
    problem = replace(TINY, steps=2, double=True, second_order=second_order)
    wanted = run_step(TEXTBOOK, problem, ((0, 1),), 1)
    for groups in (((0, 1),), ((0,), (1,))):
        got = run_step(Design("one", prepare), problem, groups, 1)
        assert abs(got - wanted).max() < 1e-12 * abs(wanted).max()


def test_vmap_takes_fewer_tasks_at_once_where_they_would_fill_the_memory() -> None:
    assert peers.tasks_at_once(TINY, 4) == 4
    assert peers.tasks_at_once(Problem(size=2048), 4) == 1


def test_what_passes_the_gate_is_within_its_tolerance(records: list[Record]) -> None:
    passed = of(records, "gate", passed=True, exact=True)
    assert {each["design"] for each in passed} == {"ours", "ours, side by side", "functional loop"}
    assert len(passed) == 6
    assert all(each["distance"] < 1e-10 for each in passed)


def test_what_is_not_exact_has_a_bound_and_a_table_of_its_own(records: list[Record]) -> None:
    (gate,) = of(records, "gate", design=BFLOAT16_HESSIAN.name)
    assert not gate["exact"]
    assert 1e-10 < gate["distance"] <= BFLOAT16_HESSIAN.tolerance == 2e-2
    by_caption = {table.caption.partition(";")[0]: table for table in tables(records)}
    assert BFLOAT16_HESSIAN.name not in {row[0] for row in by_caption["One training step, second order"].rows}
    assert {row[0] for row in by_caption["Not exact: one training step, second order"].rows} == {BFLOAT16_HESSIAN.name}


def test_a_device_has_its_own_gate_rounds_and_projection(records: list[Record]) -> None:
    found = of(records, "device", second_order=True)
    assert {each["design"] for each in found} == {design.name for design in ON_A_GPU}
    passed = [each for each in found if "seconds" in each]
    assert "ours, side by side" in {each["design"] for each in passed}
    for each in passed:
        assert each["distance"] <= (1e-10 if each["exact"] else 2e-2)
        assert len(each["seconds"]) == len(each["ratios"]) == 2
        assert each["hours"] == pytest.approx(sum(each["seconds"]) / 2 * 3000 / 3600)


def test_a_design_that_fails_with_all_tasks_is_listed_and_the_others_are_timed_beside_the_first_that_is_left() -> None:
    class Full:
        """Lanes in which a design has no memory for all tasks, and ours fails at all."""

        threads = 2

        def step(self, design: Design, problem: Problem, arrangement: str) -> tuple[float, np.ndarray]:
            if design is OURS or (design is SIDE_BY_SIDE and problem.tasks > self.threads):
                raise FailedError("killed")
            return 0.1, np.zeros(1)

        def prepare(self, design: Design, problem: Problem, arrangement: str) -> None: ...

    lanes: Any = Full()
    found = list(
        _Bench(Plan(rounds=2), lanes, lambda *_: None).steps("meta-test", [OURS, SIDE_BY_SIDE, PLAIN], Problem())
    )
    assert [each.get("failed") for each in found] == ["killed", "killed", None]
    (table,) = [
        table
        for table in tables([{"part": "setting", "threads": 2, "problem": {"steps": 1}}, *found])
        if table.caption == "Meta-test"
    ]
    assert table.header[-1] == "x ours, plain (min to max)"


def test_a_wrong_gradient_is_listed_as_failed_and_not_timed(records: list[Record]) -> None:
    gates = of(records, "gate", design="slightly wrong")
    assert [each["passed"] for each in gates] == [False, False]
    assert "away from the textbook's" in gates[0]["failed"]
    assert not of(records, "step", design="slightly wrong")
    assert not of(records, "memory", design="slightly wrong")


def test_a_design_that_raises_or_is_not_installed_says_so(records: list[Record]) -> None:
    assert of(records, "gate", design="broken")[0]["failed"] == "RuntimeError: no such operator"
    assert of(records, "gate", design="absent")[0]["failed"] == "not installed"


def test_every_round_has_a_time_and_a_ratio_to_ours(records: list[Record]) -> None:
    steps = of(records, "step")
    exact = ["ours", "ours, side by side", "functional loop"]
    assert [each["design"] for each in steps] == [*exact[:2], BFLOAT16_HESSIAN.name, exact[2], *exact]
    for each, own in zip(steps, [steps[0]] * 4 + [steps[4]] * 3, strict=True):
        assert each["ratios"] == [a / b for a, b in zip(each["seconds"], own["seconds"], strict=True)]
        assert len(each["seconds"]) == 2


def test_every_part_is_there_and_survives_json(records: list[Record]) -> None:
    assert json.loads(json.dumps(records)) == records
    parts = ["setting", "rate", "floor", "gate", "memory", "step", "meta-test gate", "meta-test", "inductive gate"]
    assert list(dict.fromkeys(each["part"] for each in records)) == [*parts, "inductive", "scaling", "data", "device"]
    assert of(records, "inductive gate")[0]["passed"]
    assert all(each["bytes"] >= 0 for each in of(records, "memory"))
    assert 0 < of(records, "data")[0]["share"] < 1


def test_tables_and_picture_name_every_design(records: list[Record], tmp_path: Path) -> None:
    text = "\n".join(markdown(table) for table in tables(records))
    for words in (
        "ours",
        "functional loop",
        "not installed",
        "away from the textbook's",
        "of floor",
        "Meta-test",
        "Not exact: one training step, second order",
        "One training step on cpu, first order",
        "3000 iterations",
    ):
        assert words in text
    assert "no GPU here" in describe({**records[0], "gpu": None})
    assert "a GPU, in tables of its own" in describe({**records[0], "gpu": "a GPU"})
    files = [tmp_path / "roofline.svg", tmp_path / "roofline.png"]
    draw_roofline(records, *files)
    assert all(file.stat().st_size > 1000 for file in files)


@pytest.mark.usefixtures("ascii_locale")
def test_tables_are_written_in_utf_8_whatever_the_locale(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "run", lambda plan, observe: records)
    bench(["--out", str(tmp_path)])
    assert "–" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_the_command_asks_for_what_its_options_say() -> None:
    plan = plan_of(Bench(size=64, shot=3, steps=2, rounds=9))
    assert (plan.problem.size, plan.problem.shot, plan.problem.steps, plan.rounds) == (64, 3, 2, 9)
    assert plan_of(Bench(quick=True)).problem.size == 28


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 8}, "size=8: conv4 halves an image four times, so at least 16 pixels"),
        ({"shot": 0}, "shot=0: at least 1"),
        ({"steps": 0}, "steps=0: at least 1"),
        ({"rounds": 0}, "rounds=0: at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(Bench(**wrong))
