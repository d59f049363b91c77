"""Learners that travel: what comes out is what went in, and nothing that is not sound comes in."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from test_checkpoint_refused import HOSTILE
from tiny import METHOD, RUN

from rareshot.checkpoint import load_learner, save_learner, state_hash
from rareshot.cli import main
from rareshot.data.synthetic import separable
from rareshot.evaluation import plan
from rareshot.judging import Asked, judge
from rareshot.methods import METHODS
from rareshot.methods.pretrained import Pretrained
from rareshot.model_card import model_card
from rareshot.predict import find_learner
from rareshot.results import header_of, name_of
from rareshot.run_record import read_run, write_run
from rareshot.sharing import pull, push
from rareshot.types import Support

EVIL = 'mole|</td><script>alert(1)</script>\n---\nlicense: "mit"\n# **x**'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one evaluation, and with things that must not travel."""
    folder = tmp_path_factory.mktemp("made") / "run"
    images = separable(16, lesions=40, seed=0)
    learner = METHOD.untrained(images.common(), seed=0)
    run = replace(RUN, data={"name": "made", "common": list(images.common().classes), "fingerprint": "0f"})
    write_run(folder, run)
    save_learner(folder, learner)
    header = header_of(run, images.rare(), inductive=learner.inductive, protocol="paper", way=2, shot=2, seed=0)
    asked = Asked(name_of("paper", 2, 2), header, plan(images.rare(), "paper", shot=2, count=3))
    judge(folder, [asked], learner, lambda *_: None)
    (folder / "log.jsonl").write_text("{}\n")
    (folder / "checkpoint-000001.safetensors").write_bytes(b"x")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(made, tmp_path / "run"))


class FakeHub(HfApi):
    """One repository in a folder; it may lie about sizes, send something else, or be out of reach."""

    def __init__(self, folder: Path, *, sizes: int | None = None, fails: Exception | None = None) -> None:
        super().__init__(endpoint="https://hub.example", token=False)
        self.folder, self.sizes, self.fails = folder, sizes, fails
        self.private: Any = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:  # type: ignore[override]
        if self.fails:
            raise self.fails
        self.private = private

    def upload_folder(  # type: ignore[override]
        self, *, repo_id: str, folder_path: Path, commit_message: str, delete_patterns: list[str]
    ) -> None:
        if self.folder.exists():
            for file in self.folder.iterdir():
                if any(file.match(pattern) for pattern in delete_patterns):
                    file.unlink()
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)

    def model_info(self, repo_id: str, *, files_metadata: bool) -> Any:  # type: ignore[override]
        if self.fails:
            raise self.fails
        files = [
            SimpleNamespace(rfilename=file.name, size=self.sizes or file.stat().st_size)
            for file in self.folder.iterdir()
        ]
        return SimpleNamespace(siblings=files, sha="abc")

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, cache_dir: str) -> str:  # type: ignore[override]
        return shutil.copy(self.folder / filename, cache_dir)


def test_what_is_pushed_and_pulled_is_the_same_learner_and_adapts(run: Path, tmp_path: Path) -> None:
    assert push(run, str(tmp_path / "there")) == str(tmp_path / "there")
    pull(str(tmp_path / "there"), tmp_path / "back")
    _, back = find_learner(tmp_path / "back")
    assert state_hash(back.state()) == state_hash(load_learner(run).state())
    assert sorted(os.listdir(tmp_path / "back")) == [
        "README.md",
        "learner.safetensors",
        "paper-2way-2shot.summary.json",
        "run.json",
    ]
    images = separable(16, lesions=4, seed=1)
    support = Support(images.images(images.labels.argsort()[:8]), torch.tensor([0, 1] * 4), ("a", "b"))
    assert back.adapt(support)(support.images).shape == (8, 2)


def test_the_card_says_what_was_measured_and_what_was_not(run: Path) -> None:
    card = model_card(run)
    told = json.loads((run / "paper-2way-2shot.summary.json").read_text())["metrics"]["auc"]
    assert f"| {100 * told['mean']:.1f} |" in card
    assert f"| {told['kind']} |" in card
    assert "Not a medical device" in card
    assert "Not calibrated" in card
    (run / "paper-2way-2shot.summary.json").unlink()
    assert "Not measured" in model_card(run)


def test_a_pair_of_one_episode_has_no_interval_in_the_card(run: Path) -> None:
    file = run / "paper-2way-2shot.summary.json"
    told = json.loads(file.read_text())
    told["pairs"][0]["auc"] |= {"n": 1, "low": math.nan, "high": math.nan}
    file.write_text(json.dumps(told))
    card = model_card(run)
    assert "nan" not in card
    assert "| none | over episodes |" in card


def test_the_card_of_a_transductive_or_pretrained_learner_says_so(run: Path) -> None:
    method = replace(METHOD, norm="transductive")
    write_run(run, replace(RUN, method=method))
    save_learner(run, method.blank(16))
    assert "transductive" in model_card(run)
    seen = {"name": "isic2018", "common": ["nv", "mel"]}
    write_run(run, replace(RUN, method=Pretrained(), name="pretrained", size=224, data=seen))
    save_learner(run, Pretrained().blank(224))
    assert read_run(run).licence == "", "no image of that set trained it"
    card = model_card(run)
    assert "| trained on | ImageNet, by others; none of the images of any disease set |" in card
    assert "nevus" not in card
    assert "trained on ImageNet by others" in card
    assert 'license: "other"' in card


