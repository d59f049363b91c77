"""Evaluations on disk: gone on with where they can be, and otherwise left as they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from tiny_table import SMALL, lesions

from rareshot.evaluation import METRICS, Plan, Protocol, Query, RunResult, plan
from rareshot.judging import Asked, judge
from rareshot.locks import hold
from rareshot.results import asked_of, header_of, read_queries, summary_of
from rareshot.run_record import Run
from rareshot.types import Classifier, Learner, Support

NAME = "paper-2way-2shot"


@pytest.fixture(scope="module")
def learner() -> Learner:
    return SMALL.untrained(lesions().common(), seed=0)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return plan(lesions().rare(), "paper", shot=2, count=4)


def header(learner: Learner, *, seed: int = 0) -> dict[str, Any]:
    run = Run(SMALL, "maml", seed, 16, "own", {"name": "made"}, {})
    return header_of(run, lesions().rare(), inductive=learner.inductive, protocol="paper", way=2, shot=2, seed=0)


def judged(
    folder: Path, learner: Learner, plans: Sequence[Plan], seed: int = 0
) -> tuple[list[RunResult], dict[str, Any]]:
    asked = Asked(NAME, header(learner, seed=seed), plans)
    return judge(folder, [asked], learner, lambda *_: None)[0]


def without_seconds(file: Path) -> list[dict[str, Any]]:
    return [{**json.loads(line), "seconds": 0} for line in file.read_text().splitlines()]


def test_a_killed_evaluation_goes_on_behind_the_last_whole_line(
    tmp_path: Path, learner: Learner, plans: list[Plan]
) -> None:
    judged(tmp_path / "whole", learner, plans)
    judged(tmp_path / "cut", learner, plans[:2])
    lines = tmp_path / "cut" / f"{NAME}.jsonl"
    with lines.open("a") as out, lines.with_suffix(".queries.jsonl").open("a") as scores:
        scores.write('{"scores": [0.5], "labels": [0], "groups": [1]}\n')
        out.write('{"protocol": "pa')
    judged(tmp_path / "cut", learner, plans)
    assert without_seconds(lines) == without_seconds(tmp_path / "whole" / f"{NAME}.jsonl")
    answers = [folder / f"{NAME}.queries.jsonl" for folder in (tmp_path / "cut", tmp_path / "whole")]
    assert answers[0].read_bytes() == answers[1].read_bytes()


@pytest.mark.parametrize("there", [None, 0, 3])
def test_lines_without_their_answers_are_read_and_not_written(
    tmp_path: Path, learner: Learner, plans: list[Plan], there: int | None
) -> None:
    """As in a clone, which brings none; or has some of an earlier evaluation."""
    results, summary = judged(tmp_path, learner, plans)
    answers = tmp_path / f"{NAME}.queries.jsonl"
    if there is None:
        answers.unlink()
    else:
        answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:there]))
    before = (tmp_path / f"{NAME}.jsonl").read_bytes()
    assert judged(tmp_path, learner, plans) == (results, json.loads(json.dumps(summary)))
    with pytest.raises(
        ValueError, match=r"has 4 episodes, and .*queries\.jsonl has not .* 3 episodes cannot be summed up"
    ):
        judged(tmp_path, learner, plans[:3])
    with pytest.raises(ValueError, match=r"holds results of something else: its run\.seed is not"):
        judged(tmp_path, learner, plans, seed=1)
    (tmp_path / f"{NAME}.summary.json").unlink()
    with pytest.raises(ValueError, match="4 episodes cannot be summed up"):
        judged(tmp_path, learner, plans)
    assert (tmp_path / f"{NAME}.jsonl").read_bytes() == before
    assert answers.exists() == (there is not None)


@dataclass(frozen=True)
class Counting:
    """A learner that writes down what it adapts to."""

    learner: Learner
    seeds: list[int]

    @property
    def inductive(self) -> bool:
        return self.learner.inductive

    def adapt(self, support: Support, *, seed: int = 0) -> Classifier:
        self.seeds.append(seed)
        return self.learner.adapt(support, seed=seed)


@pytest.mark.parametrize("norm", ["support", "transductive"])
@pytest.mark.parametrize("there", [(0, 0), (3, 1), (0, 2), (4, 3)])
def test_protocols_judged_together_adapt_once_and_write_what_each_writes_alone(
    tmp_path: Path, there: tuple[int, int], norm: Literal["support", "transductive"]
) -> None:
    learner = replace(SMALL, norm=norm).untrained(lesions().common(), seed=0)
    protocols: tuple[Protocol, ...] = ("paper", "full")

    def asked(protocol: Protocol, count: int) -> Asked:
        plans = plan(lesions().rare(), protocol, shot=2, count=count)
        return Asked(f"{protocol}-2way-2shot", {**header(learner), "protocol": protocol}, plans)

    for protocol, count in zip(protocols, there, strict=True):
        judge(tmp_path / "alone", [asked(protocol, 4)], learner, lambda *_: None)
        if count:
            judge(tmp_path / "together", [asked(protocol, count)], learner, lambda *_: None)
    counting = Counting(learner, [])
    judge(tmp_path / "together", [asked(each, 4) for each in protocols], counting, lambda *_: None)  # type: ignore[arg-type]
    assert sorted(counting.seeds) == list(range(min(there), 4))
    for protocol in protocols:
        alone, together = (tmp_path / folder / f"{protocol}-2way-2shot.jsonl" for folder in ("alone", "together"))
        assert without_seconds(alone) == without_seconds(together)
        assert alone.with_suffix(".queries.jsonl").read_bytes() == together.with_suffix(".queries.jsonl").read_bytes()
        summaries = [json.loads(file.with_suffix(".summary.json").read_bytes()) for file in (alone, together)]
        assert summaries[0] | {"seconds_per_episode": 0} == summaries[1] | {"seconds_per_episode": 0}


def test_lines_of_other_episodes_are_refused(tmp_path: Path, learner: Learner, plans: list[Plan]) -> None:
    judged(tmp_path, learner, plans[:2])
    for suffix in (".jsonl", ".queries.jsonl"):
        file = tmp_path / f"{NAME}{suffix}"
        file.write_text(file.read_text() + file.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match="line 4, is of episode 1 and not of 2"):
        judged(tmp_path, learner, plans)


def test_two_processes_do_not_write_the_same_lines(tmp_path: Path, learner: Learner, plans: list[Plan]) -> None:
    judged(tmp_path, learner, plans[:1])
    with (tmp_path / f"{NAME}.jsonl").open("a") as other:
        assert hold(other.fileno(), wait=False)
        with pytest.raises(ValueError, match="is being written by another process"):
            judged(tmp_path, learner, plans)
    assert len(judged(tmp_path, learner, plans)[0]) == 4


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("damage", [b"[]\n", b"\xff\n", b"{\n", b"[" * 100_000 + b"\n"])
def test_damaged_lines_are_named_and_kept(
    tmp_path: Path, learner: Learner, plans: list[Plan], damage: bytes, behind: bool
) -> None:
    file = tmp_path / f"{NAME}.jsonl"
    if behind:
        damage = json.dumps(header(learner)).encode() + b"\n" + damage
    file.write_bytes(damage)
    with pytest.raises(ValueError, match=rf"{NAME}\.jsonl.* is damaged"):
        judged(tmp_path, learner, plans)
    assert file.read_bytes() == damage


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {}},
        {"metrics": []},
        {"metrics": None},
        {"metrics": {"auc": 0.5}},
        {"metrics": dict.fromkeys(METRICS, "0.5")},
        {"metrics": dict.fromkeys(METRICS, 2.0)},
        {"seconds": "1"},
        {"classes": [1, "b"]},
    ],
)
def test_a_line_without_its_figures_is_named_and_kept(
    tmp_path: Path, learner: Learner, plans: list[Plan], change: dict[str, Any]
) -> None:
    judged(tmp_path, learner, plans[:2])
    file = tmp_path / f"{NAME}.jsonl"
    lines = file.read_text().splitlines()
    damaged = "\n".join([*lines[:2], json.dumps(json.loads(lines[2]) | change)]) + "\n"
    file.write_text(damaged)
    for asked in (plans, plans[:1]):
        with pytest.raises(ValueError, match=rf"{NAME}\.jsonl, line 3, (is damaged|has figures that are none).*; move"):
            judged(tmp_path, learner, asked)
    assert file.read_text() == damaged


def test_a_blank_line_costs_no_answer(tmp_path: Path, learner: Learner, plans: list[Plan]) -> None:
    judged(tmp_path, learner, plans[:2])
    for name in (f"{NAME}.queries.jsonl", f"{NAME}.jsonl"):
        file = tmp_path / name
        first, *rest = file.read_text().splitlines(keepends=True)
        file.write_text("".join([first, "\n", *rest]))
    results, _ = judged(tmp_path, learner, plans)
    assert len(results) == len(plans) == len(read_queries(tmp_path / f"{NAME}.jsonl"))


def test_the_default_of_site_is_the_same_told_or_not(learner: Learner) -> None:
    site = {**header(learner), "protocol": "site"}
    assert [asked_of({**site, "episodes": told}, "episodes") for told in (None, 100, 30)] == [100, 100, 30]
    assert asked_of(header(learner), "episodes") is None


def test_a_summary_says_what_it_was_asked_to_say(tmp_path: Path, learner: Learner, plans: list[Plan]) -> None:
    asked = Asked(NAME, header(learner), plans[:2], {"first_episodes": 2})
    for _ in range(2):
        [(_, summary)] = judge(tmp_path, [asked], learner, lambda *_: None)
        assert summary == json.loads((tmp_path / f"{NAME}.summary.json").read_text())
        assert summary["first_episodes"] == 2
        (tmp_path / f"{NAME}.queries.jsonl").unlink(missing_ok=True)


def test_progress_is_of_the_episodes_that_are_asked_for(tmp_path: Path, learner: Learner, plans: list[Plan]) -> None:
    results, _ = judged(tmp_path, learner, plans)
    told: list[tuple[int, float]] = []
    judge(tmp_path, [Asked(NAME, header(learner), plans[:2])], learner, lambda *step: told.append(step))
    assert told == [(2, pytest.approx(sum(each.metrics["auc"] for each in results[:2]) / 2))]


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [10**400, *[0.5] * 29]},
        {"scores": [{}, *[0.5] * 29]},
        {"scores": [0.5]},
        {"labels": [None, *[0] * 29]},
        {"labels": 0},
        {"groups": [[], *[0] * 29]},
        {"groups": [2**63, *[0] * 29]},
    ],
)
def test_answers_that_are_none_are_named_and_kept(
    tmp_path: Path, learner: Learner, plans: list[Plan], change: dict[str, Any]
) -> None:
    judged(tmp_path, learner, plans[:2])
    file = tmp_path / f"{NAME}.queries.jsonl"
    first, second = file.read_text().splitlines()
    damaged = f"{first}\n{json.dumps(json.loads(second) | change)}\n"
    file.write_text(damaged)
    with pytest.raises(ValueError, match=rf"{NAME}\.queries\.jsonl is damaged \(line 2 is not a score, a label and a"):
        judged(tmp_path, learner, plans)
    assert file.read_text() == damaged


def test_too_few_lesions_leave_an_interval_out_and_the_rest_stands(learner: Learner) -> None:
    told = header(learner)
    metrics = dict.fromkeys(METRICS, 0.5)
    results = [RunResult("paper", i, ("a", "b"), "", 3, 0.1, metrics) for i in range(4)]
    queries = [Query([0.1, 0.8, 0.6], [0, 1, 1], [0, i + 1, i + 2]) for i in range(4)]  # one lesion of class a
    summary = summary_of(told, results, queries)
    assert "auc_over_lesions" not in summary
    assert summary["metrics"]["auc"]["n"] == 4
    by_site = summary_of({**told, "protocol": "site"}, [replace(each, protocol="site") for each in results], queries)
    assert by_site["pairs"][0]["lesions"] == {"a": 1, "b": 5}
    assert "auc_over_lesions" not in by_site["pairs"][0]
