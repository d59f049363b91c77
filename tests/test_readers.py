"""Every known layout is read from a made folder, and every fault is named with its file and row."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_sets import (
    make_class_folders,
    make_dermofit,
    make_ham,
    make_images,
    make_isic,
    make_npz,
    make_table,
    put,
    table,
)

from rareshot.data.cards import DERMAMNIST, DERMOFIT, ISIC2018, PAD_UFES_20
from rareshot.data.check import check
from rareshot.data.readers import read_listing

DATA = Path(os.environ.get("RARESHOT_DATA") or Path(__file__).parents[2] / "shared" / "data")


def problems(path: Path, *rare: str) -> str:
    return "\n".join(map(str, read_listing(path, rare).problems))


@pytest.mark.parametrize("beside", [False, True])
def test_isic_as_published_is_read_with_its_lesions(tmp_path: Path, beside: bool) -> None:
    listing = read_listing(make_isic(tmp_path, beside=beside))
    assert listing.card is ISIC2018
    assert not listing.problems
    assert (len(listing), len(set(listing.groups))) == (28, 14)
    assert listing.labels[:5] == ("mel", "mel", "mel", "mel", "nv")
    assert listing.columns["dx_type"][0] == "histopathology"


def test_isic_without_lesions_is_a_problem(tmp_path: Path) -> None:
    make_isic(tmp_path)
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    found = problems(tmp_path)
    assert "ISIC2018_Task3_Training_LesionGroupings.csv: does not exist" in found
    assert "so its lesion is unknown" in found


def test_isic_row_without_one_class_is_named(tmp_path: Path) -> None:
    make_isic(tmp_path)
    truth = tmp_path / "ISIC2018_Task3_Training_GroundTruth" / "ISIC2018_Task3_Training_GroundTruth.csv"
    lines = truth.read_text().splitlines()
    lines[3] = lines[3].replace("1.0", "0.0")
    lines[4] = lines[4].replace("0.0", "1.0")
    truth.write_text("\n".join(lines))
    found = problems(tmp_path)
    assert "GroundTruth.csv row 4: must have 1 in one class column; has it in none" in found
    assert "GroundTruth.csv row 5: must have 1 in one class column; has it in NV, MEL," in found


@pytest.mark.parametrize("metadata", ["HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab"])
def test_ham10000_as_published_is_read_with_site_and_lesions(tmp_path: Path, metadata: str) -> None:
    listing = read_listing(make_ham(tmp_path, metadata=metadata))
    assert listing.card is ISIC2018
    assert not listing.problems
    assert (len(listing), len(set(listing.groups))) == (28, 14)
    assert set(listing.columns["site"]) == {"rosendahl"}
    assert listing.files[1] == "HAM10000_images_part_2/ISIC_0000001.jpg"


def test_ham10000_without_its_images_says_so(tmp_path: Path) -> None:
    table(tmp_path / "HAM10000_metadata.csv", "lesion_id,image_id,dx", ["a,b,nv"])
    assert "has no folder HAM10000_images_part_1 or _2" in problems(tmp_path)


def test_images_and_labels_take_the_card_by_class_names_and_the_patient_as_group(tmp_path: Path) -> None:
    isic = read_listing(make_images(tmp_path / "one", tuple(ISIC2018.classes)))
    assert isic.card is ISIC2018
    assert isic.classes == tuple(ISIC2018.classes)
    pad = make_images(tmp_path / "two", tuple(PAD_UFES_20.classes), column="patient_id")
    labels = (pad / "labels.csv").read_text().replace("patient_id,site", "patient_id,lesion_id")
    (pad / "labels.csv").write_text(labels)
    listing = read_listing(pad)
    assert listing.card is PAD_UFES_20
    assert listing.groups[:3] == ("g0", "g0", "g1")
    assert listing.layout == "images/ and labels.csv; groups are patient_id"
    assert read_listing(pad / "labels.csv").ids == listing.ids


def test_an_own_set_has_the_rare_classes_that_are_named(tmp_path: Path) -> None:
    listing = read_listing(make_images(tmp_path / "mine", ("wart", "mole", "scar")), ("scar",))
    assert (listing.card.name, listing.card.common, listing.card.rare) == ("mine", ("mole", "wart"), ("scar",))
    assert read_listing(tmp_path / "mine").card.rare == ()
    assert "rare class 'burn': is not in the data; there are mole, scar, wart" in problems(tmp_path / "mine", "burn")


def test_rare_classes_of_a_known_set_can_be_chosen(tmp_path: Path) -> None:
    card = read_listing(make_images(tmp_path, tuple(ISIC2018.classes)), ("df", "mel")).card
    assert card.name == "isic2018"
    assert card.rare == ("df", "mel")
    assert card.common == ("nv", "bkl", "bcc", "akiec", "vasc")


def test_faults_of_images_and_labels_are_named_by_row(tmp_path: Path) -> None:
    make_images(tmp_path, tuple(ISIC2018.classes))
    put(tmp_path / "images" / "twice.png")
    put(tmp_path / "images" / "twice.jpg")
    put(tmp_path / "images" / "lonely.jpg")
    rows = ["p000,mel,g0,x", "gone,mel,g1,x", ",mel,g1,x", "p001", "twice,mel,g,x", "lonely.jpg,wart,g,x", "p002,,g,x"]
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("\n".join(rows))
    put(tmp_path / "images" / "extra.jpg")
    listing = read_listing(tmp_path)
    found = "\n".join(map(str, listing.problems))
    assert "labels.csv row 30: repeats 'p000' of labels.csv row 2, with another label" in found
    assert "labels.csv row 31: image 'gone' is not in images/" in found
    assert "labels.csv row 32: names no image" in found
    assert "labels.csv row 33: has 1 fields; the header has 4" in found
    assert "labels.csv row 34: image 'twice' could be images/twice.jpg or images/twice.png" in found
    assert "labels.csv row 35: label 'wart' is not a class of isic2018" in found
    assert "labels.csv row 36: has no label" in found
    assert [str(one) for one in listing.left_out] == ["images/extra.jpg: has no row in the table"]
    assert len(listing) == 28


def test_table_of_paths_is_read_from_csv_and_tsv(tmp_path: Path) -> None:
    rows = ["a.jpg,wart,p1,train", "sub/b.jpg,mole,p1,test", "./c.png,wart,p2,test"]
    listing = read_listing(make_table(tmp_path, rows, header="path,label,group,split"))
    assert not listing.problems
    assert listing.ids == ("a.jpg", "sub/b.jpg", "c.png")
    assert listing.groups == ("p1", "p1", "p2")
    assert listing.columns["split"] == ("train", "test", "test")
    tabs = [row.replace(",", "\t") for row in rows]
    assert read_listing(make_table(tmp_path, tabs, header="path\tlabel\tgroup\tx", name="set.tsv")).ids == listing.ids
    (tmp_path / "set.tsv").rename(tmp_path / "labels.tsv")
    assert read_listing(tmp_path).ids == listing.ids


@pytest.mark.parametrize(
    "path",
    ["../up.jpg", "sub/../../up.jpg", "/etc/passwd", "C:\\x.jpg", "..\\up.jpg", "\\\\host\\x", "out.jpg", "far/up.jpg"],
)
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    put(tmp_path / "up.jpg")
    root = tmp_path / "set"
    made = make_table(root, ["a.jpg,wart,1", f"{path},wart,2"])
    (root / "out.jpg").symlink_to(tmp_path / "up.jpg")
    (root / "far").symlink_to(tmp_path)
    listing = read_listing(made)
    assert len(listing) == 1
    assert len(listing.problems) == 1
    assert "must be relative to the table and inside" in str(listing.problems[0]) or "symbolic link" in str(
        listing.problems[0]
    )


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    made = make_table(tmp_path, ["a.jpg,wart,1", "link.jpg,mole,2"])
    (tmp_path / "link.jpg").symlink_to("sub/b.jpg")
    assert not read_listing(made).problems


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"path,label\na.jpg,w\xff\n", r"set\.csv row 2: is not UTF-8 text; save the table as UTF-8"),
        (b"path,label\na.jpg,\0\n", r"set\.csv row 2: holds a NUL byte"),
        ("path,label\na.jpg,wart".encode("utf-16"), r"set\.csv row 1: is UTF-16 text"),
        (b"path,label\na.jpg," + b"x" * 5000, r"set\.csv row 2: has a field of more than 4000 characters"),
        (b"path,label\na.jpg," + b"x" * 500_000, r"set\.csv row 2: is not a row of a table: field larger than"),
        (b'path,label\n"a.jpg,wart\n' + b"b\n" * 9, r"set\.csv row 11: is not a row of a table"),
        (b"path,label,label\na.jpg,wart,mole\n", r"set\.csv row 1: names a column twice: label"),
        (b"path,name\na.jpg,wart\n", r"set\.csv: has no column 'label'; its columns are path, name"),
        (b"path,label,group\na.jpg,wart,\n", r"set\.csv row 2: has no group"),
        (b"path,label\n,wart\n", r"set\.csv row 2: has no path"),
        (b"path,label\na.jpg,wart\na.jpg,wart\n", r"set\.csv row 3: repeats 'a\.jpg' of set\.csv row 2"),
        (b"path,label\nno.jpg,wart\n", r"set\.csv row 2: file 'no\.jpg' does not exist"),
        (b"path,label\n", "holds no image"),
        (b"\n\n", r"set\.csv: has no header"),
        (b"", r"set\.csv: is empty"),
        (b"\xef\xbb\xbfpath;label\na.jpg;" + b"\n", r"set\.csv row 2: has no label"),
    ],
)
def test_a_faulty_table_names_file_and_row(tmp_path: Path, content: bytes, reason: str) -> None:
    made = make_table(tmp_path, [])
    made.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        raise ValueError(problems(made))


def test_a_folder_a_class_is_read_with_folders_as_groups(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    put(tmp_path / "wart" / "patient1" / "x.png", "PNG")
    put(tmp_path / "wart" / "patient1" / "y.png", "PNG")
    (tmp_path / "wart" / "notes.txt").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "mole" / "folder.png").mkdir()
    listing = read_listing(tmp_path, ("scar",))
    assert listing.classes == ("mole", "scar", "wart")
    assert (len(listing), len(set(listing.groups))) == (14, 13)
    assert [str(one) for one in listing.problems] == ["mole/folder.png: is a folder, not an image file"]
    assert [one.name for one in listing.left_out] == ["folder.png", "wart/notes.txt"]


def test_a_table_beside_class_folders_is_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    table(tmp_path / "notes.csv", "who,when", ["a,b"])
    listing = read_listing(tmp_path)
    assert [str(one) for one in listing.left_out] == ["notes.csv: is not read: the folders name the classes"]
    table(tmp_path / "set.csv", "path,label,group", ["wart/0.png,other,g0"])
    assert "set.csv: names labels, and beside it the folders do: give the table itself, or move it away" in problems(
        tmp_path
    )


def test_one_file_under_two_names_is_a_problem(tmp_path: Path) -> None:
    make_images(tmp_path, ("wart", "mole"))
    with (tmp_path / "labels.csv").open("a") as rows:
        rows.write("p000.jpg,mole,g99,site0\n")
    assert "labels.csv row 10: repeats the file 'images/p000.jpg' of labels.csv row 2, with another label" in problems(
        tmp_path
    )


def test_classes_that_differ_in_case_alone_are_a_problem(tmp_path: Path) -> None:
    for name in ("Lupus", "lupus", "nevus"):
        put(tmp_path / name / "1.png", "PNG")
    told = problems(tmp_path, "lupus")
    assert "lupus: is the class 'Lupus' but for case or the form of its letters: give both one name" in told


def test_names_in_either_form_of_unicode_are_found(tmp_path: Path) -> None:
    composed, apart = "l\xe9sion", "le\u0301sion"
    for name in (apart, "autre"):
        put(tmp_path / "a" / name / "1.png", "PNG")
    assert read_listing(tmp_path / "a", (composed,)).card.rare == (apart,)
    put(tmp_path / "b" / "images" / f"{apart}.jpg")
    table(tmp_path / "b" / "labels.csv", "image_id,dx,Patient_ID", [f"{composed},wart,p1"])
    listing = read_listing(tmp_path / "b")
    assert (listing.problems, listing.groups) == ((), ("p1",))
    put(tmp_path / "c" / apart / f"{apart}.jpg")
    table(tmp_path / "c" / "set.csv", "path,label,patient_id,Patient_ID", [f"{composed}/{composed}.jpg,wart,p1,row1"])
    listing = read_listing(tmp_path / "c" / "set.csv")
    assert (listing.problems, listing.files, listing.groups) == ((), (f"{apart}/{apart}.jpg",), ("p1",))


def test_a_file_name_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    make_class_folders(tmp_path)
    os.rename(os.fsencode(tmp_path / "wart" / "0.png"), os.fsencode(tmp_path / "wart") + b"/\xff.png")
    assert r"'wart/\udcff.png': has a file name that is not UTF-8 text; rename it" in problems(tmp_path)


def test_dermofit_is_read_by_lesion_and_without_masks(tmp_path: Path) -> None:
    listing = read_listing(make_dermofit(tmp_path))
    assert listing.card is DERMOFIT
    assert not listing.problems
    assert (len(listing), len(set(listing.groups))) == (20, 20)
    assert not any("mask" in file for file in listing.files)
    assert len(listing.left_out) == 20


def test_packed_dermofit_says_to_unpack(tmp_path: Path) -> None:
    for label in ("AK", "BCC"):
        with zipfile.ZipFile(tmp_path / f"{label}.zip", "w") as archive:
            archive.writestr(f"{label}/A1/A1.png", b"x")
    with pytest.raises(ValueError, match=r"holds only archives \(AK\.zip, BCC\.zip\): unpack them there first"):
        read_listing(tmp_path)
    make_dermofit(tmp_path)
    (tmp_path / "MEL").rename(tmp_path.parent / "elsewhere")
    (tmp_path / "MEL.zip").write_bytes(b"PK")
    assert problems(tmp_path) == "MEL.zip: is not unpacked"


@pytest.mark.parametrize("grey", [False, True])
def test_dermamnist_is_read_with_class_names(tmp_path: Path, grey: bool) -> None:
    listing = read_listing(make_npz(tmp_path / "dermamnist_64.npz", size=64, grey=grey))
    assert listing.card is DERMAMNIST
    assert listing.labels[:7] == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert listing.columns["split"][13:15] == ("train", "val")
    assert len(set(listing.groups)) == 28
    assert listing.pixels is not None
    assert listing.pixels.shape == (28, 64, 64, 3)


def test_another_npz_has_numbers_as_classes_and_says_that_it_has_no_groups(tmp_path: Path) -> None:
    listing = read_listing(make_npz(tmp_path / "pathmnist.npz", classes=3), ("2",))
    assert listing.card.title == "pathmnist; carries no lesion or patient ids"
    assert (listing.card.common, listing.card.rare) == (("0", "1"), ("2",))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"train_labels": np.zeros((14, 5), np.uint8)}, r"train_labels must be one number an image, \(14, 1\)"),
        ({"train_images": np.zeros((14, 28, 28, 28), np.uint8)}, r"train_images must be \(n, h, w\) or"),
        ({"train_images": np.zeros((14, 28, 30), np.uint8)}, "train_images must be square; got 28 x 30"),
        ({"val_images": np.zeros((7, 32, 32, 3), np.uint8)}, "images of different sizes"),
        ({"train_images": np.array([object()])}, r"array train_images\.npy must hold integers"),
        ({"train_labels": np.full((14, 1), 9, np.uint8)}, "holds label 9; labels of this set start at 0 and end at 6"),
        ({"train_labels": np.full((14, 1), -1)}, "holds label -1"),
    ],
)
def test_a_faulty_npz_is_refused(tmp_path: Path, other: dict[str, np.ndarray], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"dermamnist\.npz: .*{reason}"):
        read_listing(make_npz(tmp_path / "dermamnist.npz", **other))


def test_a_forged_npz_is_refused_before_memory_is_set_aside(tmp_path: Path) -> None:
    file = make_npz(tmp_path / "x.npz")
    header = b"\x93NUMPY\1\0\x76\0" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 28, 28)}".ljust(
        118
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_images.npy", header)
    with pytest.raises(ValueError, match=r"claims .*more than the file holds"):
        read_listing(file)
    file.write_bytes(b"PK\3\4" + bytes(99))
    with pytest.raises(ValueError, match=r"is not a sound \.npz file"):
        read_listing(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.py", b"x")
    with pytest.raises(ValueError, match=r"needs train_images and train_labels .* holds none of them"):
        read_listing(file)


def test_an_array_whose_header_does_not_end_is_refused(tmp_path: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3,\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("train_images.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
        file.writestr("train_labels.npy", b"")
    assert "is not a sound array" in check(tmp_path / "x.npz").bad[0].reason


def test_an_npz_with_a_damaged_lzma_stream_or_name_is_refused(tmp_path: Path) -> None:
    file = make_npz(tmp_path / "x.npz")
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        begin = archive.infolist()[0].header_offset + 30 + len(archive.infolist()[0].filename) + 9  # its properties
    sound = file.read_bytes()
    file.write_bytes(sound[:begin] + bytes(byte ^ 255 for byte in sound[begin : begin + 12]) + sound[begin + 12 :])
    with pytest.raises(ValueError, match=r"x\.npz: is not a sound \.npz file: Corrupt input data"):
        read_listing(file)
    assert "is not a sound .npz file" in check(file).bad[0].reason
    flags = sound.index(b"PK\1\2") + 9  # of the first name; the bit says UTF-8
    forged = bytearray(sound)
    forged[flags], forged[flags + 37] = 8, 255
    file.write_bytes(forged)
    with pytest.raises(ValueError, match=r"x\.npz: is not a sound \.npz file: .*codec can't decode"):
        read_listing(file)


def test_an_unknown_layout_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        read_listing(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no layout that rareshot knows; known are: images/ with labels\.csv"):
        read_listing(tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"holds 1 images and no labels: put those of each class into a folder of their"
    ):
        read_listing(tmp_path)
    (tmp_path / "mine.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match=r"has no labels\.csv; if mine\.csv is the table"):
        read_listing(tmp_path)
    make_npz(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"holds \.npz files; name one of them"):
        read_listing(tmp_path)
    (tmp_path / "x.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match=r"is not a folder, a table \(\.csv, \.tsv, \.tab, \.txt\) or an \.npz file"):
        read_listing(tmp_path / "x.pdf")
    put(tmp_path / "images" / "a.jpg")
    assert "images: is the only folder, and there is no labels.csv beside it" in problems(tmp_path)


@pytest.mark.isic
@pytest.mark.parametrize(
    ("name", "images", "groups", "card"),
    [("isic2018", 10_015, 7_470, ISIC2018), ("pad_ufes_20_subset", 874, 674, PAD_UFES_20)],
)
def test_the_real_sets_have_their_published_counts(name: str, images: int, groups: int, card: object) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"needs the folder {DATA / name}")
    listing = read_listing(DATA / name)
    assert (len(listing), len(set(listing.groups))) == (images, groups)
    assert listing.card is card
    assert not listing.problems
    assert not listing.left_out