@pytest.mark.parametrize(
    ("name", "trained", "weights"),
    [
        ("transfer", "| trained on | ImageNet, then ISIC 2018", "Trained from ImageNet's weights on the images"),
        ("combined", ", beside ImageNet |", "Trained from random weights on the images"),
    ],
)
def test_the_card_says_where_imagenet_has_a_part(run: Path, name: str, trained: str, weights: str) -> None:
    method: Any = METHODS[name]
    write_run(run, replace(RUN, method=method, name=name, data={"name": "isic2018", "common": ["nv", "mel"]}))
    save_learner(run, method.blank(16))
    card = model_card(run)
    for told in (trained, weights, "was made by others", "whose terms are ImageNet's"):
        assert told in card


def test_no_name_breaks_the_cards_table_or_front_matter(run: Path) -> None:
    write_run(run, replace(RUN, data={"name": EVIL, "common": [EVIL]}, name=EVIL))
    card = model_card(run)
    head = card.split("\n---\n")[0].splitlines()
    assert [line.partition(":")[0] for line in head[1:]] == [
        "license",
        "library_name",
        "pipeline_tag",
        "tags",
        "datasets",
    ]
    assert "<script>" not in card.split("\n---\n", 1)[1]
    rows = [line for line in card.splitlines() if line.startswith("| trained on")]
    assert len(rows) == 1


def test_a_card_that_was_made_here_is_made_anew(run: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "there"))
    pull(str(tmp_path / "there"), tmp_path / "back")
    (tmp_path / "back" / "paper-2way-2shot.summary.json").unlink()
    push(tmp_path / "back", str(tmp_path / "again"))
    assert "Not measured" in (tmp_path / "again" / "README.md").read_text()


def test_a_repository_keeps_nothing_of_another_learner(run: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "hub")
    push(run, "hf://me/x", hub=hub)
    (run / "paper-2way-2shot.summary.json").unlink()
    (tmp_path / "hub" / "notes.txt").touch()
    push(run, "hf://me/x", hub=hub)
    assert sorted(file.name for file in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "learner.safetensors",
        "notes.txt",
        "run.json",
    ]


