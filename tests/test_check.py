"""`check` reports everything, names every bad file, and never fails on what a folder holds."""

import os
from pathlib import Path

import numpy as np
import pytest
from hostile import encoded, make_damaged, noise, valid_bytes
from made_sets import make_class_folders, make_dermofit, make_ham, make_images, make_isic, make_npz, make_table
from PIL import Image

from rareshot.cli import main
from rareshot.data.cards import ISIC2018
from rareshot.data.check import check
from rareshot.data.duplicates import near_duplicates

DATA = Path(os.environ.get("RARESHOT_DATA") or Path(__file__).parents[2] / "shared" / "data")


def test_every_bad_file_is_named_and_no_valid_one_refused(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "odd").mkdir()
    bad = make_damaged(tmp_path / "bad")
    valid = valid_bytes()
    for name, content in valid.items():
        (tmp_path / "odd" / name).write_bytes(content)
    assert (len(bad), len(valid)) == (200, 54)
    report = check(tmp_path)
    assert {one.name for one in report.bad} == {f"bad/{name}" for name in bad}
    assert all(one.reason for one in report.bad)
    assert report.left_out == ()
    assert sum(report.sizes.values()) == len(valid)
    assert not report.ok
    assert r"'bad/line\nbreak.jpg'" in "\n".join(report.lines())


def test_report_says_what_is_in_the_set(tmp_path: Path) -> None:
    make_images(tmp_path, tuple(ISIC2018.classes), each=6)
    told: list[tuple[int, int]] = []
    report = check(tmp_path, shot=2, query=1, observe=lambda done, total: told.append((done, total)))
    assert report.ok
    assert (report.images, report.groups) == (42, 21)
    assert {one.name: one.role for one in report.classes}["df"] == "rare"
    assert report.columns["site"] == 3
    assert report.sizes == {"40 x 30": 42}
    assert told[-1] == (42, 42)
    text = report.lines()
    assert "  df: 6 images, 3 groups, rare" in text
    assert (
        "2-way, 2 shot + 1 query = 3 groups a class: enough in nv, mel, bkl, bcc, akiec, vasc, df; too few in none; to train on "
        "such tasks and hold a fifth out, 13 of each common class" in text
    )
    assert "ready to use" in text
    assert list(report.tasks[2].too_small) == list(ISIC2018.classes)


def test_classes_that_are_too_small_are_named_with_their_groups(tmp_path: Path) -> None:
    report = check(make_class_folders(tmp_path, each=17))
    for name in ("0.png", "1.png", "2.png"):
        (tmp_path / "scar" / name).unlink()
    report = check(tmp_path)
    assert [(task.shot, task.need, task.too_small) for task in report.tasks] == [
        (1, 16, ("scar",)),
        (3, 18, ("mole", "scar", "wart")),
        (5, 20, ("mole", "scar", "wart")),
    ]
    assert any("16 groups a class: enough in mole, wart; too few in scar (14)" in line for line in report.lines())


