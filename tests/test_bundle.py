"""The classifier's file: it comes back as it was, it says what is in it, and a damaged or hostile one is refused by name."""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint_refused import HOSTILE
from tiny import METHOD, RUN
from torch import Tensor

from rareshot.bundle import Bundle, _digest, load_bundle, save_bundle
from rareshot.checkpoint import load_state, refuse_larger, save_state, state_hash
from rareshot.data.collection import LabelledImages
from rareshot.methods import METHODS
from rareshot.predict import load_classifier
from rareshot.run_record import write_run
from rareshot.support_set import MOST_PIXELS, SupportSet, refuse_too_many


@pytest.fixture
def bundle(made: LabelledImages) -> Bundle:
    """A tiny learner, untrained, and two made images of each of two classes."""
    rare = made.rare()
    pixels = torch.from_numpy(np.ascontiguousarray(rare.pixels[[0, 2, 24, 26]])).permute(0, 3, 1, 2).contiguous()
    support = SupportSet(
        pixels, torch.tensor([0, 0, 1, 1]), ("a, b", "=c\n"), ("1.png", "2.png", "1.png", "\udce9.png")
    )
    return Bundle(RUN, "run", METHOD.untrained(made.common(), seed=0).state(), support, seed=3, versions={"torch": "2"})


@pytest.fixture
def file(bundle: Bundle, tmp_path: Path) -> Path:
    return save_bundle(tmp_path / "c.safetensors", bundle)


def test_it_comes_back_whole_and_answers_with_the_same_bits(bundle: Bundle, file: Path) -> None:
    again = load_bundle(file)
    assert (again.run.to_json(), again.learner, again.seed, again.versions) == (RUN.to_json(), "run", 3, {"torch": "2"})
    assert (again.support.names, again.classes) == (bundle.support.names, ("a, b", "=c\n"))
    assert state_hash(again.state) == state_hash(bundle.state)
    assert torch.equal(again.support.images, bundle.support.images)
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(again.adapt()(images), bundle.adapt()(images))


def test_the_same_classifier_is_the_same_file(bundle: Bundle, file: Path, tmp_path: Path) -> None:
    assert save_bundle(tmp_path / "other", bundle).read_bytes() == file.read_bytes()


def test_a_file_of_the_first_format_still_answers_with_the_same_bits(bundle: Bundle, file: Path) -> None:
    tensors, metadata = load_state(file)
    told = {key: value for key, value in json.loads(metadata["rareshot"]).items() if key != "trust"}
    rewritten(file, tensors, {**told, "format": 1})
    assert load_bundle(file).temperature == 1
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_classifier(file)(images), bundle.adapt()(images))


@pytest.mark.parametrize("name", ["relation", "protonet", "finetune", "logistic"])
def test_every_kind_of_learner_comes_back(name: str, bundle: Bundle, made: LabelledImages, tmp_path: Path) -> None:
    method: Any = METHODS[name]
    method = replace(method, width=8, **({"test_steps": 2} if name == "finetune" else {}))
    size = 28 if name == "relation" else 16
    support = bundle.support
    if size != 16:
        support = replace(support, images=torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8))
    run = replace(RUN, method=method, name=name, size=size)
    ours = replace(bundle, run=run, state=method.blank(size).state(), support=support)
    file = save_bundle(tmp_path / "c", ours)
    images = torch.rand(1, 3, size, size)
    by_hand = method.blank(size).with_state(ours.state).adapt(support.support, seed=3)
    assert torch.equal(load_classifier(file)(images), by_hand(images).float())


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"c\.safetensors is damaged or not a safetensors file: "):
        load_classifier(file)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="c is not a classifier of rareshot; make one with"):
        load_bundle(save_state(tmp_path / "c", {"a": torch.ones(1)}, {"size": "16"}))
    with pytest.raises(FileNotFoundError, match="nowhere: no such classifier"):
        load_bundle(tmp_path / "nowhere")


