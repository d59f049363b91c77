"""Training that hospitals share: rounds, means, and what is refused."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_sets import make_images

from rareshot import cli, validation
from rareshot.checkpoint import last_training_state, load_learner, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load
from rareshot.data.synthetic import separable
from rareshot.federated import Episodic, refuse_other_than_episodic
from rareshot.federated.client import Introduction, Update, enough, introduce, train_round
from rareshot.federated.server import (
    TooFewClientsError,
    farthest,
    mean_state,
    pooled_pixels,
    refuse_update,
    run_rounds,
)
from rareshot.federated.simulation import Simulated, split_by
from rareshot.locks import HeldElsewhereError, alone
from rareshot.losses import DifficultyAware
from rareshot.methods import METHODS
from rareshot.methods.maml import MAML
from rareshot.methods.meta_training import meta_rate
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet
from rareshot.model_card import model_card
from rareshot.pixels import Pixels
from rareshot.run_record import Run, read_run, write_run
from rareshot.training import TrainingDivergedError
from rareshot.trust_file import Trust, load_trust
from rareshot.types import Progress, State

SMALL: dict[str, Any] = {
    "width": 8,
    "shot": 1,
    "query": 2,
    "tasks": 1,
    "iterations": 5,
    "warmup": 3,
    "validate_every": 4,
    "held_out": 0.3,
}
DAML = MAML(meta_loss=DifficultyAware(), steps=2, test_steps=2, inner_lr=0.05, **SMALL)


@pytest.fixture(autouse=True)
def few_validation_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VALIDATION_EPISODES", 2)


@pytest.fixture(scope="module")
def common(made: LabelledImages) -> LabelledImages:
    """Two hospitals, `north` and `south`."""
    site = np.where(made.groups % 2 == 0, "north", "south")
    return replace(made, columns={"site": site}).common()


def run_of(method: Episodic, size: int = 16, seed: int = 3) -> Run:
    return Run(method, "daml", seed, size, "own", {"name": "made"}, {})


def shared(folder: Path, method: Episodic, clients: Mapping[str, LabelledImages], local: int = 2, **how: Any) -> State:
    at = Simulated(method, clients, folder / "clients", 3)
    run = run_of(method, next(iter(clients.values())).size)
    return run_rounds(folder, run, at, local=local, fewest=len(clients), **how).state()


@pytest.mark.parametrize(
    "method",
    [
        DAML,
        replace(DAML, sampling="curriculum", tasks=4),
        replace(DAML, adapted="head"),
        replace(DAML, held_out=0.0),
        ProtoNet(**SMALL),
        RelationNet(**SMALL),
    ],
    ids=["daml", "task sampling", "anil", "nothing held out", "protonet", "relation"],
)
def test_one_client_that_holds_all_images_is_fit_bit_by_bit(
    common: LabelledImages, method: Episodic, tmp_path: Path
) -> None:
    images = separable(22, lesions=12, seed=0).common() if isinstance(method, RelationNet) else common  # its smallest
    alone = method.fit(images, seed=3).state()
    assert state_hash(shared(tmp_path, method, {"all": images})) == state_hash(alone)


def test_a_round_of_two_ends_at_the_mean_of_what_each_would_reach_alone(common: LabelledImages, tmp_path: Path) -> None:
    parts, _ = split_by(DAML, common, "site")
    method = replace(DAML, iterations=3)
    ours = shared(tmp_path, method, parts, local=3)
    pooled = pooled_pixels([introduce(method, part) for part in parts.values()])
    start = {**method.blank(16, seed=3).state(), **pooled}
    alone = [
        method.fit(part, seed=3 + 1000 * number, start=start).state()
        for number, (_, part) in enumerate(sorted(parts.items()))
    ]
    for name, value in ours.items():
        torch.testing.assert_close(value, (alone[0][name] + alone[1][name]) / 2)


def test_a_stop_in_any_round_changes_nothing(common: LabelledImages, tmp_path: Path) -> None:
    parts, _ = split_by(DAML, common, "site")
    whole = shared(tmp_path / "whole", DAML, parts)

    class StopError(Exception):
        pass

    for after in (1, 4, 6):  # in a round, with the first client or the second, and when a round has just ended
        calls: list[Progress] = []

        def watch(client: str, now: Progress, calls: list[Progress] = calls, after: int = after) -> None:
            calls.append(now)
            if len(calls) == after:
                raise StopError

        folder = tmp_path / str(after)
        at = Simulated(DAML, parts, folder / "clients", 3, watch)
        with pytest.raises(StopError):
            run_rounds(folder, run_of(DAML), at, local=2, fewest=2)
        assert state_hash(shared(folder, DAML, parts)) == state_hash(whole)
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert [line["iteration"] for line in lines] == [2, 4, 5]


def test_a_client_that_missed_a_round_takes_part_again(common: LabelledImages, tmp_path: Path) -> None:
    parts, _ = split_by(DAML, common, "site")

    class Late(Simulated):
        def train(self, state: State, first: int, until: int, numbers: Mapping[str, int]) -> dict[str, Update | str]:
            if first != 2:
                return super().train(state, first, until, numbers)
            north = replace(self, images={"north": self.images["north"]})
            return Simulated.train(north, state, first, until, numbers) | {"south": "is not there"}

    at = Late(replace(DAML, sampling="curriculum"), parts, tmp_path / "clients", 3)
    run_rounds(tmp_path, run_of(at.method), at, local=2, fewest=1)
    steps = [
        int(last_training_state(tmp_path / "clients" / name).optimiser["backbone.blocks.0.conv.weight.step"])  # type: ignore[union-attr]
        for name in ("north", "south")
    ]
    assert steps == [5, 3]  # its moments are those of before the round that it missed
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [sorted(line["clients"]) for line in lines] == [["north", "south"], ["north"], ["north", "south"]]
    assert lines[1]["refused"] == {"south": "is not there"}


@pytest.mark.parametrize("sampling", ["uniform", "curriculum"])
def test_a_client_that_comes_later_begins_with_no_memory(common: LabelledImages, tmp_path: Path, sampling: str) -> None:
    method = replace(DAML, sampling=sampling)  # type: ignore[arg-type]
    state = method.untrained(common, seed=3).state()
    train_round(method, common, state, tmp_path, seed=1, first=3, until=4)
    late = last_training_state(tmp_path)
    assert late is not None
    assert (late.iteration, int(late.optimiser["backbone.blocks.0.conv.weight.step"])) == (4, 1)


def test_a_damaged_memory_is_passed_over(common: LabelledImages, tmp_path: Path) -> None:
    state = DAML.untrained(common, seed=3).state()
    for first in (0, 2):
        train_round(DAML, common, state, tmp_path, seed=1, first=first, until=first + 2)
    (tmp_path / "checkpoint-000004.safetensors").write_bytes(b"rubbish")
    train_round(DAML, common, state, tmp_path, seed=1, first=4, until=5)
    late = last_training_state(tmp_path)
    assert late is not None
    assert int(late.optimiser["backbone.blocks.0.conv.weight.step"]) == 3  # the two of the sound one, and one more


def test_what_a_client_says_of_a_round(common: LabelledImages, tmp_path: Path) -> None:
    """`validate_every` is 4: the round of iterations 2 to 5 has its figure in the middle."""
    method = replace(DAML, iterations=6)
    state, records = method.untrained(common, seed=3).state(), []
    train_round(method, common, state, tmp_path, seed=1, first=0, until=2)
    trained = train_round(
        method, common, state, tmp_path, seed=1, first=2, until=5, observe=lambda now: records.append(now.record)
    )
    assert trained.record["validation_auc"] == records[1]["validation_auc"]
    assert trained.record["loss"] == pytest.approx(np.mean([record["loss"] for record in records]))


def test_the_colours_of_two_clients_are_those_of_their_images_together(common: LabelledImages) -> None:
    method = replace(DAML, held_out=0.0)
    half = [common.take(np.arange(start, len(common), 2)) for start in (0, 1)]
    assert len(half[0]) == len(half[1])
    together, pooled = Pixels.of(common).state(), pooled_pixels([introduce(method, part) for part in half])
    for name, value in together.items():
        torch.testing.assert_close(pooled[name], value)


def test_the_mean_of_states_is_of_each_weight() -> None:
    one, other = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    assert mean_state([one, other])["w"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 300])
def test_adam_never_goes_farther_than_we_say(steps: int) -> None:
    """The worst gradients: small ones for long, which v forgets less of than m, then larger and larger ones."""
    for growth in (0.3, 1.0, 1.11, 3.0):
        value = torch.zeros(1, dtype=torch.float64)
        adam = torch.optim.Adam([value], lr=0.01)
        moved = []
        for step in range(1000 + steps):
            value.grad = torch.full((1,), growth ** max(-80, min(step - 1000, 80)), dtype=torch.float64)
            before = value.clone()
            adam.step()
            moved.append(float((value - before).abs()))
        assert sum(moved[-steps:]) <= farthest([0.01] * steps)


def test_no_honest_update_is_refused_for_going_too_far(common: LabelledImages, tmp_path: Path) -> None:
    state = DAML.untrained(common, seed=0).state()
    update = train_round(DAML, common, state, tmp_path, seed=0, first=0, until=5)
    refuse_update(state, update.state, [meta_rate(DAML, i) for i in range(5)])


def _nan(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name] * float("nan")


def _far(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name] + 1


def _other_shape(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name].flatten()


def _missing(state: dict[str, torch.Tensor], name: str) -> None:
    del state[name]


def _double(state: dict[str, torch.Tensor], name: str) -> None:
    state[name] = state[name].double()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_nan, "numbers that are not finite, in backbone"),
        (_far, "moved by 1 in 2 iterations, and Adam at these rates moves by 0.0147 at most"),
        (_other_shape, "state does not fit this method: backbone"),
        (_missing, "are not in both"),
        (_double, "torch.float64, not"),
    ],
)
def test_a_bad_update_stays_out_of_the_mean_and_the_others_go_on(
    common: LabelledImages, tmp_path: Path, harm: Any, told: str
) -> None:
    parts, _ = split_by(DAML, common, "site")

    class Hostile(Simulated):
        def train(self, state: State, first: int, until: int, numbers: Mapping[str, int]) -> dict[str, Update | str]:
            answers = super().train(state, first, until, numbers)
            sent = answers["south"]
            assert isinstance(sent, Update)
            bad = dict(sent.state)
            harm(bad, "backbone.blocks.0.conv.weight")
            return {**answers, "south": replace(sent, state=bad)}

    at = Hostile(replace(DAML, iterations=2, warmup=2), parts, tmp_path / "clients", 3)
    learner = run_rounds(tmp_path / "hostile", run_of(at.method), at, local=2, fewest=1)
    (line,) = [json.loads(line) for line in (tmp_path / "hostile" / "log.jsonl").read_text().splitlines()]
    assert list(line["clients"]) == ["north"]
    assert told in line["refused"]["south"]
    assert all(value.isfinite().all() for value in learner.state().values())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", "Expecting value"),
        ("[]", "no introduction"),
        ("{}", "no introduction"),
        (
            '{"classes": {"a": 1}, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1], "fingerprint": ""}',
            "classes must be 2",
        ),
        (
            '{"classes": {"a": 1, "b": true}, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1], "fingerprint": ""}',
            "a whole number of lesions",
        ),
        (
            '{"classes": {"a": 1, "b\\n": 2}, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1], "fingerprint": ""}',
            "printable",
        ),
        (
            '{"classes": {"a": 1, "b": 2}, "mean": [0.1, 0.1], "std": [0.1], "fingerprint": ""}',
            "mean must be 3 numbers",
        ),
        ('{"classes": {"a": 1, "b": 2}, "mean": [0.1, 0.1, NaN], "std": [0.1], "fingerprint": ""}', "mean must be 3"),
        (
            '{"classes": {"a": 1, "b": 2}, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.0], "fingerprint": ""}',
            "std must be",
        ),
        (
            '{"classes": {"a": 1, "b": 2}, "mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1], "fingerprint": "../x"}',
            "16 hexadecimal digits",
        ),
    ],
)
def test_what_a_client_says_of_itself_is_checked(said: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Introduction.from_json(said)


def test_an_introduction_survives_the_way(common: LabelledImages) -> None:
    said = introduce(DAML, common)
    assert Introduction.from_json(said.to_json()) == said
    assert said.classes == dict.fromkeys(common.classes, 12)


def test_a_client_trains_on_the_classes_it_has_enough_of(common: LabelledImages) -> None:
    first = common.classes[0]
    few = common.take(np.flatnonzero((common.labels != 0) | (common.groups == common.groups[common.labels == 0][0])))
    assert first not in enough(DAML, few).classes
    assert enough(DAML, common) is common
    with pytest.raises(ValueError, match=r"needs 2 common classes with shot \+ query = 30 \+ 2 = 32 lesions"):
        enough(replace(DAML, shot=30), common)


def test_patients_with_two_diseases_are_not_counted_on(common: LabelledImages) -> None:
    part = common.of(common.classes[:2])
    place = np.concatenate([np.arange((part.labels == label).sum()) for label in (0, 1)])
    both = replace(part, groups=place)  # every patient has both
    method = replace(DAML, held_out=0.0, shot=10, query=5)
    with pytest.raises(ValueError, match="of them hold another class as well"):
        enough(method, both)
    sites = replace(both, columns={"site": np.where(both.groups == 0, "south", "north")})
    with pytest.raises(ValueError, match=r"no value of site can be a client \(north: .* hold another class as well"):
        split_by(method, sites, "site")


def test_methods_that_know_their_classes_are_refused() -> None:
    for name, method in METHODS.items():
        if isinstance(method, Episodic):
            assert refuse_other_than_episodic(method, name) is method
        else:
            with pytest.raises(ValueError, match=f"{name} cannot be federated"):
                refuse_other_than_episodic(method, name)


def test_another_training_in_the_folder_is_refused(common: LabelledImages, tmp_path: Path) -> None:
    shared(tmp_path, DAML, {"all": common})
    with pytest.raises(ValueError, match="holds a training with another method"):
        shared(tmp_path, replace(DAML, tasks=3), {"all": common})
    with pytest.raises(ValueError, match="holds a training with another number of local iterations"):
        shared(tmp_path, DAML, {"all": common}, local=3)
    with pytest.raises(ValueError, match="holds a training with another data set, or other clients"):
        shared(tmp_path, DAML, {"all": common.take(np.arange(len(common) - 2))})
    with pytest.raises(ValueError, match="holds a training with another data set, or other clients"):
        shared(tmp_path, DAML, {"south": common})
    write_run(tmp_path / "alone", run_of(DAML))
    with pytest.raises(ValueError, match="holds a run that no clients share"):
        shared(tmp_path / "alone", DAML, {"all": common})


def test_a_folder_is_trained_in_by_one_process(common: LabelledImages, tmp_path: Path) -> None:
    with alone(tmp_path, wait=False), pytest.raises(HeldElsewhereError, match="is being fitted by another process"):
        shared(tmp_path, DAML, {"all": common})


def test_a_round_of_too_few_ends_the_training(common: LabelledImages, tmp_path: Path) -> None:
    class Silent(Simulated):
        def train(self, *given: Any) -> dict[str, Update | str]:
            return {"north": "is not there", "south": "is not there"}

    parts, _ = split_by(DAML, common, "site")
    at = Silent(DAML, parts, tmp_path / "clients", 3)
    with pytest.raises(
        TooFewClientsError, match=r"0 of 2 clients .* for iterations 0 to 2, and 1 are needed \(north: is"
    ):
        run_rounds(tmp_path, run_of(DAML), at, local=2, fewest=1)


def test_a_training_that_diverges_says_where(
    common: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*given: object, **named: object) -> None:
        raise TrainingDivergedError("too many tasks")

    monkeypatch.setattr(MAML, "fit", diverge)
    with pytest.raises(TrainingDivergedError, match="client all: too many tasks"):
        shared(tmp_path, DAML, {"all": common})


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Three classes, a rare one among them, at three sites."""
    return make_images(tmp_path / "set", [name for name in ("nv", "mel", "df") for _ in range(24)])


