"""Five photographs on a laptop: adapt and predict, in Python and from the command line."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_pretrained import needs_weights
from tiny import METHOD, RUN

import rareshot
from rareshot.checkpoint import save_learner, state_hash
from rareshot.cli import main
from rareshot.data.collection import LabelledImages
from rareshot.data.decode import decode
from rareshot.methods.maml import MAML, EpisodicClassifier
from rareshot.predict import (
    PACKAGED,
    Answer,
    Predictor,
    adapt_to,
    answers,
    find_learner,
    image_files,
    load,
    load_classifier,
    passed_over,
)
from rareshot.predictions import write_answers
from rareshot.run_record import write_run
from rareshot.support_set import as_float, read_support
from rareshot.trust import Reference, prediction_sets, suspects, with_prevalence, with_temperature
from rareshot.trust_file import Trust, load_trust, save_trust
from rareshot.validation import held_out

RESULTS = Path(__file__).resolve().parents[1] / "results"
TRANSFER = "laptop/isic2018/cells/transfer-5shot-seed0"
packaged = pytest.mark.parametrize("name", ["isic2018", "isic2018-transfer"])


def put(file: Path, shade: int, seed: int) -> Path:
    """A photograph of 20 x 24 pixels about as bright as `shade`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 60, (20, 24, 3))
    Image.fromarray((shade + noise).astype(np.uint8)).save(file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of each of two conditions."""
    for at in range(3):
        put(tmp_path / "photos" / "lupus" / f"{at}.png", 20, at)
        put(tmp_path / "photos" / "rosacea" / f"{at}.png", 170, 10 + at)
    return tmp_path / "photos"


def run_folder(folder: Path, made: LabelledImages, method: MAML = METHOD) -> Path:
    write_run(folder, replace(RUN, method=method))
    save_learner(folder, method.untrained(made.common(), seed=0))
    return folder


@pytest.fixture
def run(tmp_path: Path, made: LabelledImages) -> Path:
    return run_folder(tmp_path / "run", made)


@pytest.fixture
def calibrated(run: Path, made: LabelledImages) -> Path:
    """The same run, with a temperature of 3 at k = 3, and a threshold that every support set is below."""
    learner = load(run)
    train, held = held_out(made.common(), 0.5)
    assert held is not None
    reference = Reference.of(learner, train, held)
    save_trust(run, Trust(state_hash(learner.state()), {2: {1: 2.0, 3: 3.0}}, {2: {3: 90.0}}, reference, 60))
    return run


@pytest.fixture
def new(tmp_path: Path) -> list[str]:
    """Twenty new photographs."""
    return [str(put(tmp_path / "new" / f"{at:02d}.png", 20 if at % 2 else 170, 100 + at)) for at in range(20)]


@packaged
def test_the_short_form_of_the_readme_works(name: str, photos: Path, new: list[str]) -> None:
    learner = rareshot.load(name)
    probabilities = learner.adapt(rareshot.support_from(photos, learner.size))(torch.rand(2, 3, 64, 64))
    assert probabilities.shape == (2, 2)
    predictor = rareshot.adapt_to(name, photos)
    assert [one.predicted for one in answers(predictor, new)] == ["rosacea", "lupus"] * 10


@packaged
def test_an_answer_is_bit_equal_alone_and_among_others_and_leaves_the_learner_alone(
    name: str, photos: Path, new: list[str]
) -> None:
    predictor = adapt_to(name, photos)
    before = state_hash(predictor.bundle.state)
    together = list(answers(predictor, new))
    alone = [next(answers(predictor, [path])) for path in reversed(new)][::-1]
    assert together == alone
    images = as_float(torch.randint(0, 256, (20, 3, 64, 64), dtype=torch.uint8))
    assert torch.equal(predictor(images), torch.cat([predictor(image[None]) for image in images]))
    assert state_hash(predictor.bundle.state) == before


@pytest.mark.long
def test_a_thousand_answers_are_bit_equal_alone_and_among_others(photos: Path, tmp_path: Path) -> None:
    paths = [str(put(tmp_path / "many" / f"{at}.png", at % 190, at)) for at in range(1000)]
    predictor = replace(adapt_to("isic2018", photos), sets=True)
    assert isinstance(predictor.classifier, EpisodicClassifier)
    before = state_hash(predictor.bundle.state), state_hash(predictor.classifier.params)
    together = list(answers(predictor, paths))
    shuffled = np.random.default_rng(0).permutation(1000)
    for at in shuffled:
        assert next(answers(predictor, [paths[at]])) == together[at]
    assert (state_hash(predictor.bundle.state), state_hash(predictor.classifier.params)) == before


def test_command_line_and_python_give_the_same_bits(run: Path, photos: Path, new: list[str], tmp_path: Path) -> None:
    file, out = tmp_path / "c.safetensors", tmp_path / "sub" / "predictions.csv"
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(file)]) == 0
    assert main(["predict", str(file), str(tmp_path / "new"), "--out", str(out)]) == 0
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["path", "predicted", "lupus", "rosacea", "warnings"]
    assert [row["path"] for row in rows] == new
    told = [tuple(float(np.float32(row[name])) for name in ("lupus", "rosacea")) for row in rows]
    assert told == [one.probabilities for one in answers(adapt_to(run, photos), new)]


def test_adapt_says_what_it_understood_and_what_to_run_next(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "rosacea" / "1.png").unlink()
    (photos / "rosacea" / "2.png").unlink()
    (photos / "lupus" / "2.png").write_bytes((photos / "lupus" / "1.png").read_bytes())
    (photos / "lupus" / "note.txt").write_text("hello")
    file = tmp_path / "c.safetensors"
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "learner: run (daml, 16 px)" in out
    assert "classes: lupus (3), rosacea (1)" in out
    assert f"next: rareshot predict {file} " in out
    assert "treat it as patient data" in out
    for caution in (
        "one image only of rosacea",
        "unequal numbers of images",
        "1.png and 2.png are the same picture",
        "left out: lupus/note.txt",
    ):
        assert caution in err


def test_a_file_that_cannot_be_read_is_named_and_has_a_row_with_its_reason(
    run: Path, photos: Path, new: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, file, out = tmp_path / "[red]bad.jpg", tmp_path / "c.safetensors", tmp_path / "p.csv"
    bad.write_text("no picture")
    (tmp_path / "empty").mkdir()
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(file)]) == 0
    command = ["predict", str(file), str(bad), new[0], str(tmp_path / "none.png"), str(tmp_path / "empty")]
    assert main([*command, "--out", str(out)]) == 0
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["predicted"] != "" for row in rows] == [False, True, False, False]
    assert rows[0]["lupus"] == ""
    assert [row["warnings"][:12] for row in rows] == ["is not an im", "", "does not exi", "is a folder "]
    told = capsys.readouterr().err
    assert f"{bad}: is not an image" in told
    assert "empty: is a folder without an image file" in told
    assert "none.png: does not exist" in told
    assert main(["predict", str(file), str(bad)]) == 2
    assert "none of 1 images could be read" in capsys.readouterr().err


def test_without_out_the_answers_are_printed(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    assert main(["predict", str(tmp_path / "c"), str(photos / "lupus" / "0.png")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.search(r"0\.png  (lupus|rosacea)  \(lupus 0\.\d{3}  rosacea 0\.\d{3}\)", line)
    assert "is a support image of class 'lupus', 0.png: this is no test" in line


def test_no_cell_of_the_csv_is_a_formula_and_any_name_comes_back(tmp_path: Path) -> None:
    classes = ("=cmd()", 'a,"b"\nc', "@x", "\t+1")
    told = [
        Answer("-2+3.png", "=cmd()", (0.5, 0.5, 1e-9, 0.0), ("@warn",)),
        Answer("caf\udce9.png", "", (), ("is\nbad",)),
    ]
    with write_answers(tmp_path / "p.csv", classes, told).open(newline="", encoding="utf-8") as lines:
        header, first, second = csv.reader(lines)
    assert header == ["path", "predicted", "'=cmd()", 'a,"b"\nc', "'@x", "'\t+1", "warnings"]
    assert first == ["'-2+3.png", "'=cmd()", "0.5", "0.5", "1e-09", "0.0", "'@warn"]
    assert second == ["caf\\udce9.png", "", "", "", "", "", "is\nbad"]


def test_folders_give_all_images_inside_once_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/c.tif", ".hidden.png", ".git/d.png", "note.txt"):
        put(tmp_path / name, 9, 0) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    found = image_files([tmp_path, tmp_path / "b.png", "note.txt"])
    assert found == [*(str(tmp_path / name) for name in ("a.JPG", "b.png", "deep/c.tif")), "note.txt"]
    (tmp_path / "linked").symlink_to(tmp_path / "deep")
    link = f"{tmp_path / 'linked'}: a link to a folder is not followed"
    assert passed_over([tmp_path, "note.txt"]) == [link, f"{tmp_path / 'note.txt'}: is not an image file by its suffix"]


def test_photographs_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    for at, name in enumerate(("lupus/p0/1.png", "lupus/p1/1.png", "lupus/p1/2.png", "rosacea/p0/1.png")):
        put(tmp_path / name, 20 * at, at)
    assert read_support(tmp_path, 16).names == ("p0/1.png", "p1/1.png", "2.png", "1.png")


def test_a_table_of_paths_is_a_support_set_too(photos: Path) -> None:
    table = photos / "few.csv"
    table.write_text('path,label\nlupus/0.png,"a, b"\nrosacea/1.png,c\n')
    support = read_support(table, 16)
    assert support.classes == ("a, b", "c")
    assert support.names == ("0.png", "1.png")


def test_every_class_of_a_folder_counts_whatever_known_set_it_resembles(tmp_path: Path) -> None:
    names = ("akiec", "bcc", "bkl", "df", "mel", "nv", "other", "vasc")
    for at, name in enumerate(names):
        put(tmp_path / name / "1.png", 10 * at, at)
    assert read_support(tmp_path, 16).classes == names
    table = tmp_path / "few.csv"
    table.write_text("path,label\n" + "".join(f"{name}/1.png,{name}\n" for name in names))
    assert read_support(table, 16).classes == names


def test_a_learner_of_more_steps_than_a_file_takes_is_refused_before_it_is_adapted(run: Path, photos: Path) -> None:
    told = json.loads((run / "run.json").read_text())
    theirs = Path(shutil.copytree(run, run.parent / "patient"))
    (theirs / "run.json").write_text(json.dumps({**told, "method": {**told["method"], "test_steps": 1001}}))
    with pytest.raises(ValueError, match="test_steps=1001; a classifier's file and a shared learner take at most 1000"):
        adapt_to(theirs, photos)


def test_a_runs_folder_comes_before_a_word(
    made: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("isic2018").size == 64
    (tmp_path / "isic2018" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert load("isic2018").size == 64, "images called so are no learner"
    run_folder(tmp_path / "isic2018", made)
    assert load("isic2018").size == 16


@packaged
def test_adapting_a_packaged_learner_says_what_its_licence_is(
    name: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", name, "--support", str(photos), "--out", str(tmp_path / "c.safetensors")]) == 0
    assert "licence of those images, and so of the learner: CC BY-NC 4.0" in capsys.readouterr().out


@packaged
def test_a_packaged_learner_is_the_one_of_its_card(name: str) -> None:
    run, learner = find_learner(name)
    card = (PACKAGED / name / "CARD.md").read_text()
    assert f"`{state_hash(learner.state())}`" in card
    assert str(run.data["fingerprint"]) in card
    assert all(f"`{name}`" in card for name in run.data["common"])
    assert learner.inductive


@pytest.mark.parametrize("protocol", ["full", "paper"])
@pytest.mark.parametrize(("name", "folder"), [("isic2018", "packaged/isic2018"), ("isic2018-transfer", TRANSFER)])
def test_the_cards_figures_are_those_of_the_results(name: str, folder: str, protocol: str) -> None:
    file = RESULTS / folder / f"{protocol}-2way-5shot.summary.json"
    if not file.is_file():
        pytest.skip(f"{file.name} is not here: results/ comes with the repository, not with the package")
    summary = json.loads(file.read_text())
    card = (PACKAGED / name / "CARD.md").read_text()
    for auc in (summary["metrics"]["auc"], summary["auc_over_lesions"]):
        mean, low, high = (f"{100 * auc[name]:.1f}" for name in ("mean", "low", "high"))
        assert f"| `{protocol}` | {mean} | {low} to {high}, {auc['kind']}" in card


@needs_weights
def test_pretrained_needs_no_run(photos: Path, new: list[str], tmp_path: Path) -> None:
    file = tmp_path / "c.safetensors"
    assert main(["adapt", "pretrained", "--support", str(photos), "--out", str(file)]) == 0
    predictor: Predictor = load_classifier(file)
    assert [one.predicted for one in answers(predictor, new[:2])] == ["rosacea", "lupus"]


def test_a_calibrated_answer_is_the_classifiers_own_at_the_temperature_of_its_k(
    calibrated: Path, photos: Path, new: list[str]
) -> None:
    predictor = adapt_to(calibrated, photos)
    assert predictor.bundle.temperature == 3.0
    images = torch.rand(8, 3, 16, 16)
    raw = torch.cat([predictor.classifier(image[None]) for image in images])
    ours = predictor(images)
    assert torch.equal(ours, torch.cat([with_temperature(row[None], 3.0).float() for row in raw]))
    assert torch.equal(ours[:, 0].argsort(), raw[:, 0].argsort())
    assert not torch.equal(ours, raw)
    (photos / "lupus" / "1.png").unlink()
    (photos / "lupus" / "2.png").unlink()
    assert adapt_to(calibrated, photos).bundle.temperature == 2.0


@pytest.mark.parametrize(("measured", "applied"), [(0.25, 1.0), (2.0, 2.0)])
def test_other_numbers_of_classes_than_were_measured_do_not_make_an_answer_surer(
    measured: float, applied: float, calibrated: Path, photos: Path
) -> None:
    learner = load(calibrated)
    trust = load_trust(calibrated, learner)
    assert trust is not None
    save_trust(calibrated, replace(trust, temperatures={2: {1: measured, 3: measured}}))
    assert adapt_to(calibrated, photos).bundle.temperature == measured
    for at in range(3):
        put(photos / "other" / f"{at}.png", 90, 70 + at)
    predictor = adapt_to(calibrated, photos)
    assert predictor.bundle.temperature == applied, "three classes"
    assert any("temperature of 0.25 is for 2 classes" in told for told in predictor.cautions()) == (applied != measured)
    save_trust(calibrated, replace(trust, temperatures={2: {3: 0.3}, 3: {3: 0.5}}))
    assert adapt_to(calibrated, photos).bundle.temperature == 0.5, "three classes, measured"
    assert not adapt_to(calibrated, photos).bundle.cautions()
    save_trust(calibrated, replace(trust, temperatures={2: {1: measured, 3: measured}}))
    shutil.rmtree(photos / "other")
    (photos / "lupus" / "1.png").unlink()
    unequal = adapt_to(calibrated, photos)
    assert unequal.bundle.temperature == measured, "parts of two images of each class are as it was measured"


def test_a_learner_that_was_not_calibrated_answers_with_the_classifiers_own_bits(run: Path, photos: Path) -> None:
    predictor = replace(adapt_to(run, photos), prevalence={})
    images = torch.rand(3, 3, 16, 16)
    assert torch.equal(predictor(images), torch.cat([predictor.classifier(image[None]) for image in images]))


def test_calibrated_answers_with_prevalence_and_sets_are_bit_equal_alone_and_among_others(
    calibrated: Path, photos: Path, new: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.safetensors"
    assert main(["adapt", str(calibrated), "--support", str(photos), "--out", str(file)]) == 0
    (calibrated / "trust.safetensors").unlink()  # the classifier stands by itself

    def told(paths: list[str]) -> list[Answer]:
        shares = {"lupus": 0.9, "rosacea": 0.1}
        return list(answers(replace(load_classifier(file), prevalence=shares, sets=True), paths))

    odd = tmp_path / "odd.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(odd)
    paths = [*new[:3], str(odd)]
    together = told(paths)
    assert together == [told([path])[0] for path in paths]
    assert together[-1].warnings
    assert any(one.among for one in together)


def test_prevalence_sets_and_calibration_reach_the_command_line(
    calibrated: Path, photos: Path, new: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "c.safetensors", tmp_path / "p.csv"
    assert main(["adapt", str(calibrated), "--support", str(photos), "--out", str(file)]) == 0
    shares = ["--prevalence", "lupus=0.8", "--prevalence", "rosacea=0.2"]
    assert main(["predict", str(file), str(tmp_path / "new"), "--sets", *shares, "--out", str(out)]) == 0
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["path", "predicted", "lupus", "rosacea", "set", "warnings"]
    predictor, support = load_classifier(file), read_support(photos, 16).support
    image = as_float(torch.from_numpy(np.asarray(decode(new[0], 16))).permute(2, 0, 1))[None].contiguous()
    expected = with_prevalence(predictor(image), predictor.classes, {"lupus": 0.8, "rosacea": 0.2}).float()[0]
    assert [float(np.float32(rows[0][name])) for name in predictor.classes] == expected.tolist()
    among = prediction_sets(load(calibrated), support, image)[0].tolist()
    assert rows[0]["set"] == "; ".join(name for name, inside in zip(support.classes, among, strict=True) if inside)
    told = capsys.readouterr().err
    assert "at least 75 % of images like the support images, at k = 3; the smallest error" in told
    assert "3 images a class allow is 1 in 4" in told


def test_adapt_ranks_the_support_images_and_warns_where_the_threshold_says_so(
    calibrated: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(photos / "lupus" / "2.png", 170, 77)  # looks like rosacea
    assert main(["adapt", str(calibrated), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    out, err = capsys.readouterr()
    found = suspects(load(calibrated), read_support(photos, 16).support)
    assert re.findall(r"  (\d\.\d{3})  ", out) == [f"{found.own[at]:.3f}" for at in found.order]
    assert re.search(r"suspects: .*\n  0\.\d{3}  lupus/2\.png", out)
    assert "caution: lupus/2.png fits its label worse than the worst photograph does in 9 of 10 clean" in err
    assert "with k = 3: is the label right?" in err


def test_a_threshold_of_two_classes_warns_of_no_three(
    calibrated: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for at in range(3):
        put(photos / "eczema" / f"{at}.png", 90, 30 + at)
    assert main(["adapt", str(calibrated), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    assert "a ranking only, no warning: this learner is calibrated on 2 classes only" in capsys.readouterr().out
    assert not load_classifier(tmp_path / "c").suspects().warning


@pytest.mark.parametrize("number", [1, 16])
def test_single_images_have_no_suspects_and_many_have(
    number: int, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("lupus", "rosacea"):
        for old in (photos / name).iterdir():
            old.unlink()
        for at in range(number):
            put(photos / name / f"{at}.png", 20 if name == "lupus" else 170, 50 + at)
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    told = capsys.readouterr().out
    assert ("suspects: " in told) == (number > 1)


def test_a_learner_that_was_not_calibrated_ranks_only_and_says_so(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    out, err = capsys.readouterr()
    assert "a ranking only, no warning: this learner is not calibrated" in out
    assert "fits its label worse" not in err


def test_images_unlike_the_common_ones_have_a_warning_that_support_images_take_back(
    calibrated: Path, photos: Path, made: LabelledImages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = made.common()
    usual = tmp_path / "usual"
    for label in (0, 1):
        (usual / common.classes[label]).mkdir(parents=True)
        for number, at in enumerate(np.flatnonzero(common.labels == label)[:4:2]):
            Image.fromarray(common.pixels[at]).save(usual / common.classes[label] / f"{number}.png")
    files = {}
    for name, support in (("usual", usual), ("odd", photos)):
        files[name] = tmp_path / f"{name}.safetensors"
        assert main(["adapt", str(calibrated), "--support", str(support), "--out", str(files[name])]) == 0
    capsys.readouterr()
    own = usual / common.classes[0] / "0.png"
    assert main(["predict", str(files["usual"]), str(photos / "lupus" / "0.png"), str(own)]) == 0
    out, err = capsys.readouterr()
    message = (
        "unlike the images this learner was fitted on (at most 1 in 20 of those is called so), and the support images"
    )
    assert [message in line for line in out.splitlines()] == [True, False]
    assert "support images are themselves unlike" not in err
    assert main(["predict", str(files["odd"]), str(photos / "lupus" / "0.png")]) == 0
    out, err = capsys.readouterr()
    assert message not in out
    assert err.count("6 of the 6 support images are themselves unlike the images that the learner was fitted on") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prevalence", "lupus=0.5"], "unknown: none, missing: rosacea"),
        (["--prevalence", "lupus=0.5", "--prevalence", "x=0.5"], "unknown: x, missing: rosacea"),
        (["--prevalence", "lupus=0.5", "--prevalence", "rosacea=0.6"], "they sum to 1.1"),
        (["--prevalence", "lupus=0", "--prevalence", "rosacea=1"], "every share must be above 0"),
        (["--prevalence", "lupus"], "--prevalence lupus: give CLASS=SHARE once for each class"),
        (["--prevalence", "lupus=half"], "--prevalence lupus=half: give CLASS=SHARE"),
        (["--prevalence", "lupus=0.5", "--prevalence", "lupus=0.5"], "--prevalence lupus=0.5: give CLASS=SHARE once"),
        (["--sets"], "a prediction set needs at least 2 support images of each class; got 1"),
    ],
)
def test_a_prevalence_or_a_set_that_cannot_be_is_refused(
    more: list[str], message: str, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if more == ["--sets"]:
        for at in (1, 2):
            (photos / "lupus" / f"{at}.png").unlink()
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(tmp_path / "c")]) == 0
    assert main(["predict", str(tmp_path / "c"), str(photos), *more]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_class_called_set_can_have_no_sets(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a class is called 'set', which is the column of prediction sets"):
        write_answers(tmp_path / "p.csv", ("a", "set"), [], sets=True)


def test_an_empty_set_is_said_and_a_set_of_several_stands_in_one_cell(tmp_path: Path) -> None:
    told = [
        Answer("1", "a", (0.5, 0.5), (), ("a", "=b")),
        Answer("2", "a", (0.5, 0.5), ("empty",)),
        Answer("3", "", (), ("bad",)),
    ]
    with write_answers(tmp_path / "p.csv", ("a", "=b"), told, sets=True).open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["set"] for row in rows] == ["a; =b", "", ""]
    assert [row["warnings"] for row in rows] == ["", "empty", "bad"]


def change(photos: Path, what: str) -> None:
    first = photos / "lupus" / "0.png"
    if what == "one class":
        for file in (photos / "lupus").iterdir():
            file.unlink()
        (photos / "lupus").rmdir()
    elif what == "empty class":
        (photos / "eczema").mkdir()
    elif what == "bad image":
        first.write_text("no picture")
    elif what == "two classes":
        (photos / "rosacea" / "x.png").write_bytes(first.read_bytes())
    elif what == "loose":
        for file in (*(photos / "lupus").iterdir(), *(photos / "rosacea").iterdir()):
            file.unlink()
    elif what == "column":
        (photos / "lupus").rename(photos / "path")
    elif what == "many":
        for at in range(1001):
            (photos / "lupus" / f"x{at}.png").touch()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("one class", r"1 class \(rosacea\); a classifier needs at least 2"),
        ("empty class", "no image in eczema; put some in, or remove the folder"),
        ("bad image", "1 unreadable image: lupus/0.png: is not an image"),
        ("two classes", "0.png of class 'lupus' and x.png of class 'rosacea' are the same picture"),
        ("loose", "no folder in it holds an image; make a folder for each class"),
        ("column", "'path' cannot be a class's name"),
        ("many", "1007 images of 16 pixels; at most 1000 images"),
    ],
)
def test_a_support_set_that_cannot_be_adapted_to_is_refused_in_one_line(
    what: str, message: str, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(photos, what)
    assert main(["adapt", str(run), "--support", str(photos), "--out", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, said)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (replace(METHOD, norm="transductive"), "is transductive: its answer on an image depends on the images"),
        (replace(METHOD, head="full", way=3), "full head for 3 classes and cannot take 2"),
    ],
)
def test_a_learner_that_does_not_serve_is_refused(
    method: MAML, message: str, made: LabelledImages, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        adapt_to(run_folder(tmp_path / "other", made, method), photos)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["adapt", "gpt", "--support", "PHOTOS", "--out", "OUT"], "no learner 'gpt': give a run's folder"),
        (["adapt", "RUN", "--support", "nowhere", "--out", "OUT"], "nowhere: no such folder or file"),
        (["adapt", "RUN", "--support", "PHOTOS", "--out", "RUN"], "is there already"),
        (["adapt", "RUN", "--support", "PHOTOS", "--out", "OUT", "--seed", "-1"], "seed=-1 must be at least 0"),
        (["adapt", "PHOTOS", "--support", "PHOTOS", "--out", "OUT"], "holds no run"),
        (["predict", "OUT", "PHOTOS"], "no such classifier; make one with `rareshot adapt LEARNER"),
        (["predict", "PICTURE", "PHOTOS"], "damaged or not a safetensors file"),
        (["predict", "WEIGHTS", "PHOTOS"], "is not a classifier of rareshot"),
        (["predict", "OUT", "PHOTOS", "--out", "p.txt"], "name ends in .csv"),
        (["predict", "OUT"], "predict needs images"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    args: list[str], message: str, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"PHOTOS": photos, "RUN": run, "OUT": tmp_path / "out", "PICTURE": photos / "lupus" / "0.png"}
    places["WEIGHTS"] = run / "learner.safetensors"
    assert main([str(places.get(word, word)) for word in args]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("rareshot: ")
    assert message in said
