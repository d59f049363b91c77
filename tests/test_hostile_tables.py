"""Label tables that a hostile or hasty person may send: each is named in one line, and nothing is written."""

import json
import shutil
from pathlib import Path

import pytest
from made_sets import put
from test_predict import run_folder

from rareshot.cli import main
from rareshot.data.collection import LabelledImages

HEAD = b"path,label\n"
GOOD = b"a.jpg,wart\nb.jpg,wart\nc.jpg,mole\nd.jpg,mole\n"
BOMB = b"path,label\n" + b"a.jpg,wart\n" * 200_000

TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "labels.csv: is empty"),
    "blank lines": (b"\n\n\n", "labels.csv: has no header"),
    "header alone": (HEAD, "holds no image"),
    "no label column": (b"path,name\na.jpg,wart\n", "has no column 'label'; its columns are path, name"),
    "no path column": (b"file,label\na.jpg,wart\n", "has no column 'path'"),
    "a column twice": (b"path,label,label\na.jpg,wart,mole\n", "row 1: names a column twice: label"),
    "UTF-16": ((HEAD + GOOD).decode().encode("utf-16"), "row 1: is UTF-16 text"),
    "Latin-1": (HEAD + b"a.jpg,w\xff\n", "row 2: is not UTF-8 text"),
    "NUL in a cell": (HEAD + b"a.jpg,wa\0rt\n", "row 2: holds a NUL byte"),
    "NUL in the header": (b"pa\0th,label\na.jpg,wart\n", "row 1: holds a NUL byte"),
    "random bytes": (bytes(range(128, 256)) * 8, "row 1: is not UTF-8 text"),
    "a PNG": (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "labels.csv"),
    "a zip": (b"PK\x03\x04" + b"\0" * 64, "labels.csv"),
    "a pickle": (b"\x80\x04\x95cposix\nsystem\n(S'touch pwned'\ntR.", "labels.csv"),
    "JSON": (b'{"path": "a.jpg", "label": "wart"}', "labels.csv"),
    "a long field": (HEAD + b"a.jpg," + b"x" * 5000, "row 2: has a field of more than 4000 characters"),
    "a field of half a megabyte": (HEAD + b"a.jpg," + b"x" * 500_000, "row 2: is not a row of a table"),
    "an open quote": (HEAD + b'"a.jpg,wart\n' + b"b\n" * 9, "is not a row of a table"),
    "a short row": (HEAD + GOOD + b"e.jpg\n", "row 6:"),
    "no path in a row": (HEAD + GOOD + b",wart\n", "row 6: has no path"),
    "no label in a row": (HEAD + GOOD + b"e.jpg,\n", "row 6: has no label"),
    "a file twice": (HEAD + GOOD + b"a.jpg,wart\n", "row 6: repeats 'a.jpg'"),
    "a file in two classes": (HEAD + GOOD + b"a.jpg,mole\n", "row 6: repeats 'a.jpg'"),
    "one picture in two classes": (
        HEAD + GOOD + b"twin.jpg,mole\n",
        "are the same picture; one of the labels is wrong",
    ),
    "200,000 rows of one file": (BOMB, "repeats 'a.jpg'"),
    "a file that is not there": (HEAD + GOOD + b"no.jpg,wart\n", "row 6: file 'no.jpg' does not exist"),
    "a folder for a file": (HEAD + GOOD + b"sub,wart\n", "sub: "),
    "a file that is no image": (HEAD + GOOD + b"notes.txt,wart\n", "notes.txt"),
    "a damaged image": (HEAD + GOOD + b"cut.jpg,wart\n", "cut.jpg"),
    "the table itself": (HEAD + GOOD + b"labels.csv,wart\n", "labels.csv"),
    "up and out": (HEAD + GOOD + b"../up.jpg,wart\n", "must be relative to the table and inside"),
    "down, up and out": (HEAD + GOOD + b"sub/../../up.jpg,wart\n", "must be relative to the table and inside"),
    "an absolute path": (HEAD + GOOD + b"/etc/passwd,wart\n", "must be relative to the table and inside"),
    "a drive": (HEAD + GOOD + b"C:\\x.jpg,wart\n", "must be relative to the table and inside"),
    "a share": (HEAD + GOOD + b"\\\\host\\x.jpg,wart\n", "must be relative to the table and inside"),
    "an address": (HEAD + GOOD + b"https://example.org/x.jpg,wart\n", "'https://example.org/x.jpg'"),
    "a link that leads out": (HEAD + GOOD + b"out.jpg,wart\n", "symbolic link"),
    "a linked folder that leads out": (HEAD + GOOD + b"far/up.jpg,wart\n", "symbolic link"),
    "a device": (HEAD + GOOD + b"zero,wart\n", "zero"),
    "one class": (HEAD + b"a.jpg,wart\nb.jpg,wart\n", "support: 1 class (wart); a classifier needs at least 2"),
    "a class called as a column": (HEAD + b"a.jpg,warnings\nb.jpg,mole\n", "'warnings'"),
    "terminal escapes in a path": (HEAD + GOOD + b"\x1b[2J.jpg,wart\n", "'\\x1b[2J.jpg'"),
    "a label that leads out": (HEAD + GOOD + b"no.jpg,../../wart\n", "does not exist"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photographs"
    root.mkdir()
    for name in "abcde":
        put(root / f"{name}.jpg")
    put(tmp_path / "up.jpg")
    (root / "twin.jpg").write_bytes((root / "a.jpg").read_bytes())
    (root / "cut.jpg").write_bytes((root / "b.jpg").read_bytes()[:200])
    (root / "notes.txt").write_text("hello")
    (root / "sub").mkdir()
    (root / "out.jpg").symlink_to(tmp_path / "up.jpg")
    (root / "far").symlink_to(tmp_path)
    (root / "zero").symlink_to("/dev/zero")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, made: LabelledImages) -> Path:
    return run_folder(tmp_path_factory.mktemp("learner") / "run", made)


