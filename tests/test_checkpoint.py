import json
import math
import os
import platform
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import METHOD, RUN

from rareshot import config, run_record
from rareshot.atomic import write_atomically
from rareshot.checkpoint import (
    KEPT,
    last_training_state,
    load_learner,
    load_state,
    load_training_state,
    save_learner,
    save_state,
    save_training_state,
    state_hash,
)
from rareshot.data.collection import LabelledImages
from rareshot.losses import Mean
from rareshot.methods import KINDS
from rareshot.methods.maml import MAML, EpisodicLearner
from rareshot.run_record import read_run, versions, write_run
from rareshot.types import TrainingState


def training_state(iteration: int = 7) -> TrainingState:
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([0.1])}
    optimiser = {f"{name}.{key}": value + 1 for name, value in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    return TrainingState(iteration, weights, optimiser | {"b.step": torch.tensor(7.0)}, skipped=(3, 19))


@pytest.fixture
def learner(made: LabelledImages) -> EpisodicLearner:
    return METHOD.untrained(made.common(), seed=0)


@pytest.fixture
def folder(tmp_path: Path, learner: EpisodicLearner) -> Path:
    """A finished run."""
    write_run(tmp_path, RUN)
    save_learner(tmp_path, learner)
    return tmp_path


@pytest.mark.parametrize(
    "method",
    [
        MAML(),
        METHOD,
        MAML(hessian="bfloat16"),
        MAML(meta_loss=Mean(), norm="group", backbone="resnet10t", held_out=0.0, fast=False),
    ],
)
def test_a_method_survives_json(method: MAML) -> None:
    assert config.from_json(KINDS, json.loads(json.dumps(config.to_json(method)))) == method


def test_a_run_kept_before_a_field_was_there_reads_and_compares_as_before() -> None:
    told = config.to_json(MAML())
    assert "hessian" not in told
    assert config.from_json(KINDS, told) == MAML()
    assert config.to_json(MAML(hessian="bfloat16"))["hessian"] == "bfloat16"


def test_a_run_survives_the_disk(tmp_path: Path) -> None:
    write_run(tmp_path / "new" / "run", RUN)
    assert read_run(tmp_path / "new" / "run") == RUN


def test_versions_name_what_the_numbers_may_depend_on() -> None:
    found = versions()
    assert {"rareshot", "torch", "numpy", "python", "commit", "cpu"} <= set(found)
    assert found["threads"] == str(torch.get_num_threads())
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert found["cpu"].startswith(f"{platform.machine()} ")
    assert all(isinstance(value, str) for value in found.values())


def test_a_learner_survives_the_disk(folder: Path, learner: EpisodicLearner) -> None:
    loaded = load_learner(folder)
    assert loaded.method == learner.method
    assert loaded.size == learner.size
    assert loaded.state().keys() == learner.state().keys()
    assert all(torch.equal(loaded.state()[name], value) for name, value in learner.state().items())


def test_a_training_state_survives_the_disk(tmp_path: Path) -> None:
    state = training_state()
    again = load_training_state(save_training_state(tmp_path, state))
    assert (again.iteration, again.skipped) == (7, (3, 19))
    assert state_hash(again.weights) == state_hash(state.weights)
    assert state_hash(again.optimiser) == state_hash(state.optimiser)
    assert again.optimiser["b.step"].shape == ()


def test_tensors_of_any_memory_layout_are_saved_by_value(tmp_path: Path) -> None:
    plain = torch.arange(24.0).view(2, 3, 2, 2)
    tensors = {
        "last": plain.contiguous(memory_format=torch.channels_last),
        "turned": plain[0, 0].T,
        "one": plain[:, :1],
    }
    loaded, metadata = load_state(save_state(tmp_path / "x.safetensors", tensors, {"size": "16"}))
    assert metadata == {"size": "16"}
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_two_checkpoints_are_kept_the_newest(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 100, 99_999):
        save_training_state(tmp_path, training_state(iteration))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["checkpoint-000100.safetensors", "checkpoint-099999.safetensors"]
    assert KEPT == 2
    assert last_training_state(tmp_path).iteration == 99_999  # type: ignore[union-attr]


def test_without_a_checkpoint_there_is_no_state(tmp_path: Path) -> None:
    assert last_training_state(tmp_path) is None


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    save_training_state(tmp_path, training_state(1))
    newest = save_training_state(tmp_path, training_state(2))
    newest.write_bytes(newest.read_bytes()[:-3])
    assert last_training_state(tmp_path).iteration == 1  # type: ignore[union-attr]
    (tmp_path / "checkpoint-000001.safetensors").write_bytes(b"")
    assert last_training_state(tmp_path) is None


def test_the_checkpoint_just_written_is_kept(tmp_path: Path) -> None:
    for iteration in (200, 300):
        save_training_state(tmp_path, training_state(iteration)).write_bytes(b"damaged")
    assert save_training_state(tmp_path, training_state(100)).exists()


def test_a_checkpoint_with_broken_weights_is_refused(tmp_path: Path) -> None:
    state = replace(training_state(), weights={"b": torch.tensor([math.nan])})
    file = save_training_state(tmp_path, state)
    with pytest.raises(ValueError, match="not finite"):
        load_training_state(file)


def test_the_millionth_iteration_is_newer_than_the_one_before(tmp_path: Path) -> None:
    for iteration in (999_998, 999_999, 1_000_000):
        save_training_state(tmp_path, training_state(iteration))
    assert last_training_state(tmp_path).iteration == 1_000_000  # type: ignore[union-attr]


@pytest.mark.parametrize("when", ["write", "replace"])
def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"before")

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(*((os, "fsync") if when == "write" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(file, b"after")
    assert file.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_but_the_files_that_are_named_is_left(folder: Path) -> None:
    save_training_state(folder, training_state())
    names = {"run.json", "learner.safetensors", "checkpoint-000007.safetensors"}
    assert {file.name for file in folder.iterdir()} == names


def test_the_hash_tells_names_shapes_kinds_and_bits_apart() -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    same = {"b": torch.tensor(3.0), "a": torch.tensor([1.0, 2.0])}
    assert state_hash(state) == state_hash(same)
    others = [
        state | {"a": torch.tensor([1.0, 2.0000002])},
        state | {"a": torch.tensor([[1.0, 2.0]])},
        state | {"a": torch.tensor([1.0, 2.0]).double()},
        {"c": state["a"], "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({state_hash(state), *map(state_hash, others)}) == 6


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_of_the_package_and_not_of_a_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ".venv" / "rareshot"
    package.mkdir(parents=True)
    (package / "run_record.py").touch()
    (tmp_path / "own.py").touch()
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "own.py"], [*who, "commit", "-qm", "Begin"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    monkeypatch.setattr(run_record, "__file__", str(package / "run_record.py"))
    assert versions()["commit"] == ""
    subprocess.run(["git", "add", ".venv"], cwd=tmp_path, check=True)
    assert versions()["commit"].endswith("-dirty")
