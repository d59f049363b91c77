"""The store: decoded once, resumed after a kill, refused when changed, renewed when the data changed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import make_class_folders, make_images, make_npz, make_table, put
from PIL import Image

from rareshot.atomic import write_atomically
from rareshot.data import parallel
from rareshot.data import store as room
from rareshot.data.decode import decode
from rareshot.data.store import load, open_store, prepare

DATA = Path(os.environ.get("RARESHOT_DATA") or Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_images(tmp_path / "data", ("wart", "mole", "scar"))


def test_store_holds_what_decode_gives(data: Path) -> None:
    images = load(data, 12, rare=("scar",))
    assert images.classes == ("mole", "scar", "wart")
    assert images.card.rare == ("scar",)
    assert isinstance(images.pixels, np.memmap)
    for i, name in enumerate(images.ids):
        np.testing.assert_array_equal(images.pixels[i], decode(data / "images" / f"{name}.jpg", 12))
    assert images.counts() == {"mole": (4, 2), "scar": (4, 2), "wart": (4, 2)}
    assert images.columns["site"].tolist()[:3] == ["site0", "site1", "site2"]


def test_a_prepared_set_is_not_decoded_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(data, 12)
    monkeypatch.setattr(room, "decode", None)
    again = load(data, 12)
    assert again.fingerprint() == first.fingerprint()
    assert prepare(data, 12) == data / ".rareshot" / "12"
    other_rare = load(data, 12, rare=("wart",))
    assert other_rare.card.rare == ("wart",)
    assert not (data / ".rareshot" / "12" / "chunks").exists()


def test_the_rare_classes_are_those_asked_for_whatever_another_process_asks(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(data, 12, rare=("wart",))
    ours = room.prepare

    def and_then_another(*args: object, **kwargs: object) -> Path:
        folder = ours(*args, **kwargs)
        return ours(data, 12, rare=("scar",)) if kwargs["rare"] == ("mole",) else folder

    monkeypatch.setattr(room, "prepare", and_then_another)
    images = load(data, 12, rare=("mole",))
    assert (images.card.rare, set(images.card.common)) == (("mole",), {"scar", "wart"})


def test_a_store_that_is_being_written_is_waited_for(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(data, 12)
    opened = room.open_store
    times = iter([ValueError("table.json: was changed since the store was made"), None])

    def at_last(folder: Path) -> object:
        if error := next(times):
            raise error
        return opened(folder)

    monkeypatch.setattr(room, "open_store", at_last)
    assert load(data, 12).fingerprint() == first.fingerprint()


def test_a_new_table_renews_labels_without_decoding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(data, 12)
    monkeypatch.setattr(room, "decode", None)
    labels = data / "labels.csv"
    labels.write_text(labels.read_text().replace("wart", "burn"))
    assert load(data, 12).classes == ("burn", "mole", "scar")


def test_a_changed_image_is_decoded_again(data: Path) -> None:
    before = load(data, 12).fingerprint()
    put(data / "images" / "p003.jpg")
    after = load(data, 12)
    assert after.fingerprint() != before
    np.testing.assert_array_equal(after.pixels[3], decode(data / "images" / "p003.jpg", 12))


def test_the_fingerprint_is_of_the_files_and_not_of_how_a_decoder_rounds(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load(data, 12)
    shutil.rmtree(data / ".rareshot")
    monkeypatch.setattr(room, "decode", lambda path, size: decode(path, size) ^ 1)  # another machine's decoder
    there = load(data, 12)
    assert (there.pixels != here.pixels).any()
    assert there.fingerprint() == here.fingerprint()
    assert there.common().fingerprint() == here.common().fingerprint()
    assert load(data, 16).fingerprint() != here.fingerprint()


def test_progress_is_told_up_to_the_total(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "CHUNK", 5)
    told: list[tuple[int, int]] = []
    prepare(data, 12, observe=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 12)
    assert told[-1] == (12, 12)
    assert told == sorted(told)


@pytest.mark.parametrize("name", ["pixels.npy", "table.json", "manifest.json"])
def test_a_changed_file_is_refused_by_name_and_prepare_mends_it(data: Path, name: str) -> None:
    before = load(data, 12).fingerprint()
    folder = data / ".rareshot" / "12"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    if name == "manifest.json":
        content = content[:-3]
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: was changed since the store was made; run prepare again"):
        open_store(folder)
    prepare(data, 12)
    assert open_store(folder).fingerprint() == before
    assert sorted(os.listdir(folder)) == ["manifest.json", "pixels.npy", "table.json"]


def test_a_longer_or_missing_file_is_refused(data: Path) -> None:
    folder = prepare(data, 12)
    with (folder / "pixels.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"pixels\.npy: was changed"):
        load(data, 12)
    (folder / "pixels.npy").unlink()
    with pytest.raises(ValueError, match=r"pixels\.npy: was changed"):
        open_store(folder)
    with pytest.raises(FileNotFoundError, match=r"no store here \(no manifest\.json\)"):
        open_store(data)


@pytest.mark.parametrize(
    "forged",
    [
        {"labels": [1, 2]},
        {"labels": [10**30] * 12},
        {"groups": [10**30] * 12},
        {"classes": ["mole", "scar", [1]]},
        {"classes": ["mole", "scar", 1.5]},
        {"card": {"name": "../../elsewhere", "title": ""}},
        {"card": {"name": "/elsewhere", "title": ""}},
        {"card": {"name": "..", "title": ""}},
        {"card": {"name": "mine", "title": "", "licence": 5}},
        {"card": {"name": "mine", "title": "", "rare": [5]}},
    ],
)
def test_a_forged_table_with_a_right_hash_is_still_refused(data: Path, forged: dict[str, Any]) -> None:
    folder = prepare(data, 12)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "table.json").write_text(json.dumps(json.loads((folder / "table.json").read_text()) | forged))
    manifest["files"]["table.json"] = room.facts(folder / "table.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is not a sound store"):
        open_store(folder)


@pytest.mark.parametrize("pixels", [b"", b"PK\3\4junk", b"\x93NUMPY\1\0\x20\0{'descr': '|u1', 'shape': (3,\n       "])
def test_forged_pixels_with_a_right_hash_are_refused(data: Path, pixels: bytes) -> None:
    folder = prepare(data, 12)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "pixels.npy").write_bytes(pixels)
    manifest["files"]["pixels.npy"] = room.facts(folder / "pixels.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="is not a sound store"):
        open_store(folder)


def test_a_small_npz_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    many = np.zeros((10_000, 8, 8, 3), np.uint8)
    labels = np.arange(10_000, dtype=np.uint8).reshape(-1, 1) % 2
    file = make_npz(tmp_path / "many.npz", size=8, train_images=many, train_labels=labels)
    with pytest.raises(ValueError, match=r"images of 1024 pixels take 29 GiB of memory.*take a smaller --size"):
        load(file, 1024)


def test_a_file_is_not_written_through_a_planted_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: "00")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".table.json.00.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "table.json", b"theirs")
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("files", [{"pixels.npy": "sha256", "table.json": "sha256"}, ["pixels.npy"], {}, None])
def test_a_manifest_that_states_no_hashes_is_refused_and_prepare_mends_it(data: Path, files: Any) -> None:
    folder = prepare(data, 12)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
    with pytest.raises(ValueError, match=r"manifest\.json: was changed since the store was made; run prepare again"):
        open_store(folder)
    assert len(load(data, 12)) == 12


def test_manifest_states_the_hashes_and_the_fingerprint(data: Path) -> None:
    folder = prepare(data, 12)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["fingerprint"] == open_store(folder).fingerprint()
    assert set(manifest["files"]) == {"pixels.npy", "table.json"}
    assert manifest["size"] == 12


def test_all_unreadable_images_are_counted_and_the_first_named(data: Path) -> None:
    for i in range(5):
        (data / "images" / f"p00{i}.jpg").write_bytes(b"no image" * i)
    with pytest.raises(
        ValueError,
        match=r"data: 5 unreadable images: images/p000\.jpg: is empty .*; images/p002\.jpg: .*; …\. "
        r"The whole list: rareshot data check .*data",
    ):
        load(data, 12)
    for i in range(5):
        put(data / "images" / f"p00{i}.jpg")
    assert len(load(data, 12)) == 12


def test_problems_of_the_listing_are_raised_before_decoding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "decode", None)
    with (data / "labels.csv").open("a") as file:
        file.write("gone,wart,g1,x\n")
    with pytest.raises(ValueError, match=r"data: 1 problem: labels\.csv row 14: image 'gone' is not in images/\."):
        load(data, 12)


def test_a_folder_that_nobody_may_write_is_left_as_it_is(data: Path, cache: Path) -> None:
    data.chmod(0o555)
    folder = prepare(data, 12)
    data.chmod(0o755)
    assert not (data / ".rareshot").exists()
    assert folder.is_relative_to(cache / "rareshot")
    assert folder.name == "12"


def test_a_current_store_in_a_folder_that_nobody_may_write_is_used(data: Path, cache: Path) -> None:
    prepare(data, 12)
    data.chmod(0o555)
    load(data, 12)
    data.chmod(0o755)
    assert not list(cache.iterdir())


def test_a_relative_cache_folder_counts_for_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data.chmod(0o555)
    folder = prepare(data, 12)
    data.chmod(0o755)
    assert folder.is_relative_to(tmp_path / "home" / ".cache" / "rareshot")


def test_a_chosen_folder_must_be_a_stores(data: Path, tmp_path: Path) -> None:
    folder = prepare(data, 12, out=tmp_path / "out")
    assert prepare(data, 14, out=folder) == folder
    assert open_store(folder).size == 14
    with pytest.raises(ValueError, match=r"holds 'images', no part of a store; name an empty or new folder \(out\)"):
        prepare(data, 12, out=data)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"the store cannot be written \(.*\); name another folder \(out\)"):
        prepare(data, 12, out=tmp_path / "file" / "deeper")


def test_too_little_disk_is_said_before_decoding(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    with pytest.raises(ValueError, match="MiB of disk to prepare, 0 are free"):
        prepare(data, 84)


def test_a_store_itself_can_be_loaded(data: Path) -> None:
    folder = prepare(data, 12, rare=("scar",))
    assert load(folder, 12).card.rare == ("scar",)
    assert load(folder, 12, rare=("mole",)).card.common == ("scar", "wart")
    with pytest.raises(ValueError, match="holds images of 12 pixels, not 84; name the data set it was made from"):
        load(folder, 84)
    with pytest.raises(ValueError, match="no class burn to be rare; there are mole, scar, wart"):
        load(folder, 12, rare=("burn",))


def test_a_table_and_class_folders_are_loaded(tmp_path: Path) -> None:
    made = make_table(tmp_path / "t", ["a.jpg,wart,p1", "sub/b.jpg,mole,p1", "c.png,wart,p2"])
    images = load(made, 9)
    assert images.groups.tolist() == [0, 0, 1]
    assert (tmp_path / "t" / ".rareshot" / "set-9").is_dir()
    assert len(load(make_class_folders(tmp_path / "f"), 9)) == 12


def test_npz_is_loaded_as_it_is_or_resized(tmp_path: Path) -> None:
    file = make_npz(tmp_path / "dermamnist.npz")
    same, resized = load(file, 28), load(file, 20)
    assert same.classes[same.labels[0]] == "akiec"
    expected = np.asarray(Image.fromarray(same.pixels[5]).resize((20, 20), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resized.pixels[5], expected)
    with pytest.raises(ValueError, match=r"an \.npz file needs no store"):
        prepare(file, 28)


@pytest.mark.parametrize("size", [0, -1, 5000])
def test_an_impossible_size_is_refused(data: Path, size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be 1 to 4096 pixels; got {size}"):
        load(data, size)


KILLED = """
import sys, time
from rareshot.data import parallel, store
store.CHUNK = 4
plain = store.decode
def slow(path, size):
    time.sleep(0.02)
    return plain(path, size)
