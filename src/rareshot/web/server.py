"""The page as a server: uploads in, downloads out, private folders that go at the end."""

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rareshot.predict import Predictor
from rareshot.web import limits
from rareshot.web.calls import fields_of
from rareshot.web.door import HOST, Door
from rareshot.web.intake import base_name
from rareshot.web.page import build, style, theme
from rareshot.web.places import private_folder
from rareshot.web.session import EndedError
from rareshot.web.sessions import Sessions

SWEEP_S = 30.0


@dataclass(frozen=True)
class Page:
    """A page that is being served."""

    app: Any
    """FastAPI's."""
    sessions: Sessions
    folder: Path
    """Private; it goes with the page."""


@contextmanager
def opened(port: int, learners: Sequence[str], start: Predictor | None = None, name: str = "") -> Iterator[Page]:
    """The page for `port`, with its private folder; both go at the end.

    Args:
        learners: what a person may choose from.
        start: a classifier that every session begins with, called `name`.

    Raises:
        ValueError: if the extra `web` is not installed.
    """
    stop = threading.Event()
    with private_folder() as folder, Sessions(folder / "sessions", start).closing() as sessions:
        # Read by Gradio when it is imported and when a page is made.
        os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
        page = Page(_app(sessions, folder / "uploads", port, learners, name), sessions, folder)
        sweeper = threading.Thread(target=_sweep, args=(page, stop), daemon=True)
        sweeper.start()
        try:
            yield page
        finally:
            stop.set()
            sweeper.join()


def listen(port: int) -> socket.socket:
    """A socket on this machine alone.

    Raises:
        ValueError: if the port is taken or not allowed.
    """
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
    except (OSError, OverflowError) as error:
        server.close()
        raise ValueError(f"--port {port} cannot be used: {error}; choose another, or 0 for any that is free") from error
    server.listen(128)
    return server


def uvicorn_of(page: Page) -> Any:
    """Uvicorn's server for the page; its `run(sockets=[server])` serves until Ctrl-C or `should_exit`."""
    import uvicorn

    # critical: at the end it would call every page that is still open an error.
    settings = uvicorn.Config(
        page.app,
        log_config=None,
        log_level="critical",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    return uvicorn.Server(settings)


def sweep(page: Page) -> None:
    """Sessions that stand idle go, and uploads that nobody took."""
    page.sessions.end_idle()
    for folder in (page.folder / "uploads").iterdir():
        with suppress(OSError):  # it was taken at this very moment
            if time.time() - folder.stat().st_mtime > limits.UNCLAIMED_S:
                shutil.rmtree(folder)


def require_web() -> None:
    """Refuse to go on without the extra.

    Raises:
        ValueError: naming it.
    """
    if not find_spec("gradio"):
        raise ValueError("the page needs an extra: pip install 'rareshot[web]'")


def _app(sessions: Sessions, uploads: Path, port: int, learners: Sequence[str], name: str) -> Any:
    import gradio as gr
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse, PlainTextResponse

    uploads.mkdir(mode=0o700)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def upload(request: Request) -> Response:
        """Files come in, each into a folder of its own: in Gradio's, two people's equal files would be one."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("The upload does not say how long it is.", 411)
        if int(length) > limits.MOST_BYTES_AT_ONCE:
            most = limits.megabytes(limits.MOST_BYTES_AT_ONCE)
            return PlainTextResponse(f"{limits.megabytes(int(length))} at once; at most {most}: drop fewer files.", 413)
        kept = []
        async with request.form(max_files=limits.MOST_FILES_AT_ONCE, max_fields=10) as form:
            for one in form.getlist("files"):
                if isinstance(one, str):
                    return PlainTextResponse("The upload holds text where a file should be.", 400)
                folder = uploads / secrets.token_hex(16)
                folder.mkdir(mode=0o700)
                file = folder / _harmless(one.filename or "")
                try:
                    with file.open("wb") as out:
                        shutil.copyfileobj(one.file, out)
                except OSError as error:
                    return PlainTextResponse(f"This machine could not store the file: {error.strerror}.", 507)
                kept.append(str(file))
        return JSONResponse(kept)

    def progress() -> Response:
        """A browser asks how far its upload is; on one machine it is there before anybody could read that."""
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    def download(token: str, file: str) -> Response:
        """A session's own files, by its token."""
        session = sessions.by_token(token)
        try:
            made = session.download(file) if session else None
            data = made.read_bytes() if made else None
        except EndedError:
            data = None
        if data is None:
            return PlainTextResponse("There is no such file: the session has ended, or nothing was made yet.", 404)
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{file}"'},
        )

    app.post("/gradio_api/upload")(upload)
    app.get("/gradio_api/upload_progress")(progress)
    app.get("/download/{token}/{file}")(download)
    blocks = build(sessions, uploads, learners, name)
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=HOST,
        server_port=port,
        allowed_paths=[],
        show_error=False,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=theme(),
        css=style(),
    )
    return Door(mounted, port, uploads, fields_of(blocks))


def _harmless(name: str) -> str:
    """A name that any file system takes; the person's own name for the file comes beside it."""
    kept = "".join(sign if sign.isalnum() or sign in "._- " else "_" for sign in base_name(name))
    return f"_{kept.encode()[-100:].decode(errors='ignore')}"


def _sweep(page: Page, stop: threading.Event) -> None:
    while not stop.wait(SWEEP_S):
        with suppress(OSError):  # a folder went away meanwhile: the next sweep looks again
            sweep(page)