def test_a_calibration_beside_a_transductive_learner_is_refused(run: Path, tmp_path: Path) -> None:
    write_run(run, replace(read_run(run), method=replace(METHOD, norm="transductive")))
    pull(str(run), tmp_path / "there")
    (run / "trust.safetensors").write_bytes(b"<script>")
    with pytest.raises(
        ValueError, match=r"trust\.safetensors: this learner is transductive, and a calibration is of induc"
    ):
        pull(str(run), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_card_of_ones_own_goes_along(run: Path, tmp_path: Path) -> None:
    (run / "README.md").write_text("# ours\n")
    push(run, str(tmp_path / "there"))
    assert (tmp_path / "there" / "README.md").read_text() == "# ours\n"


def test_a_hub_gives_back_what_it_got_and_its_repository_is_private(run: Path, tmp_path: Path) -> None:
    hub = FakeHub(tmp_path / "hub")
    assert push(run, "hf://me/daml", hub=hub) == "https://hub.example/me/daml"
    assert hub.private is True
    (tmp_path / "hub" / ".gitattributes").write_text("x")
    (tmp_path / "hub" / "evil.pkl").write_bytes(b"\x80\x04.")
    pull("hf://me/daml", tmp_path / "back", hub=hub)
    assert state_hash(load_learner(tmp_path / "back").state()) == state_hash(load_learner(run).state())
    assert not (tmp_path / "back" / "evil.pkl").exists()


class Unreachable(HfHubHTTPError):  # noqa: N818
    """As the hub's client says it, without a response to make it from."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)


@pytest.mark.parametrize("error", [OSError("Name or service not known"), Unreachable("404 Client Error\nmore")])
def test_a_hub_that_fails_is_said_in_one_line_with_the_way_out(run: Path, tmp_path: Path, error: Exception) -> None:
    hub = FakeHub(tmp_path / "hub", fails=error)
    with pytest.raises(ValueError, match=r"^hf://me/x: (Name or|404 Client Error;).*hf auth login"):
        pull("hf://me/x", tmp_path / "back", hub=hub)
    with pytest.raises(ValueError, match="hf auth login"):
        push(run, "hf://me/x", hub=hub)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_hub_with_a_huge_file_is_refused_before_it_is_fetched(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "hub")
    with pytest.raises(ValueError, match=r"hf://me/x: learner\.safetensors has 4294967296 bytes; at most"):
        pull("hf://me/x", tmp_path / "back", hub=FakeHub(tmp_path / "hub", sizes=2**32))


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**told, **changes}))

    return change


def with_method(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: changed(method=json.loads((folder / "run.json").read_text())["method"] | changes)(folder)


def summary(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "paper-2way-2shot.summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def linked(folder: Path) -> None:
    (folder / "learner.safetensors").unlink()
    (folder / "learner.safetensors").symlink_to("/dev/zero")


def piped(folder: Path) -> None:
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")


UNSOUND: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "run.json").unlink(), r"run\.json is missing"),
    (lambda folder: (folder / "learner.safetensors").unlink(), r"learner\.safetensors is missing"),
    (lambda folder: (folder / "run.json").write_text("{"), r"run\.json is not sound"),
    (lambda folder: (folder / "run.json").write_text("[" * 10**5), r"run\.json is not sound"),
    (lambda folder: (folder / "run.json").write_bytes(b" " * (2**20 + 1)), r"run\.json: has .* at most"),
    (changed(size=2**40), r"run\.json is not sound: size="),
    (changed(data=None), r"run\.json is not sound: data=None is not of the right kind, dict"),
    (changed(data={"name": "isic2018", "common": 5}), r"run\.json is not sound: data\.common=5 is not a list of names"),
    (changed(versions=[1]), r"versions=\[1\] is not of the right kind, dict"),
    (with_method(inner_lr=10**400), r"run\.json is not sound: inner_lr=10+ is not of the right kind, float"),
    (changed(method={"kind": "os.system"}), r"kind='os.system' is none of"),
    (with_method(width=10**6), r"learner\.safetensors: the weights do not fit MAML"),
    (
        lambda folder: (folder / "learner.safetensors").write_bytes(b"\x80\x04."),
        r"is damaged or not a safetensors file",
    ),
    (lambda folder: (folder / "trust.safetensors").write_bytes(b"{}"), r"trust\.safetensors"),
    (summary(metrics={"auc": 5}), r"paper-2way-2shot\.summary\.json is no sound summary"),
    (summary(way=math.inf), r"paper-2way-2shot\.summary\.json is no sound summary"),
    (
        summary(metrics={"auc": {"mean": 0.5, "low": 0, "high": 10**400, "n": 3, "kind": "over x"}}),
        "is no sound summary",
    ),
    (summary(metrics={"auc": {"mean": 0.5, "low": 0, "high": 1, "n": 3, "kind": 5}}), "is no sound summary"),
    (summary(pairs="x"), r"paper-2way-2shot\.summary\.json is no sound summary"),
    (linked, r"learner\.safetensors: is a link that leads out"),
    (piped, r"run\.json: is "),
    (lambda folder: (folder / "README.md").symlink_to("/etc/hostname"), r"README\.md: is a link that leads out"),
]


@pytest.mark.parametrize(("spoil", "told"), UNSOUND, ids=[told for _, told in UNSOUND])
def test_what_is_not_sound_is_refused_by_name_and_leaves_nothing(
    run: Path, tmp_path: Path, spoil: Callable[[Path], object], told: str
) -> None:
    spoil(run)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        pull(str(run), tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_run_with_deeply_nested_facts_travels_or_is_refused(run: Path, tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(600):
        deep = [deep]
    changed(data={"name": "isic2018", "common": [], "extra": deep})(run)
    pull(str(run), tmp_path / "back")


def test_links_of_a_hubs_cache_are_followed(run: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "cache" / "snapshots" / "1"
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(run.iterdir())):
        shutil.copy(file, tmp_path / "cache" / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    assert pull(str(snapshot), tmp_path / "back").name == "daml"


def test_a_forged_number_of_classes_takes_no_memory(run: Path, tmp_path: Path) -> None:
    with_method(way=10**15)(run)
    assert pull(str(run), tmp_path / "back").method.way == 10**15  # type: ignore[attr-defined]


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_weights_are_refused(run: Path, tmp_path: Path, data: bytes) -> None:
    (run / "learner.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"learner\.safetensors"):
        pull(str(run), tmp_path / "back")


def test_a_target_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for call in (lambda: push(run, str(tmp_path / "full")), lambda: pull(str(run), tmp_path / "full")):
        with pytest.raises(ValueError, match="is there already"):
            call()
    assert os.listdir(tmp_path / "full") == ["mine.txt"]


def test_the_commands_say_what_came_and_what_is_next(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run), str(tmp_path / "there")]) == 0
    assert main(["pull", str(tmp_path / "there"), "--out", str(tmp_path / "back")]) == 0
    told = capsys.readouterr().out
    assert "SHA-256 of the weights: " in told
    assert f"next: rareshot adapt {tmp_path / 'back'}" in told
    assert main(["pull", str(tmp_path / "nowhere"), "--out", str(tmp_path / "x")]) == 2
    assert "no such learner; give a folder, or a repository as hf://OWNER/NAME" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["hf://NAME", "hf:/OWNER/NAME", "https://huggingface.co/OWNER/NAME", "s3://a/b"])
def test_an_address_of_something_else_becomes_no_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for call in (lambda: push(run, place), lambda: pull(place, tmp_path / "back")):
        with pytest.raises(ValueError, match="is no address of a repository; give hf://OWNER/NAME, or a folder"):
            call()
    assert sorted(tmp_path.iterdir()) == before
