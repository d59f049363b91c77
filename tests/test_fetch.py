"""Fetching: every way a server, a network, a disk or an archive can fail, against a server on this machine."""

import hashlib
import http.server
import io
import json
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rareshot.data import fetch as fetch_module
from rareshot.data import transfer
from rareshot.data.cards import CARDS, DERMAMNIST
from rareshot.data.fetch import FetchError, fetch
from rareshot.data.sources import SOURCES, RemoteFile, Source

BODY = bytes(range(256)) * 4000  # 1 MB, so that it comes in several pieces
NAME = "made.npz"


@dataclass
class Web:
    """What the server has and how it misbehaves; `cut`, `status`, `etags` and `moved` are used up one a request."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    ranges: bool = True
    length: int | None = None
    announce: bool = True
    kind: str = "application/octet-stream"
    cut: list[int] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    hang_after: int = -1
    before: Callable[[], None] = lambda: None
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    released = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            asked, known = self.headers.get("Range", ""), self.headers.get("If-Range", "")
            web.asked.append((name, asked, known))
            web.before()
            if web.moved:
                self.send_response(302)
                self.send_header("Location", web.moved.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if web.status or name not in web.files:
                self.send_error(web.status.pop(0) if web.status else 404)
                return
            body, start = web.files[name], 0
            if asked and web.ranges and known == web.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", web.kind)
            if web.etag:
                self.send_header("ETag", web.etag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            if web.announce:
                self.send_header("Content-Length", str(len(body) - start if web.length is None else web.length))
            self.end_headers()
            piece = body[start:]
            if web.cut:
                piece = piece[: web.cut.pop(0)]
            if web.hang_after >= 0 and name.endswith("Input.zip"):
                self.wfile.write(piece[: web.hang_after])
                released.wait(20)
                return
            self.wfile.write(piece)

        def log_message(self, *words: object) -> None: ...

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the client may hang up, that is what is tested
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except ConnectionError:
                self.close_connection = True

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield web
    released.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "BACKOFF_S", 0.0)


def made(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """A data set "made" of one file, NAME."""
    facts: dict[str, object] = {"name": NAME, "address": "https://nowhere.invalid/made.npz", "max_bytes": 2_000_000}
    file = RemoteFile(**(facts | changes))  # type: ignore[arg-type]
    monkeypatch.setitem(SOURCES, "made", Source(DERMAMNIST, "https://page.invalid", (file,), opens=file.folder or NAME))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, web: Web) -> Web:
    made(monkeypatch)
    web.files[NAME] = BODY
    return web


@pytest.fixture
def zipped(monkeypatch: pytest.MonkeyPatch, web: Web) -> Web:
    made(monkeypatch, name="made.zip", folder="made", max_members=5, max_unpacked_bytes=100_000)
    return web


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, compress_type=method)
    return stream.getvalue()


def member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def isic(web: Web) -> None:
    images = "ISIC2018_Task3_Training_Input"
    truth = "ISIC2018_Task3_Training_GroundTruth"
    web.files = {
        "ISIC2018_Task3_Training_LesionGroupings.csv": b"image,lesion_id,diagnosis_confirm_type\n",
        f"{truth}.zip": zip_of((f"{truth}/{truth}.csv", b"image,MEL\n"), (f"{truth}/LICENSE.txt", b"CC")),
        f"{images}.zip": zip_of((f"{images}/", b""), (f"{images}/ISIC_0024306.jpg", BODY), method=zipfile.ZIP_STORED),
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    etags = iter(['"zero"', '"two"'])

    def lie() -> None:  # accepts If-Range "zero", but names another edition in the answer
        plain.etag = next(etags)

    plain.before = lie
    original = http.server.BaseHTTPRequestHandler.send_header

    def send_header(self: http.server.BaseHTTPRequestHandler, keyword: str, value: str) -> None:
        original(self, keyword, '"two"' if keyword == "ETag" else value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http.server.BaseHTTPRequestHandler, "send_header", send_header)
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


# Archives


def test_an_archive_without_its_folder_gets_one(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of(("labels.csv", b"image"), ("deep/er/note.txt", b"x"))
    folder = fetch("made", tmp_path, base_url=zipped.base)
    assert (folder / "labels.csv").read_bytes() == b"image"
    assert (folder / "deep" / "er" / "note.txt").read_bytes() == b"x"
    assert names(tmp_path) == ["checksums.json", "made"]


def test_what_lies_beside_the_right_folder_is_dropped(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of(("made/a", b"a"), ("__MACOSX/made/._a", b"x"))
    assert names(fetch("made", tmp_path, base_url=zipped.base)) == ["a"]
    assert names(tmp_path) == ["checksums.json", "made"]


def test_leftovers_of_a_killed_unpacking_do_not_matter(zipped: Web, tmp_path: Path) -> None:
    (tmp_path / "made.zip.unpacking" / "made").mkdir(parents=True)
    (tmp_path / "made.zip.unpacking" / "made" / "half").write_text("x")
    zipped.files["made.zip"] = zip_of(("made/a", b"a"))
    assert names(fetch("made", tmp_path, base_url=zipped.base)) == ["a"]


HOSTILE = {
    "slip": (zip_of(("../evil", b"x")), r"'\.\./evil' leads outside the folder"),
    "deep slip": (zip_of(("made/../../evil", b"x")), "leads outside the folder"),
    "absolute": (zip_of(("/evil", b"x")), "'/evil' has an absolute path"),
    "drive": (zip_of(("C:/evil", b"x")), "'C:/evil' has an absolute path"),
    "backslash": (zip_of(("made\\..\\evil", b"x")), "no part of a file name"),
    "empty part": (zip_of(("made//evil", b"x")), "leads outside the folder"),
    "link": (zip_of((member("made/link", stat.S_IFLNK | 0o777), b"/etc/passwd")), "is a link or a special file"),
    "pipe": (zip_of((member("made/pipe", stat.S_IFIFO | 0o644), b"")), "is a link or a special file"),
    "file called a folder": (zip_of((member("made/x", stat.S_IFDIR | 0o755), b"")), "is a link or a special file"),
    "bomb": (zip_of(("made/zeros", bytes(99_000))), "grows from .* to 99,000 bytes, more than 100-fold"),
    "too large": (zip_of(("made/a", BODY[:60_000]), ("made/b", BODY[:60_000])), "120,000 bytes when unpacked, at most"),
    "too many": (zip_of(*((f"made/{i}", b"") for i in range(6))), "6 members, at most 5 expected"),
    "same name in other case": (zip_of(("made/a", b"1"), ("made/A", b"2")), "'made/A' stands twice"),
    "same name in another Unicode form": (zip_of(("made/\u00e9", b"1"), ("made/e\u0301", b"2")), "stands twice"),
    "file and folder": (zip_of(("made/a", b"1"), ("made/a/b", b"2")), "'made/a' is a file and a folder at once"),
    "bzip2": (zip_of(("made/a", b"1"), method=zipfile.ZIP_BZIP2), "is compressed by method 12"),
    "no zip": (b"hello" * 100, "not a sound zip"),
    "cut zip": (zip_of(("made/a", b"1" * 100))[:-30], "not a sound zip"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_leaves_nothing(zipped: Web, tmp_path: Path, case: str) -> None:
    zipped.files["made.zip"], why = HOSTILE[case]
    out = tmp_path / "out"
    with pytest.raises(FetchError, match=f"made.zip from .* was not unpacked: .*{why}.*; the download was thrown away"):
        fetch("made", out, base_url=zipped.base)
    assert names(out) == []
    assert names(tmp_path) == ["out"]


def test_a_name_that_stands_twice_is_refused(zipped: Web, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped.files["made.zip"] = zip_of(("made/a", b"1"), ("made/a", b"2"))
    with pytest.raises(FetchError, match="'made/a' stands twice"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_an_encrypted_member_is_refused(zipped: Web, tmp_path: Path) -> None:
    plain_zip = bytearray(zip_of(("made/a", b"1")))
    plain_zip[plain_zip.index(b"PK\x01\x02") + 8] |= 1
    zipped.files["made.zip"] = bytes(plain_zip)
    with pytest.raises(FetchError, match="'made/a' is encrypted"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_a_wrong_crc_is_refused_and_nothing_is_kept(zipped: Web, tmp_path: Path) -> None:
    content = BODY[:2000]
    zipped.files["made.zip"] = zip_of(("made/a", content), method=zipfile.ZIP_STORED).replace(content, content[::-1])
    with pytest.raises(FetchError, match="not a sound zip: Bad CRC-32"):
        fetch("made", tmp_path, base_url=zipped.base)
    assert names(tmp_path) == []


def test_a_member_that_unpacks_to_more_than_it_says_stops_at_what_it_says(zipped: Web, tmp_path: Path) -> None:
    honest = zip_of(("made/a", bytes(range(200)) * 100))
    size = (20_000).to_bytes(4, "little")
    zipped.files["made.zip"] = honest.replace(size, (500).to_bytes(4, "little"))
    with pytest.raises(FetchError, match="not a sound zip: Bad CRC-32"):
        fetch("made", tmp_path, base_url=zipped.base)


def test_unpacked_files_cannot_be_executed(zipped: Web, tmp_path: Path) -> None:
    zipped.files["made.zip"] = zip_of((member("made/run", stat.S_IFREG | 0o4777), b"#!/bin/sh"))
    mode = (fetch("made", tmp_path, base_url=zipped.base) / "run").stat().st_mode
    assert not mode & (stat.S_IXUSR | stat.S_ISUID)
