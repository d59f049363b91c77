"""What is measured of a learner: written by `rareshot calibrate`, carried by classifiers, refused where it is not sound."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_bundle import rewritten
from test_checkpoint_refused import HOSTILE
from tiny import METHOD as LONGER
from tiny import RUN
from torch import Tensor

from rareshot.bundle import load_bundle
from rareshot.checkpoint import load_state, save_learner, save_state, state_hash
from rareshot.cli import main
from rareshot.data.collection import LabelledImages
from rareshot.data.store import load as load_images
from rareshot.data.synthetic import separable
from rareshot.episodes import EpisodeSpec
from rareshot.methods.maml import MAML, EpisodicLearner
from rareshot.predict import PACKAGED, load
from rareshot.run_record import write_run
from rareshot.trust import Reference, temperature_from_tasks, warning_threshold
from rareshot.trust_file import NAME, Trust, load_trust, save_trust, ways_of
from rareshot.validation import held_out

METHOD = replace(LONGER, test_steps=1)
FEW = ("--shots", "1", "2", "--episodes", "3", "--threads", "1")


@pytest.fixture(scope="module")
def images() -> LabelledImages:
    return separable(28, lesions=40, seed=0)


@pytest.fixture(scope="module")
def table(images: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on disk, of no known data set."""
    root = tmp_path_factory.mktemp("made")
    rows = ["path,label,group"]
    for i in range(len(images)):
        Image.fromarray(np.asarray(images.pixels[i])).save(root / f"{images.ids[i]}.png")
        rows.append(f"{images.ids[i]}.png,{images.classes[images.labels[i]]},g{images.groups[i]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root / "labels.csv"


@pytest.fixture(scope="module")
def learner(images: LabelledImages) -> EpisodicLearner:
    return METHOD.untrained(images.common(), seed=0)


@pytest.fixture(scope="module")
def trust(learner: EpisodicLearner, images: LabelledImages) -> Trust:
    train, held = held_out(images.common(), 0.2)
    assert held is not None
    return Trust.of(learner, train, held, ways=(2, 3), shots=(2, 1), episodes=3)


@pytest.fixture
def file(trust: Trust, tmp_path: Path) -> Path:
    return save_trust(tmp_path, trust)


def run_folder(folder: Path, table: Path, method: MAML = METHOD, **facts: Any) -> Path:
    """A run that says it was fitted on the table's common classes."""
    common = load_images(table, 28, separable(16, lesions=2).card.rare).common()
    data = {"name": "made", "common": list(common.classes), "fingerprint": common.fingerprint(), **facts}
    write_run(folder, replace(RUN, method=method, size=28, data=data))
    save_learner(folder, method.untrained(common, seed=0))
    return folder


def test_it_is_what_the_functions_of_trust_say_of_held_out_lesions(
    trust: Trust, learner: EpisodicLearner, images: LabelledImages
) -> None:
    train, held = held_out(images.common(), 0.2)
    assert held is not None
    for way in (2, 3):
        spec = EpisodeSpec(way, 2, 6)
        assert trust.temperatures[way][2] == temperature_from_tasks(learner, held, spec, episodes=3, seed=1)
        assert trust.thresholds[way] == {2: warning_threshold(learner, held, EpisodeSpec(way, 2, 1), seed=2)}
    assert torch.equal(trust.reference.precision, Reference.of(learner, train, held).precision)


def test_it_comes_back_whole_and_is_the_same_file_again(trust: Trust, file: Path, learner: EpisodicLearner) -> None:
    again = load_trust(file.parent, learner)
    assert again is not None
    assert again.to_json() == trust.to_json()
    assert state_hash(again.reference.state()) == state_hash(trust.reference.state())
    before = file.read_bytes()
    assert save_trust(file.parent, again).read_bytes() == before


def test_a_folder_without_the_file_has_none(tmp_path: Path, learner: EpisodicLearner) -> None:
    assert load_trust(tmp_path, learner) is None


@pytest.mark.parametrize(
    ("method", "ways"),
    [
        (METHOD, (2, 3, 4)),
        (replace(METHOD, way=3, head="full"), (3,)),
        (replace(METHOD, way=9), (2, 3, 4)),
    ],
)
def test_two_to_four_classes_are_measured_and_with_a_full_head_its_own_number(
    method: MAML, ways: tuple[int, ...], images: LabelledImages
) -> None:
    assert len(images.common().classes) == 4
    assert ways_of(method, images.common()) == ways


def test_another_way_or_k_is_served_by_the_nearest_and_the_smaller_of_two(trust: Trust) -> None:
    several = replace(
        trust, temperatures={2: {1: 1.5, 3: 2.0, 5: 2.5}, 4: {5: 3.5}}, thresholds={2: {3: -1.0, 5: -2.0}}
    )
    assert [several.temperature(2, k) for k in (1, 2, 3, 4, 5, 40)] == [1.5, 1.5, 2.0, 2.0, 2.5, 2.5]
    assert [several.temperature(way, 1) for way in (3, 4, 7)] == [1.5, 3.5, 3.5]
    assert several.nearest(7, 1) == (4, 5)
    assert several.told_ways() == "2 or 4"
    assert several.threshold(2, 2) == (3, -1.0)
    assert several.threshold(2, 9) == (5, -2.0)


def test_a_threshold_speaks_of_no_other_number_of_classes_and_of_no_single_images(trust: Trust) -> None:
    assert trust.threshold(4, 2) is None
    assert trust.threshold(2, 1) is None
    assert replace(trust, thresholds={}).threshold(2, 2) is None


def test_calibrate_writes_it_and_says_what_comes_next(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    assert main(["calibrate", str(run), "--data", str(table), *FEW]) == 0
    trust = load_trust(run, load(run))
    assert trust is not None
    assert trust.ways == (2, 3, 4)
    assert (sorted(trust.temperatures[3]), sorted(trust.thresholds[3])) == ([1, 2], [2])
    assert (trust.episodes, trust.others) == (3, "")
    told = " ".join(capsys.readouterr().out.split())
    limit = f"suspects below log odds {trust.thresholds[3][2]:.2f}"
    assert f"3 classes, k = 2: temperature {trust.temperatures[3][2]:.2f}, {limit}" in told
    assert f"next: rareshot adapt {run} --support" in told


@pytest.mark.parametrize(
    ("method", "facts", "more", "message"),
    [
        (METHOD, {"fingerprint": "0"}, (), "give the data that it was fitted on"),
        (METHOD, {"common": []}, (), "does not say which classes it was fitted on"),
        (
            METHOD,
            {},
            ("--shots", "8"),
            "shots=8: give numbers from 1 to 7, as the smallest class has 8 held-out lesions",
        ),
        (METHOD, {}, ("--shots", "0"), "shots=0: give numbers from 1"),
        (METHOD, {}, ("--episodes", "0"), "--episodes 0: at least 1 is needed"),
        (replace(METHOD, held_out=0.0), {}, (), "was fitted with held_out=0: no lesion is left to measure on"),
        (replace(METHOD, norm="transductive"), {}, (), "is transductive: its answer on an image depends"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_one_line(
    method: MAML,
    facts: dict[str, Any],
    more: tuple[str, ...],
    message: str,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_folder(tmp_path / "run", table, method, **facts)
    assert main(["calibrate", str(run), "--data", str(table), "--threads", "1", *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rareshot: ")
    assert message in said
    assert not (run / NAME).exists()


def test_calibrate_asks_no_client_of_a_run_that_has_none(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    assert main(["calibrate", str(run), "--data", str(table), "--client", "north", *FEW]) == 2
    assert "--client north: " in capsys.readouterr().err


def test_calibrate_takes_the_rare_classes_that_fit_took(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    rare = [word for name in separable(16, lesions=2).card.rare for word in ("--rare", name)]
    assert main(["calibrate", str(run), "--data", str(table), *rare, *FEW]) == 0
    assert main(["calibrate", str(run), "--data", str(table), "--rare", "nowhere", *FEW]) == 2
    assert "nowhere" in capsys.readouterr().err


def pictures(folder: Path, count: int) -> Path:
    """A folder a class of plain pictures, of nothing that the learner was fitted on."""
    for at in range(count):
        file = folder / "page" / f"{at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (28, 28), (200 + at % 50, 240, 250 - at % 40)).save(file)
    return folder


def test_images_of_another_kind_are_known_by_half_and_said_of_the_other(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    others = pictures(tmp_path / "pages", 60)
    assert main(["calibrate", str(run), "--data", str(table), "--others", str(others), *FEW]) == 0
    assert "100.0% of the 30 other images that were kept for this are called unlike" in capsys.readouterr().out
    known = load_trust(run, load(run))
    assert main(["calibrate", str(run), "--data", str(table), *FEW]) == 0
    plain = load_trust(run, load(run))
    assert known is not None
    assert plain is not None
    assert (known.others, plain.others) == ("pages", "")
    assert not torch.equal(known.reference.precision, plain.reference.precision)


def test_too_few_images_of_another_kind_are_refused_with_their_number(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    others = pictures(tmp_path / "pages", 38)
    assert main(["calibrate", str(run), "--data", str(table), "--others", str(others), *FEW]) == 2
    assert "each half of its patients needs at least 20 images, and one has 19" in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_of_an_earlier_format_keeps_its_temperatures_and_of_the_first_loses_its_thresholds(
    number: int, file: Path, trust: Trust, learner: EpisodicLearner
) -> None:
    tensors, metadata = load_state(file)
    told = {**json.loads(metadata["rareshot"]), "format": number, "way": 2, "others": "phone"}
    told |= {name: told[name]["2"] for name in ("temperatures", "thresholds")}
    if number == 1:
        told = {**told, "slow_episodes": 20}
        del told["others"]
    save_state(file, tensors, {"rareshot": json.dumps(told)})
    again = load_trust(file.parent, learner)
    assert again is not None
    assert again.temperatures == {2: trust.temperatures[2]}
    save_trust(file.parent, again)
    carried_on = load_trust(file.parent, learner)
    assert carried_on is not None
    assert (carried_on.temperatures, carried_on.thresholds) == (again.temperatures, again.thresholds)
    assert (again.thresholds, again.others) == (({}, "") if number == 1 else ({2: trust.thresholds[2]}, "phone"))


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_file_is_refused(file: Path, data: bytes, learner: EpisodicLearner) -> None:
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"trust\.safetensors is damaged or not a safetensors file: "):
        load_trust(file.parent, learner)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", "[" * 100_000, '{"format": 2}', '{"format": 1}'])
def test_metadata_of_junk_are_refused(file: Path, text: str, learner: EpisodicLearner) -> None:
    save_state(file, load_state(file)[0], {"rareshot": text})
    with pytest.raises(ValueError, match=r"trust\.safetensors is no sound calibration: "):
        load_trust(file.parent, learner)


def told_with(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda told: {**told, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (told_with(format=7), "has format 7; this version of rareshot reads 1, 2, 3"),
        (told_with(learner="0"), "was measured on another learner"),
        (told_with(episodes="60"), "episodes='60' is no number of episodes"),
        (told_with(episodes=True), "episodes=True is no number of episodes"),
        (told_with(temperatures={}), "temperatures is not a JSON object of objects by number of classes"),
        (told_with(temperatures=[1.0]), "temperatures is not a JSON object of objects by number of classes"),
        (told_with(temperatures={"1": {"1": 1.0}}), "temperatures is of '1' classes"),
        (told_with(temperatures={"02": {"1": 1.0}}), "temperatures is of '02' classes"),
        (told_with(format=2, way="2"), "way='2' is no number of classes"),
        (told_with(temperatures={"x": {"1": 1.0}}), "temperatures is of 'x' classes"),
        (told_with(temperatures={"2": {}}), "temperatures of 2 classes is not a JSON object of numbers by k"),
        (told_with(temperatures={"2": 1.0}), "temperatures of 2 classes is not a JSON object of numbers by k"),
        (told_with(temperatures={"2": {"1": math.nan}}), "temperatures has nan at k = '1'"),
        (told_with(temperatures={"2": {"1": 0.0}}), "temperatures has 0.0 at k = '1'"),
        (told_with(temperatures={"2": {"1": 1e9}}), r"temperatures has 1000000000\.0"),
        (told_with(temperatures={"2": {"0": 1.0}}), "temperatures has 1.0 at k = '0'"),
        (told_with(temperatures={"2": {"²": 1.0}}), "temperatures has 1.0 at k = '²'"),
        (told_with(thresholds={"2": {"2": -math.inf}}), "thresholds has -inf at k = '2'"),
        (told_with(thresholds={"2": {"2": True}}), "thresholds has True at k = '2'"),
        (told_with(hospital="a\nb"), r"hospital='a\\nb' is no name of up to 100 printable characters"),
        (told_with(versions=5), "its calibration is of the wrong kind"),
        (lambda told: {key: value for key, value in told.items() if key != "others"}, "its calibration lacks 'others'"),
    ],
)
def test_metadata_with_wrong_values_are_refused(
    file: Path, change: Any, message: str, learner: EpisodicLearner
) -> None:
    tensors, metadata = load_state(file)
    save_state(file, tensors, {"rareshot": json.dumps(change(json.loads(metadata["rareshot"])))})
    with pytest.raises(ValueError, match=message):
        load_trust(file.parent, learner)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("surprise", lambda old: torch.zeros(3), "nobody knows its surprise"),
        ("reference/surprise", lambda old: torch.zeros(3), "nobody knows its surprise"),
        ("reference/mean", lambda old: old[:5], "its parts do not fit"),
        ("reference/mean", lambda old: old[0], "of the wrong kind"),
        ("reference/mean", lambda old: old * math.nan, "are not finite"),
        ("reference/std", lambda old: old * 0, "a deviation or a variance that is none"),
        ("reference/quantiles", lambda old: old.flip(0), "quantiles that fall"),
        ("reference/moments.0.var", lambda old: -old, "a deviation or a variance that is none"),
        ("reference/moments.0.var", lambda old: old[:3], "its reference does not fit the learner"),
        ("reference/moments.0.mean", lambda old: old[:3], "its reference does not fit the learner"),
        ("reference/moments.0.images", lambda old: torch.ones(2), "is no sound calibration"),
        ("reference/moments.0.images", lambda old: torch.tensor(math.inf), "of no whole number of images"),
        ("reference/moments.0.images", lambda old: torch.tensor(1e30), "of no whole number of images"),
        ("reference/moments.0.images", lambda old: torch.tensor(0), "of no whole number of images"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    file: Path, name: str, change: Callable[[Tensor | None], Tensor], message: str, learner: EpisodicLearner
) -> None:
    tensors, metadata = load_state(file)
    save_state(file, tensors | {name: change(tensors.get(name))}, metadata)
    with pytest.raises(ValueError, match=message):
        load_trust(file.parent, learner)


def test_a_forged_calibration_inside_a_classifier_is_refused_by_the_same_rules(
    trust: Trust, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_folder(tmp_path / "run", table)
    save_trust(run, replace(trust, learner=state_hash(load(run).state())))
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        noise = np.random.default_rng(ord(name)).integers(0, 255, (28, 28, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name / "1.png")
    file = tmp_path / "c.safetensors"
    assert main(["adapt", str(run), "--support", str(tmp_path / "photos"), "--out", str(file)]) == 0
    assert load_bundle(file).trust is not None
    tensors, metadata = load_state(file)
    told = json.loads(metadata["rareshot"])
    for change, message in (
        ({"trust": None}, "holds a reference but no calibration"),
        ({"trust": {**told["trust"], "learner": "0"}}, "was measured on another learner"),
        ({"trust": 3}, "has format None"),
        ({"format": 4}, "its format is 4; this version of rareshot reads 1 and 2 and 3"),
    ):
        rewritten(file, tensors, {**told, **change})
        with pytest.raises(ValueError, match=rf"c\.safetensors is not a sound classifier: .*{message}"):
            load_bundle(file)
    rewritten(file, tensors | {"trust/reference/moments.0.var": torch.ones(3)}, told)
    assert main(["predict", str(file), str(tmp_path / "photos")]) == 2
    assert "c.safetensors: its reference does not fit the learner" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "ways"), [("isic2018", (2,)), ("isic2018-transfer", (2, 3, 4))])
def test_a_packaged_learner_is_calibrated_for_the_classes_and_k_of_its_card(name: str, ways: tuple[int, ...]) -> None:
    trust = load_trust(PACKAGED / name, load(name))
    assert trust is not None
    card = " ".join((PACKAGED / name / "CARD.md").read_text().split())
    assert trust.ways == ways
    for way, temperatures in trust.temperatures.items():
        for k, temperature in temperatures.items():
            limit = f"{trust.thresholds[way][k]:.2f}" if k > 1 else "none"
            assert f"| {way} | {k} | {temperature:.2f} | {limit} |" in card
    assert f"{trust.episodes} tasks for each temperature" in card