store.decode = slow
parallel.cores = lambda: 1
store.prepare(sys.argv[1], 12)
"""


def test_prepare_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_images(tmp_path, ("wart", "mole", "scar", "burn"), each=25)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(data)])
    chunks = data / ".rareshot" / "12" / "chunks"
    deadline = time.monotonic() + 30
    while len(list(chunks.glob("*.npy"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(chunks.glob("*.npy")))
    assert 5 <= kept < 25
    (chunks / "half.npy.1.tmp").write_bytes(b"torn")
    decoded: list[object] = []

    def counted(path: Path, size: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(room, "CHUNK", 4)
    monkeypatch.setattr(room, "decode", counted)
    images = load(data, 12)
    assert len(decoded) == 100 - 4 * kept
    assert not chunks.exists()
    np.testing.assert_array_equal(images.pixels[0], decode(data / "images" / "p000.jpg", 12))
    np.testing.assert_array_equal(images.pixels[99], decode(data / "images" / "p099.jpg", 12))


def test_several_callers_at_once_make_one_store(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []

    def counted(path: Path, size: int) -> np.ndarray:
        decoded.append(path)
        return decode(path, size)

    monkeypatch.setattr(room, "decode", counted)
    with ThreadPoolExecutor(4) as pool:
        prints = {images.fingerprint() for images in pool.map(lambda _: load(data, 12), range(4))}
    assert len(prints) == 1
    assert len(decoded) == 12


def test_pixels_do_not_depend_on_the_number_of_threads(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = set()
    for cores in (1, 4):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        prints.add(open_store(prepare(data, 12, out=tmp_path / str(cores))).fingerprint())
    assert len(prints) == 1


@pytest.mark.isic
def test_the_real_images_are_loaded(tmp_path: Path) -> None:
    if not (DATA / "pad_ufes_20_subset").is_dir():
        pytest.skip(f"needs the folder {DATA / 'pad_ufes_20_subset'}")
    images = open_store(prepare(DATA / "pad_ufes_20_subset", 32, out=tmp_path / "out"))
    assert images.pixels.shape == (874, 32, 32, 3)
    assert images.counts()["scc"] == (34, 31)
    assert images.counts()["mel"] == (44, 32)
    assert 60 < images.pixels.mean() < 200