TINY = (
    "--size 28 --width 8 --shot 1 --query 2 --iterations 4 --warmup 2 --steps 1 --tasks 1 --held-out 0.3 --device cpu"
)
SETTINGS = shlex.split(TINY)


def test_the_command_leaves_a_run_that_evaluate_takes(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    data = ["--data", str(hospitals), "--rare", "df"]
    begin = ["federate", "simulate", "daml", *data, "--out", str(out), "--by", "site", "--local", "3", *SETTINGS]
    assert cli.main(begin) == 0
    said = capsys.readouterr()
    assert "client site0: lesions of" in said.err
    assert "next: rareshot evaluate" in said.out
    run = read_run(out)
    assert sorted(run.data["clients"]) == ["site0", "site1", "site2"]
    assert run.data["common"] == ["mel", "nv"]
    assert load_learner(out).size == 28
    assert "| shared by | site0, site1, site2; each kept its images |" in model_card(out)
    assert cli.main(begin) == 0  # there is nothing left to do
    assert cli.main([*begin[:-1], "cpu", "--seed", "1"]) == 2
    assert "holds a training with another seed; choose another --out" in capsys.readouterr().err


FEW = ["--shots", "1", "--episodes", "2", "--threads", "1"]


def test_a_hospital_calibrates_the_shared_learner_on_its_own_lesions(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by Flower: each has a folder of its own."""
    other = make_images(tmp_path / "other", [name for name in ("nv", "mel") for _ in range(20)])
    north, south = load(hospitals, 28, rare=("df",)).common(), load(other, 28).common()
    out = tmp_path / "shared"
    shared(out, DAML, {"north": north, "south": south})
    learner = load_learner(out)
    assert cli.main(["calibrate", str(out), "--data", str(hospitals), "--rare", "df", *FEW]) == 0
    assert "measured on the lesions that north held out" in capsys.readouterr().out
    found = load_trust(out, learner)
    assert found is not None
    assert found.hospital == "north"
    train, held = validation.held_out(north, DAML.held_out)
    assert held is not None
    expected = Trust.of(learner, train, held, shots=(1,), episodes=2, hospital="north")
    assert found.to_json() == expected.to_json()
    assert torch.equal(found.reference.precision, expected.reference.precision)
    assert "held-out lesions of the common classes of north alone" in model_card(out)
    assert cli.main(["calibrate", str(out), "--data", str(hospitals), "--rare", "mel", *FEW]) == 2
    assert "was trained by north, south together, and the common classes of" in capsys.readouterr().err


def test_whose_lesions_calibrate_a_simulated_run_is_said(
    hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shared"
    data = ["--data", str(hospitals), "--rare", "df"]
    assert cli.main(["federate", "simulate", "daml", *data, "--out", str(out), "--by", "site", *SETTINGS]) == 0
    assert cli.main(["calibrate", str(out), *data, *FEW]) == 2
    assert "say whose held-out lesions to ask with --client, one of site0, site1, site2" in capsys.readouterr().err
    assert cli.main(["calibrate", str(out), *data, "--client", "site1", *FEW]) == 0
    assert "measured on the lesions that site1 held out" in capsys.readouterr().out
    found = load_trust(out, load_learner(out))
    assert found is not None
    assert found.hospital == "site1"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["federate"], "federate needs one of simulate, app"),
        (["federate", "train"], "federate needs one of simulate, app; got 'train'"),
        (["federate", "simulate"], "federate simulate needs a method first: rareshot federate simulate METHOD"),
        (["federate", "simulate", "svm", "--data", "x", "--out", "y"], "svm cannot be federated"),
        (["federate", "simulate", "daml", "--data", "DATA", "--out", "y"], "name one with --by"),
        (["federate", "simulate", "daml", "--data", "DATA", "--out", "y", "--by", "town"], "no column 'town'"),
        (
            ["federate", "simulate", "daml", "--data", "DATA", "--out", "y", "--by", "site", "--shot", "60"],
            "no value of site can be a client (site0: a client needs 2 common classes with shot + query = 60 + 15 = 75",
        ),
        (
            [
                "federate",
                "simulate",
                "daml",
                "--data",
                "DATA",
                "--out",
                "y",
                "--by",
                "site",
                "--client",
                "z",
                *SETTINGS,
            ],
            "--client z: the column site has no such value; clients are site0, site1, site2",
        ),
        (["federate", "simulate", "daml", "--data", "DATA", "--out", "y", "--local", "0"], "--local 0: at least 1"),
        (["federate", "app", "daml", "--app", "a", "--out", "y", "--fewest", "0"], "--fewest 0: at least 1 hospital"),
        (["federate", "app", "daml", "--app", "a", "--out", "y", "--fewest", "2", "--timeout", "inf"], "--timeout inf"),
        (["federate", "app", "daml", "--app", "a", "--out", "y", "--fewest", "2", "--seed", "-1"], "--seed -1"),
        (
            ["federate", "app", "daml", "--app", "a", "--out", "y", "--fewest", "2", "--backbone", "x"],
            "no backbone 'x'",
        ),
        (["federate", "app", "daml", "--app", "DATA", "--out", "y", "--fewest", "2"], "name an empty or new folder"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    args: list[str], told: str, hospitals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = ["--rare", "df"] if "simulate" in args and "--data" in args else []
    words = [str(hospitals) if word == "DATA" else word for word in args]
    words = [str(tmp_path / word) if word in ("y", "a") else word for word in words]
    assert cli.main([*words, *rare]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
