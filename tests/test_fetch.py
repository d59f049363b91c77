"""Fetching: what it leaves, how it resumes, which checksums it believes."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lying_server import BODY, NAME, Web, isic, made, names

from rareshot.data import fetch as fetch_module
from rareshot.data.cards import CARDS
from rareshot.data.fetch import FetchError, fetch
from rareshot.data.sources import SOURCES
from rareshot.locks import alone

# What a fetch leaves


def test_isic2018_has_the_official_layout_and_nothing_else(web: Web, tmp_path: Path) -> None:
    isic(web)
    assert fetch("isic2018", tmp_path / "new" / "data", base_url=web.base) == tmp_path / "new" / "data"
    out = tmp_path / "new" / "data"
    assert names(out) == [
        "ISIC2018_Task3_Training_GroundTruth",
        "ISIC2018_Task3_Training_Input",
        "ISIC2018_Task3_Training_LesionGroupings.csv",
        "checksums.json",
    ]
    assert (out / "ISIC2018_Task3_Training_Input" / "ISIC_0024306.jpg").read_bytes() == BODY
    assert names(out / "ISIC2018_Task3_Training_GroundTruth") == [
        "ISIC2018_Task3_Training_GroundTruth.csv",
        "LICENSE.txt",
    ]


def test_an_npz_is_returned_as_the_file_that_the_reader_opens(plain: Web, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch("made", tmp_path, observe=lambda done, total: seen.append((done, total)), base_url=plain.base)
    assert path == tmp_path / NAME
    assert path.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_is_there_is_not_downloaded_again(web: Web, tmp_path: Path) -> None:
    isic(web)
    fetch("isic2018", tmp_path, base_url=web.base)
    requests = len(web.asked)
    fetch("isic2018", tmp_path, base_url=web.base)
    assert len(web.asked) == requests


def test_nothing_is_printed(plain: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fetch("made", tmp_path, base_url=plain.base)
    assert capfd.readouterr() == ("", "")


def test_every_source_is_https_and_has_a_card_and_bounds() -> None:
    for source in SOURCES.values():
        assert CARDS[source.card.name] is source.card
        assert source.card.licence
        assert source.card.citation
        for file in source.files:
            assert file.address.startswith("https://")
            assert file.name in file.address
            assert file.max_bytes > 0
            assert re.fullmatch(r"([0-9a-f]{32})?", file.md5)
            assert bool(file.folder) == file.name.endswith(".zip") == bool(file.max_members and file.max_unpacked_bytes)


# Cuts and resumes


def test_a_cut_download_goes_on_from_the_byte(plain: Web, tmp_path: Path) -> None:
    plain.cut = [300_000, 200_000]
    fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert plain.asked == [
        (NAME, "", ""),
        (NAME, "bytes=300000-", '"one"'),
        (NAME, "bytes=500000-", '"one"'),
    ]


def test_cuts_are_forgiven_as_long_as_each_attempt_brings_something(plain: Web, tmp_path: Path) -> None:
    plain.cut = [90_000] * 11
    fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert len(plain.asked) == 12


def test_a_later_run_resumes_what_an_earlier_one_kept(plain: Web, tmp_path: Path) -> None:
    plain.cut = [400_000, 0, 0, 0, 0]
    with pytest.raises(FetchError, match=r"400,000 bytes of made\.npz are kept.*same command again: it goes on"):
        fetch("made", tmp_path, base_url=plain.base)
    assert names(tmp_path) == ["made.npz.part", "made.npz.part.etag"]
    plain.asked.clear()
    fetch("made", tmp_path, base_url=plain.base)
    assert plain.asked == [(NAME, "bytes=400000-", '"one"')]
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_killed_process_is_resumed(web: Web, tmp_path: Path) -> None:
    isic(web)
    web.hang_after = 600_000
    code = "import sys; from pathlib import Path; from rareshot.data.fetch import fetch\n"
    code += "fetch('isic2018', Path(sys.argv[1]), base_url=sys.argv[2])"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), web.base])
    part = tmp_path / "ISIC2018_Task3_Training_Input.zip.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 500_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    web.hang_after = -1
    web.asked.clear()
    fetch("isic2018", tmp_path, base_url=web.base)
    assert web.asked == [("ISIC2018_Task3_Training_Input.zip", f"bytes={kept}-", '"one"')]
    assert (tmp_path / "ISIC2018_Task3_Training_Input" / "ISIC_0024306.jpg").read_bytes() == BODY
    assert not list(tmp_path.glob("*.part*"))


def test_two_processes_never_write_one_part(plain: Web, tmp_path: Path) -> None:
    with alone(tmp_path, wait=False), pytest.raises(FetchError, match="another process is fetching into"):
        fetch("isic2018", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_is_whole_already_is_only_checked(plain: Web, tmp_path: Path) -> None:
    (tmp_path / "made.npz.part").write_bytes(BODY)
    (tmp_path / "made.npz.part.etag").write_text('"one"')
    fetch("made", tmp_path, base_url=plain.base)
    assert plain.asked == [(NAME, f"bytes={len(BODY)}-", '"one"')]
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_part_that_is_longer_than_the_file_is_started_over(plain: Web, tmp_path: Path) -> None:
    (tmp_path / "made.npz.part").write_bytes(BODY + b"more")
    (tmp_path / "made.npz.part.etag").write_text('"one"')
    fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_a_changed_edition_is_never_mixed_with_the_old_one(plain: Web, tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "made.npz.part").write_bytes(b"old" * 1000)
    (tmp_path / "made.npz.part.etag").write_text('"zero"')
    plain.ranges = ranges
    fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_server_that_sends_the_rest_of_another_edition_is_noticed(plain: Web, tmp_path: Path) -> None:
    (tmp_path / "made.npz.part").write_bytes(b"old" * 1000)
    (tmp_path / "made.npz.part.etag").write_text('"zero"')
    plain.etag, plain.says = '"zero"', '"two"'
    fetch("made", tmp_path, base_url=plain.base)
    assert [asked for _, asked, _ in plain.asked] == ["bytes=3000-", ""]
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_server_that_ignores_ranges_gets_a_fresh_download(plain: Web, tmp_path: Path) -> None:
    plain.ranges, plain.cut = False, [300_000]
    fetch("made", tmp_path, base_url=plain.base)
    assert [asked for _, asked, _ in plain.asked] == ["", "bytes=300000-"]
    assert (tmp_path / NAME).read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_edition_nothing_is_resumed(plain: Web, tmp_path: Path, etag: str | None) -> None:
    plain.etag, plain.cut = etag, [300_000]
    fetch("made", tmp_path, base_url=plain.base)
    assert [asked for _, asked, _ in plain.asked] == ["", ""]
    assert (tmp_path / NAME).read_bytes() == BODY


def test_an_etag_that_no_header_can_carry_is_not_sent(plain: Web, tmp_path: Path) -> None:
    (tmp_path / "made.npz.part").write_bytes(b"old")
    (tmp_path / "made.npz.part.etag").write_bytes(b'"a"\r\nX: y\xff')
    fetch("made", tmp_path, base_url=plain.base)
    assert plain.asked == [(NAME, "", "")]


def test_a_busy_server_is_asked_again(plain: Web, tmp_path: Path) -> None:
    plain.status = [503, 429]
    fetch("made", tmp_path, base_url=plain.base)
    assert len(plain.asked) == 3


def test_waiting_doubles_while_nothing_comes(plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(fetch_module, "BACKOFF_S", 1.0)
    monkeypatch.setattr(fetch_module.time, "sleep", waited.append)
    plain.status = [503] * 4
    with pytest.raises(FetchError, match="status 503"):
        fetch("made", tmp_path, base_url=plain.base)
    assert waited == [2.0, 4.0, 8.0]


def test_a_file_of_unannounced_length_is_taken(plain: Web, tmp_path: Path) -> None:
    plain.announce = False
    totals = set()
    fetch("made", tmp_path, observe=lambda done, total: totals.add(total), base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY
    assert totals == {0}


# Checksums


def test_a_published_checksum_that_is_not_met_names_both(
    plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, md5="0" * 32)
    got = hashlib.md5(BODY).hexdigest()
    with pytest.raises(
        FetchError, match=f"made.npz from .* has md5 {got}, not {'0' * 32}; the download was thrown away"
    ):
        fetch("made", tmp_path, base_url=plain.base)
    assert names(tmp_path) == []


def test_the_first_download_is_recorded_and_the_next_compared_with_it(plain: Web, tmp_path: Path) -> None:
    fetch("made", tmp_path, base_url=plain.base)
    sha256 = hashlib.sha256(BODY).hexdigest()
    assert json.loads((tmp_path / "checksums.json").read_text()) == {NAME: {"sha256": sha256}}
    (tmp_path / NAME).unlink()
    plain.files[NAME] = b"another file"
    with pytest.raises(FetchError, match=rf"not {sha256}.*take made.npz out of .*checksums.json to trust the new one"):
        fetch("made", tmp_path, base_url=plain.base)
    plain.files[NAME] = BODY
    fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == BODY


def test_a_damaged_file_in_place_is_named_and_left_alone(plain: Web, tmp_path: Path) -> None:
    fetch("made", tmp_path, base_url=plain.base)
    (tmp_path / NAME).write_bytes(b"damaged")
    with pytest.raises(FetchError, match=r"made.npz has sha256 .*, not .*; nothing was changed: move it away"):
        fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == b"damaged"


def test_an_unrecorded_file_in_place_is_never_overwritten(plain: Web, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"mine")
    with pytest.raises(FetchError, match=r"made.npz is there already, but checksums.json says nothing of it"):
        fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / NAME).read_bytes() == b"mine"
    assert not plain.asked


def test_a_file_from_elsewhere_that_meets_the_published_checksum_is_accepted(
    plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, md5=hashlib.md5(BODY).hexdigest())
    (tmp_path / NAME).write_bytes(BODY)
    assert fetch("made", tmp_path, base_url=plain.base) == tmp_path / NAME
    assert not plain.asked


def test_a_folder_in_the_place_of_a_file_is_refused(plain: Web, tmp_path: Path) -> None:
    fetch("made", tmp_path, base_url=plain.base)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    with pytest.raises(FetchError, match=r"made.npz should be a file; move it away"):
        fetch("made", tmp_path, base_url=plain.base)


@pytest.mark.parametrize("lock", ["no json", "[]", '{"made.npz": "abc"}', '{"made.npz": {}}'])
def test_a_broken_record_is_named(plain: Web, tmp_path: Path, lock: str) -> None:
    (tmp_path / "checksums.json").write_text(lock)
    with pytest.raises(FetchError, match=r"checksums.json is not of the form .* mend it or move it away"):
        fetch("made", tmp_path, base_url=plain.base)


@pytest.mark.parametrize("name", ["made.npz", "made.npz.part", "made.npz.part.etag", "checksums.json"])
def test_links_in_the_target_are_not_written_through(plain: Web, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "precious"
    outside.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(outside)
    with pytest.raises(FetchError, match=r"is a link to .*precious; only plain files are written: remove the link"):
        fetch("made", out, base_url=plain.base)
    assert outside.read_text() == "mine"
