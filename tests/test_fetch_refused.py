"""Fetching: every way a server, a network or a disk can fail, in words that say the way out."""

import hashlib
import io
import shutil
from pathlib import Path

import pytest
from lying_server import BODY, NAME, Web, isic, made, names, zip_of

from rareshot.data import transfer
from rareshot.data.fetch import FetchError, fetch

# Refusals


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"no data set 'ham' to fetch; there are isic2018, dermamnist, dermamnist_64"):
        fetch("ham", tmp_path)


def test_a_target_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FetchError, match=r"out is a file; give a folder to fetch isic2018 into"):
        fetch("isic2018", tmp_path / "out")
    with pytest.raises(FetchError, match=r"cannot write in .*below"):
        fetch("isic2018", tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "mine"


def test_no_network_says_so_and_how_to_go_on(plain: Web, tmp_path: Path) -> None:
    with pytest.raises(
        FetchError, match=r"cannot reach http://127.0.0.1:1/made.npz .*Check the network and run the same"
    ):
        fetch("made", tmp_path, base_url="http://127.0.0.1:1")


def test_a_silent_server_is_given_up(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isic(web)
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.05)
    web.hang_after = 0
    with pytest.raises(FetchError, match=r"cannot reach .*Input.zip \(TimeoutError"):
        fetch("isic2018", tmp_path, base_url=web.base)


def test_a_missing_file_points_to_the_publishers_page(plain: Web, tmp_path: Path) -> None:
    plain.files.clear()
    with pytest.raises(FetchError, match=r"the server says 404 Not Found; the file may have moved; see https://page"):
        fetch("made", tmp_path, base_url=plain.base)
    assert len(plain.asked) == 1


def test_plain_http_is_refused_elsewhere(plain: Web, tmp_path: Path) -> None:
    for address in ("http://example.org", "ftp://127.0.0.1", "file:///etc"):
        with pytest.raises(FetchError, match="not an https address"):
            fetch("made", tmp_path, base_url=address)


@pytest.mark.parametrize("address", ["http://example.org/x", "ftp://127.0.0.1/x"])
def test_a_redirect_that_leaves_https_is_refused(plain: Web, tmp_path: Path, address: str) -> None:
    plain.moved = [address]  # urllib itself refuses what is neither http nor ftp
    with pytest.raises(FetchError, match=f"redirected to {address}, which is not https"):
        fetch("made", tmp_path, base_url=plain.base)


def test_a_redirect_from_https_to_this_machine_is_refused() -> None:
    request = transfer.urllib.request.Request("https://zenodo.org/x")
    with pytest.raises(transfer.Refused, match=r"redirected to http://127.0.0.1/x, which is not https"):
        transfer._OnlySafeRedirects().redirect_request(
            request, io.BytesIO(), 302, "", transfer.http.client.HTTPMessage(), "http://127.0.0.1/x"
        )


def test_a_redirect_keeps_the_range(plain: Web, tmp_path: Path) -> None:
    plain.cut, plain.moved = [300_000, 2_000_000], []
    plain.before = lambda: plain.moved.append(f"{plain.base}/{NAME}") if len(plain.asked) == 2 else None
    fetch("made", tmp_path, base_url=plain.base)
    assert [asked for _, asked, _ in plain.asked] == ["", "bytes=300000-", "bytes=300000-"]


def test_a_web_page_instead_of_the_file_is_refused(plain: Web, tmp_path: Path) -> None:
    plain.kind = "text/html"
    with pytest.raises(FetchError, match="a web page came, not the file; does this network ask for a login"):
        fetch("made", tmp_path, base_url=plain.base)


def test_an_announced_length_beyond_the_bound_is_refused(plain: Web, tmp_path: Path) -> None:
    plain.length = 2_000_001
    with pytest.raises(FetchError, match="2,000,001 bytes announced, at most 2,000,000 expected"):
        fetch("made", tmp_path, base_url=plain.base)


def test_an_endless_answer_is_cut_off(plain: Web, tmp_path: Path) -> None:
    plain.files[NAME], plain.announce = BODY * 3, False
    with pytest.raises(FetchError, match="more bytes came than were announced"):
        fetch("made", tmp_path, base_url=plain.base)
    assert (tmp_path / "made.npz.part").stat().st_size == 0


def test_a_length_that_promises_too_much_is_a_cut(plain: Web, tmp_path: Path) -> None:
    plain.length, plain.etag = len(BODY) + 10, None
    with pytest.raises(FetchError, match=r"cut after 1,024,000 of 1,024,010 bytes"):
        fetch("made", tmp_path, base_url=plain.base)
    assert not (tmp_path / NAME).exists()


def test_a_length_that_promises_too_little_fails_the_checksum(
    plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, md5=hashlib.md5(BODY).hexdigest())
    plain.length = len(BODY) - 10
    with pytest.raises(FetchError, match=r"has md5 \w+, not \w+|more bytes came than were announced"):
        fetch("made", tmp_path, base_url=plain.base)
    assert not (tmp_path / NAME).exists()


# The disk


def test_a_download_that_cannot_fit_is_refused_before_it_starts(
    plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"is full \(made.npz needs 1,024,000 bytes more, 1,000 are free\); free some"):
        fetch("made", tmp_path, base_url=plain.base)


def test_a_disk_that_fills_up_keeps_what_came(plain: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(done: int, total: int) -> None:
        if done > 100_000:
            raise OSError(28, "No space left on device")

    with pytest.raises(FetchError, match=r"is full \(No space left on device\); free some space and run the same"):
        fetch("made", tmp_path, observe=full, base_url=plain.base)
    kept = (tmp_path / "made.npz.part").stat().st_size
    assert kept > 0
    fetch("made", tmp_path, base_url=plain.base)
    assert plain.asked[-1][1] == f"bytes={kept}-"


def test_an_archive_that_cannot_fit_unpacked_is_kept_packed(
    zipped: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped.files["made.zip"] = zip_of(("made/a", BODY[:50_000]))
    usage = shutil.disk_usage(tmp_path)._replace(free=49_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"is full \(unpacking needs 50,000 bytes, 49,000 are free\)"):
        fetch("made", tmp_path, base_url=zipped.base)
    assert names(tmp_path) == ["made.zip.part", "made.zip.part.etag"]