def test_duplicates_are_found_with_the_groups_and_classes_they_cross(tmp_path: Path) -> None:
    picture = Image.fromarray(noise(20, 20)).resize((80, 80), Image.Resampling.BICUBIC)
    for file, content in {
        "wart/p1/a.png": encoded(picture),
        "wart/p1/b.png": encoded(picture),
        "wart/p2/c.jpg": encoded(picture.resize((60, 60)), "JPEG", quality=80),
        "mole/p3/d.webp": encoded(picture, "WEBP", quality=80),
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    make_class_folders(tmp_path)
    report = check(tmp_path)
    assert [one.images for one in report.exact] == [("wart/p1/a.png", "wart/p1/b.png")]
    assert not report.exact[0].across_groups
    near = {one.images: (one.across_groups, one.across_classes) for one in report.near}
    assert near[("wart/p1/a.png", "wart/p2/c.jpg")] == (True, False)
    assert near[("mole/p3/d.webp", "wart/p1/a.png")] == (True, True)
    assert len(near) == 3
    text = "\n".join(report.lines())
    assert "wart/p1/a.png = wart/p1/b.png, in one group" in text
    assert "wart/p1/a.png = wart/p2/c.jpg, in different groups" in text
    assert "mole/p3/d.webp = wart/p1/a.png, in different classes" in text


def test_every_duplicate_is_printed_where_all_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_class_folders(tmp_path)
    for i in range(50):
        (tmp_path / "wart" / f"pair{i // 2:02d}-{i % 2}.png").write_bytes(
            encoded(Image.fromarray(noise()))
            if i % 2 == 0
            else (tmp_path / "wart" / f"pair{i // 2:02d}-0.png").read_bytes()
        )
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "pair24-0.png = " not in capsys.readouterr().out.replace("\n", "")
    assert main(["data", "check", str(tmp_path), "--all"]) == 0
    assert "pair24-0.png = " in capsys.readouterr().out.replace("\n", "")


def test_noise_has_no_near_duplicates_and_like_pictures_are_counted_up_to_a_limit() -> None:
    thumbnails = np.random.default_rng(0).integers(0, 256, (3000, 16, 16, 3), dtype=np.uint8)
    thumbnails[2900] = thumbnails[7]
    assert near_duplicates(thumbnails, most=10) == [(7, 2900)]
    assert len(near_duplicates(np.zeros((1500, 16, 16, 3), np.uint8), most=100)) == 100


@pytest.mark.parametrize("make", [make_isic, make_ham, make_class_folders, make_dermofit])
def test_each_layout_is_reported(tmp_path: Path, make: object) -> None:
    assert callable(make)
    report = check(make(tmp_path))
    assert report.ok
    assert report.images in (28, 12, 20)


def test_npz_and_table_are_reported(tmp_path: Path) -> None:
    report = check(make_npz(tmp_path / "dermamnist.npz"))
    assert report.sizes == {"28 x 28": 28}
    assert "no lesion ids" in report.card
    report = check(make_table(tmp_path, ["a.jpg,wart,1", "../x.jpg,wart,1", "sub,wart,2", "c.png,mole,3"]))
    assert [one.name for one in report.bad] == ["set.csv row 3", "sub"]
    assert report.images == 3


def test_what_is_no_data_set_is_reported_and_not_raised(tmp_path: Path) -> None:
    assert "has no layout that rareshot knows" in check(tmp_path).bad[0].reason
    many = make_npz(tmp_path / "many.npz", train_images=np.zeros((1_000_001, 1, 1), np.uint8))
    assert "array train_images.npy has 1,000,001 rows; at most 1,000,000 are read" in check(many).bad[0].reason
    (tmp_path / "x.npz").write_bytes(b"PK\3\4")
    assert "is not a sound .npz file" in check(tmp_path / "x.npz").bad[0].reason
    os.mkfifo(tmp_path / "labels.csv")
    assert "is not a regular file" in check(tmp_path).bad[0].reason
    assert "is not a regular file" in check(tmp_path / "labels.csv").bad[0].reason
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert "cannot be read" in check(tmp_path / "loop.csv").bad[0].reason
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        check(tmp_path / "nothing")
    with pytest.raises(ValueError, match="shot and query must be at least 1; got 0 and 15"):
        check(tmp_path, shot=0)


def test_folders_that_lead_in_circles_or_are_fifos_do_no_harm(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    (tmp_path / "wart" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "mole" / "\u202egnp.exe").write_bytes(b"x")
    report = check(tmp_path)
    assert report.images == 12
    assert report.ok
    assert all(line.isprintable() for line in report.lines())


def test_random_bytes_in_tables_do_no_harm(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    make_images(tmp_path, ("wart", "mole"))
    good = (tmp_path / "labels.csv").read_bytes()
    for _ in range(60):
        content = bytearray(good)
        for place in rng.integers(0, len(content), 5):
            content[place] = rng.integers(0, 256)
        (tmp_path / "labels.csv").write_bytes(content)
        assert check(tmp_path).lines()


@pytest.mark.isic
def test_the_real_isic_set_has_its_known_duplicates_and_nothing_bad(tmp_path: Path) -> None:
    if not (DATA / "isic2018").is_dir():
        pytest.skip(f"needs the folder {DATA / 'isic2018'}")
    rows = (DATA / "isic2018" / "labels.csv").read_text().splitlines()
    pairs = {"ISIC_0024366", "ISIC_0029861", "ISIC_0024777", "ISIC_0029938", "ISIC_0030444", "ISIC_0030973"}
    kept = [rows[0]] + [row for i, row in enumerate(rows[1:]) if row.split(",")[0] in pairs or i % 12 == 0]
    (tmp_path / "labels.csv").write_text("\n".join(kept))
    (tmp_path / "images").mkdir()
    for row in kept[1:]:
        name = row.split(",")[0] + ".jpg"
        (tmp_path / "images" / name).symlink_to(DATA / "isic2018" / "images" / name)
    report = check(tmp_path)
    assert report.ok
    assert report.sizes == {"200 x 150": len(kept) - 1}
    assert {one.images for one in report.exact} == {("ISIC_0024366", "ISIC_0029861"), ("ISIC_0024777", "ISIC_0029938")}
    assert ("ISIC_0030444", "ISIC_0030973") in {one.images for one in report.near}
    assert not any(one.across_groups for one in (*report.exact, *report.near))