def contents(root: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in root.rglob("*") if file.is_file() and not file.is_symlink()}


def test_forty_tables_and_more_are_tried() -> None:
    assert len(TABLES) >= 40


@pytest.mark.parametrize(("content", "reason"), TABLES.values(), ids=TABLES)
def test_a_hostile_table_is_named_in_one_line_and_nothing_is_written(
    content: bytes,
    reason: str,
    folder: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    table = folder / "labels.csv"
    table.write_bytes(content)
    before = contents(folder.parent)
    assert main(["adapt", str(run), "--support", str(table), "--out", str(folder / "c.safetensors")]) == 2
    out, err = capsys.readouterr()
    said = err[err.rindex("rareshot: ") :]
    assert reason in said
    assert "Traceback" not in out + err
    assert "\x1b[2J" not in out + err
    assert contents(folder.parent) == before


def test_a_label_of_terminal_escapes_is_a_name_like_any_other_and_is_shown_escaped(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = folder / "labels.csv"
    table.write_bytes(HEAD + GOOD + b"e.jpg,\x1b[2J../../wart\n")
    before = contents(folder.parent)
    classifier = folder / "c.safetensors"
    assert main(["adapt", str(run), "--support", str(table), "--out", str(classifier)]) == 0
    assert main(["predict", str(classifier), str(folder / "a.jpg")]) == 0
    out, err = capsys.readouterr()
    assert "\\x1b[2J../../wart" in out
    assert "\x1b[2J" not in out + err
    assert set(contents(folder.parent)) == {*before, classifier}


def test_a_learners_names_and_emoji_codes_reach_the_terminal_as_text(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = Path(shutil.copytree(run, tmp_path / "theirs"))
    told = json.loads((theirs / "run.json").read_text())
    told |= {"name": "\x1b]0;evil\x07", "data": {"common": ["\x1b[31mred", "nevus:100:"]}}
    (theirs / "run.json").write_text(json.dumps(told))
    put(folder / "photo:a:1.jpg")
    (folder / "labels.csv").write_bytes(HEAD + GOOD + b"photo:a:1.jpg,wart\n")
    classifier = folder / "c:100:"
    assert main(["adapt", str(theirs), "--support", str(folder / "labels.csv"), "--out", str(classifier)]) == 0
    assert main(["predict", str(classifier), str(folder / "photo:a:1.jpg")]) == 0
    out, err = capsys.readouterr()
    assert "'\\x1b]0;evil\\x07'" in out
    assert "trained on '\\x1b[31mred', nevus:100:" in out
    assert "wart/photo:a:1.jpg" in out
    assert "/c:100: (holds" in out
    assert "\x1b" not in out + err
