"""Damaged and hostile files of a run: each is refused with a message that names the file or the value."""

import hashlib
import json
import math
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from tiny import RUN

from rareshot.checkpoint import LIMIT, load_learner, load_state, load_training_state, save_learner, save_state
from rareshot.data.collection import LabelledImages
from rareshot.methods.maml import EpisodicLearner
from rareshot.run_record import read_run, write_run


@pytest.fixture
def learner(made: LabelledImages) -> EpisodicLearner:
    return RUN.method.untrained(made.common(), seed=0)


@pytest.fixture
def folder(tmp_path: Path, learner: EpisodicLearner) -> Path:
    """A finished run."""
    write_run(tmp_path, RUN)
    save_learner(tmp_path, learner)
    return tmp_path


def header(**tensors: Any) -> bytes:
    """The head of a safetensors file that says what we like."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


VALID = save({"a": torch.ones(3)})
HOSTILE = {
    "empty": b"",
    "short": b"\x08\x00\x00",
    "truncated": VALID[:-1],
    "longer": VALID + b"\x00",
    "random": hashlib.sha256(b"seed").digest() * 40,
    "pickle": pickle.dumps({"weights": [1, 2, 3]}),
    "huge header length": struct.pack("<Q", 2**62) + b"{}",
    "negative header length": struct.pack("<q", -1) + b"{}",
    "header that is no JSON": struct.pack("<Q", 4) + b"{{{{",
    "header that is no object": struct.pack("<Q", 2) + b"[]",
    "header that is no text": struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    "deep header": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "offsets outside": header(a={"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}),
    "offsets backwards": header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + b"\x00" * 4,
    "shape that is not the size": header(a={"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}) + b"\x00" * 4,
    "shape that overflows": header(a={"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}) + b"\x00" * 4,
    "empty of an impossible shape": header(a={"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}),
    "unknown dtype": header(a={"dtype": "C1024", "shape": [1], "data_offsets": [0, 4]}) + b"\x00" * 4,
    "zip": b"PK\x03\x04" + b"\x00" * 60,
    "numpy": np.lib.format.magic(1, 0) + b"v\x00" + b" " * 118,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(folder: Path, data: bytes) -> None:
    file = folder / "learner.safetensors"
    file.write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"learner.safetensors is damaged or not a safetensors file: .*; copy .* anew .* fit the run again",
    ):
        load_learner(folder)
    checkpoint = folder / "checkpoint-000001.safetensors"
    checkpoint.write_bytes(data)
    with pytest.raises(ValueError, match=r"checkpoint-000001.safetensors is damaged or not a safetensors file: "):
        load_training_state(checkpoint)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "big.safetensors"
    with file.open("wb") as out:
        out.truncate(LIMIT + 1)  # takes no room on disk
    with pytest.raises(ValueError, match=f"big.safetensors has {LIMIT + 1} bytes; more than {LIMIT} are not read"):
        load_state(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state | {"backbone.blocks.0.norm.weight": torch.zeros(9)},
            r"norm.weight is \(9,\) torch.float32, not \(8,\)",
        ),
        (
            lambda state: state | {"backbone.blocks.0.norm.bias": torch.full((8,), math.nan)},
            "numbers that are not finite, in backbone.blocks.0.norm.bias",
        ),
        (
            lambda state: state | {"pixels.std": torch.full((3,), math.inf)},
            "numbers that are not finite, in pixels.std",
        ),
        (lambda state: {k: v for k, v in state.items() if k != "pixels.mean"}, r"\['pixels.mean'\] are not in both"),
        (lambda state: {k: v.half() for k, v in state.items()}, "torch.float16, not .* torch.float32"),
        (lambda state: {}, "the weights do not fit MAML"),
    ],
)
def test_weights_that_do_not_fit_the_method_are_refused(
    folder: Path, learner: EpisodicLearner, change: Any, message: str
) -> None:
    save_state(folder / "learner.safetensors", change(dict(learner.state())), {"size": "16"})
    with pytest.raises(ValueError, match=f"learner.safetensors: .*{message}.*; copy .* anew"):
        load_learner(folder)


def test_a_learners_file_is_not_its_folder(folder: Path, learner: EpisodicLearner) -> None:
    file = save_state(folder / "learner.safetensors", learner.state(), {"size": "16"})
    with pytest.raises(FileNotFoundError, match=f"is a file; give the folder of its run, {re.escape(str(folder))}"):
        load_learner(file)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"iteration": "7"},
        {"iteration": "seven", "skipped": "[]"},
        {"iteration": "7", "skipped": "{"},
        {"iteration": "7", "skipped": "5"},
        {"iteration": "7", "skipped": '["x"]'},
        {"iteration": "9" * 5000, "skipped": "[]"},
        {"iteration": "7", "skipped": "[" * 100_000},
        {"iteration": "7", "skipped": "[Infinity]"},
    ],
)
def test_a_checkpoint_without_sound_metadata_is_refused(tmp_path: Path, metadata: dict[str, str]) -> None:
    file = save_state(tmp_path / "checkpoint-000007.safetensors", {"weights/a": torch.ones(1)}, metadata)
    with pytest.raises(ValueError, match=r"checkpoint-000007.safetensors is not a checkpoint of rareshot"):
        load_training_state(file)


def test_a_checkpoint_of_numbers_that_nobody_computes_with_is_refused(tmp_path: Path) -> None:
    weights = {"weights/a": torch.ones(1).to(torch.float8_e4m3fn)}
    file = save_state(tmp_path / "checkpoint-000007.safetensors", weights, {"iteration": "7", "skipped": "[]"})
    with pytest.raises(ValueError, match=r"checkpoint-000007.safetensors is not a checkpoint of rareshot"):
        load_training_state(file)


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no run \(no run.json\); make one with `rareshot fit METHOD --out "
    ):
        load_learner(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds no run \(no run.json\)"):
        read_run(tmp_path / "nowhere")


def test_a_run_that_is_not_finished_says_how_to_go_on(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    with pytest.raises(
        FileNotFoundError, match=r"holds no learner yet; go on with `rareshot fit daml --data DATA --out .* --resume`"
    ):
        load_learner(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"method": {}}',
        b'{"method": 3}',
    ],
    ids=[
        "empty",
        "half",
        "list",
        "null",
        "number",
        "text",
        "bare",
        "bytes",
        "deep",
        "no method",
        "number for a method",
    ],
)
def test_a_run_json_of_junk_is_refused(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"run.json"):
        read_run(folder)


def damaged(**changes: Any) -> bytes:
    values = RUN.to_json()
    method = values["method"] | changes.pop("method", {})
    return json.dumps({**values, "method": method, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (damaged(method={"steps": "5"}), "run.json: steps='5' is not of the right kind, int"),
        (damaged(method={"steps": 0}), "steps=0 must be above 0"),
        (damaged(method={"inner_lr": math.nan}), "inner_lr=nan must be above 0"),
        (damaged(method={"meta_loss": {"kind": "os.system"}}), r"kind='os.system' is none of Mean, DifficultyAware"),
        (damaged(method={"meta_loss": {"kind": "Mean", "eta": 3}}), "eta unknown or missing"),
        (damaged(method={"meta_loss": None}), "meta_loss=None is not of the right kind, Mean or DifficultyAware"),
        (damaged(method={"surprise": 1}), "surprise unknown or missing"),
        (damaged(method={"kind": "subprocess.Popen"}), "kind='subprocess.Popen' is none of MAML"),
        (damaged(method={"second_order": 1}), "second_order=1 is not of the right kind, bool"),
        (damaged(method={"steps": True}), "steps=True is not of the right kind, int"),
        (damaged(method={"inner_lr": 10**400}), r"inner_lr=10+ is not of the right kind, float"),
        (damaged(surprise=1), "run.json: surprise unknown or missing; fit the run again"),
        (damaged(data=5), "run.json: data=5 is not of the right kind, dict; fit the run again"),
        (damaged(data={"common": 5}), "data.common=5 is not a list of names"),
        (damaged(data={"common": [1]}), r"data.common=\[1\] is not a list of names"),
        (damaged(data={"clients": ["a"]}), r"data.clients=\['a'\] is not an object of clients with a number each"),
        (damaged(data={"clients": {"a": 1}}), r"data.clients=\{'a': 1\} is not an object of clients"),
        (damaged(name=5), "name=5 is not of the right kind, str"),
        (damaged(seed=True), "seed=True is not of the right kind, int"),
        (damaged(seed=2**63), "seed=9223372036854775808 must be at least 0 and below"),
        (damaged(seed=-1), "seed=-1 must be at least 0 and below"),
        (damaged(scale=None), "scale=None is not of the right kind, str"),
        (damaged(versions=["torch"]), r"versions=\['torch'\] is not of the right kind, dict"),
        (damaged(method={"norm": "batch"}), "norm='batch' is not of the right kind, 'transductive' or 'support'"),
        (damaged(method={"head": "cosine"}), "head='cosine' is not of the right kind, 'full' or 'shared'"),
        (damaged(method={"backbone": "conv5"}), "no backbone 'conv5'"),
        (damaged(method={"width": 10**6}), r"learner\.safetensors: the weights do not fit MAML at 16 pixels"),
        (damaged(size=8), "its smallest size is 16; got 8"),
    ],
)
def test_a_run_json_with_wrong_values_is_refused(folder: Path, data: bytes, message: str) -> None:
    (folder / "run.json").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_learner(folder)


@pytest.mark.parametrize(
    "data",
    [
        damaged(size="16"),
        damaged(size=None),
        damaged(size=16.5),
        damaged(method={"backbone": 5}),
        damaged(method={"width": "x"}),
        damaged(method={"width": -4}),
        damaged(method={"adapted": "body"}),
        damaged(method={"test_steps": 2.5}),
    ],
    ids=["size text", "size null", "size half", "backbone 5", "width x", "width -4", "adapted body", "half a step"],
)
def test_a_run_json_with_values_of_the_wrong_kind_is_refused(folder: Path, data: bytes) -> None:
    (folder / "run.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"run.json"):
        load_learner(folder)
