"""A web server on this machine that can cut, lie and stall, and small data sets to put on it."""

import http.server
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rareshot.data.cards import DERMAMNIST
from rareshot.data.sources import SOURCES, RemoteFile, Source

BODY = bytes(range(256)) * 4000  # 1 MB, so that it comes in several pieces
NAME = "made.npz"


@dataclass
class Web:
    """What the server has and how it misbehaves; `cut`, `status` and `moved` are used up one a request."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"one"'
    says: str = ""  # the ETag that answers carry, if it is not the one that requests are compared with
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


@contextmanager
def serve() -> Iterator[Web]:
    """A server on a free port of this machine, for as long as the block runs."""
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
            if web.says or web.etag:
                self.send_header("ETag", web.says or web.etag)
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
    try:
        yield web
    finally:
        released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def made(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """A data set "made" of one file, NAME."""
    facts: dict[str, object] = {"name": NAME, "address": "https://nowhere.invalid/made.npz", "max_bytes": 2_000_000}
    file = RemoteFile(**(facts | changes))  # type: ignore[arg-type]
    monkeypatch.setitem(SOURCES, "made", Source(DERMAMNIST, "https://page.invalid", (file,), opens=file.folder or NAME))


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content, compress_type=method)
    return stream.getvalue()


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