def rewritten(file: Path, tensors: dict[str, Tensor], told: Any) -> None:
    """As somebody does who means to: with the hash of what the file says now."""
    text = told if isinstance(told, str) else json.dumps(told)
    with suppress(ValueError, RecursionError, KeyError, TypeError, AttributeError):
        told = json.loads(text)
        text = json.dumps({**told, "whole": _digest(told, tensors)})
    save_state(file, tensors, {"rareshot": text})


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", "[" * 100_000, '{"format": 2}', '{"format": 1}'])
def test_metadata_of_junk_are_refused(file: Path, text: str) -> None:
    rewritten(file, load_state(file)[0], text)
    with pytest.raises(ValueError, match=r"c\.safetensors is not a sound classifier"):
        load_bundle(file)


def method_with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda told: {**told, "run": {**told["run"], "method": {**told["run"]["method"], **changes}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: {**told, "classes": ["a"]}, "a classifier needs at least 2"),
        (lambda told: {**told, "classes": "ab"}, "classes is not a list of texts"),
        (lambda told: {**told, "classes": ["a", "b", "c"]}, "every class needs at least one image; none for c"),
        (lambda told: {**told, "classes": ["a", "a"]}, "named twice"),
        (lambda told: {**told, "classes": ["a", "path"]}, "'path' cannot be a class's name"),
        (lambda told: {**told, "names": ["1"]}, "4 images but 1 names"),
        (lambda told: {**told, "names": [1, 2, 3, 4]}, "names is not a list of texts"),
        (lambda told: {**told, "seed": -1}, "seed=-1"),
        (lambda told: {**told, "seed": True}, "seed=True"),
        (lambda told: {**told, "learner": 7}, "learner=7"),
        (lambda told: {**told, "hash": "0"}, "not those that its hash says"),
        (lambda told: {**told, "format": 4}, "its format is 4; this version of rareshot reads 1 and 2 and 3"),
        (lambda told: {**told, "format": True}, "its format is True"),
        (lambda told: {**told, "trust": 5}, "its calibration has format None"),
        (lambda told: {**told, "versions": 5}, "not a sound classifier"),
        (lambda told: {**told, "run": []}, "run is not a JSON object"),
        (lambda told: {**told, "run": {**told["run"], "surprise": 1}}, "not a sound classifier"),
        (lambda told: {**told, "run": {**told["run"], "size": 2**40}}, f"size={2**40} must be"),
        (lambda told: {**told, "run": {**told["run"], "size": 28}}, r"support/images is \(4, 3, 16, 16\)"),
        (lambda told: {**told, "run": {**told["run"], "data": None}}, "data=None is not of the right kind, dict"),
        (lambda told: {**told, "run": {**told["run"], "data": {"common": 5}}}, "data.common=5 is not a list of names"),
        (method_with(inner_lr=10**400), "inner_lr=10+ is not of the right kind, float"),
        (lambda told: {key: value for key, value in told.items() if key != "hash"}, "'hash' is missing"),
        (method_with(kind="os.system"), "kind='os.system' is none of MAML"),
        (method_with(test_steps=10**9), "test_steps=1000000000; a classifier.s file .* at most 1000"),
        (method_with(width=2**20), "the weights do not fit MAML at 16 pixels"),
        (method_with(width=16), "the weights do not fit MAML"),
        (method_with(width=2**62), "the weights do not fit MAML"),
        (method_with(width=10**30), "the weights do not fit MAML"),
        (method_with(head="full", way=10**30), "the weights do not fit MAML"),
        (method_with(backbone="vit_giant_patch14_224", width=None), "weights; the file gives"),
        (method_with(backbone="hf-hub:someone/model", width=None), "no backbone 'hf-hub:someone/model'"),
        (method_with(norm="transductive"), "run is transductive: its answer"),
        (method_with(head="full", way=3), "the weights do not fit MAML"),
    ],
)
def test_metadata_with_wrong_values_are_refused(file: Path, change: Any, message: str) -> None:
    tensors, metadata = load_state(file)
    rewritten(file, tensors, change(json.loads(metadata["rareshot"])))
    with pytest.raises(ValueError, match=rf"c\.safetensors.*{message}"):
        load_classifier(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support/images": torch.zeros(4, 3, 16, 16)}, "torch.float32, not"),
        ({"support/images": torch.zeros(4, 3, 8, 8, dtype=torch.uint8)}, r"\(4, 3, 8, 8\)"),
        ({"support/images": torch.zeros(0, 3, 16, 16, dtype=torch.uint8)}, "0 images but 4 names"),
        ({"support/labels": torch.tensor([0, 0, 1, 2])}, "labels must be 0 to 1"),
        ({"support/labels": torch.tensor([0, 0, 1])}, "4 images but 3 labels"),
        ({"support/labels": torch.zeros(4)}, "not a row of whole numbers"),
        ({"surprise": torch.zeros(4)}, "nobody knows its surprise"),
        ({"state/pixels.std": torch.full((3,), math.nan)}, "not those that its hash says"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(file: Path, change: dict[str, Tensor], message: str) -> None:
    tensors, metadata = load_state(file)
    rewritten(file, tensors | change, metadata["rareshot"])
    with pytest.raises(ValueError, match=rf"c\.safetensors.*{message}"):
        load_classifier(file)


@pytest.mark.parametrize("part", ["support/images", "support/labels", "classes", "names"])
def test_a_file_that_was_changed_by_accident_is_refused(file: Path, part: str) -> None:
    tensors, metadata = load_state(file)
    told = json.loads(metadata["rareshot"])
    if part in tensors:
        tensors[part] = tensors[part].flip(0)
    else:
        told[part][0] += "x"
    save_state(file, tensors, {"rareshot": json.dumps(told)})
    with pytest.raises(
        ValueError, match="names or calibration are not what they were: the file was changed; adapt again"
    ):
        load_classifier(file)


def test_a_run_in_the_place_of_a_classifier_is_told_apart(tmp_path: Path) -> None:
    write_run(tmp_path, RUN)
    with pytest.raises(FileNotFoundError, match="is a run, and no classifier yet; make one with `rareshot adapt"):
        load_classifier(tmp_path)


def test_weights_that_are_not_finite_are_refused_whatever_the_hash_says(bundle: Bundle, tmp_path: Path) -> None:
    state = {**bundle.state, "pixels.std": torch.full((3,), math.nan)}
    with pytest.raises(ValueError, match=r"c: state holds numbers that are not finite, in pixels\.std"):
        load_classifier(save_bundle(tmp_path / "c", replace(bundle, state=state)))


def test_a_forged_number_of_classes_takes_no_memory(bundle: Bundle, file: Path) -> None:
    tensors, metadata = load_state(file)
    rewritten(file, tensors, method_with(way=10**15)(json.loads(metadata["rareshot"])))
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_classifier(file)(images), bundle.adapt()(images))


def test_a_forged_head_on_a_network_of_timms_is_refused_before_memory_is_taken() -> None:
    method = replace(METHOD, backbone="resnet10t", width=None, head="full")
    state = method.blank(32).state()
    refuse_larger(method, 32, state)
    with pytest.raises(ValueError, match=r"backbone 'resnet10t' has .* weights; the file gives"):
        refuse_larger(replace(method, way=10**6), 32, state)


def test_too_many_images_or_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="1001 images of 64 pixels; at most 1000"):
        refuse_too_many(1001, 64)
    with pytest.raises(ValueError, match=f"at most 1000 images and {MOST_PIXELS} pixels together"):
        refuse_too_many(1000, 512)
    refuse_too_many(1000, 224)
