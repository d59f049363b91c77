"""The door before the page: who may ask, for what, and what a browser is told to do with the answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rareshot.web.calls import Fields, checked
from rareshot.web.limits import MOST_BYTES_OF_A_CALL, megabytes

HOST = "127.0.0.1"
CALL = "/gradio_api/queue/join"
"""Where the page says what was pressed."""
ROUTES = (
    *("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"),
    *("/assets/", "/static/", "/download/", CALL, "/gradio_api/queue/data", "/gradio_api/heartbeat/"),
    *(
        "/gradio_api/info",
        "/gradio_api/upload",
        "/gradio_api/upload_progress",
        "/gradio_api/app_id",
        "/gradio_api/startup-events",
    ),
    *("/gradio_api/reset", "/gradio_api/cancel"),
)
"""What is answered, those that end in / with all below them; Gradio has more doors, and the page needs none of them."""
POLICY = (
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    b"form-action 'self'; frame-ancestors 'none'"
)
"""A browser asks no other machine for anything, whatever stands in the page."""
HEADERS = (
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class Door:
    """An ASGI application behind a door: other sites in the same browser, other names for this machine, paths that the page does
    not use, and calls that hand over what was not uploaded stay outside.
    """

    inside: Any
    port: int
    uploads: Path
    """The folder that uploads lie in; resolved."""
    fields: Fields
    """What may be handed over, and where."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, as ASGI asks."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.inside(scope, receive, send)
            return
        path, headers = scope["path"], dict(scope["headers"])
        hosts = [f"{name}:{self.port}".encode() for name in (HOST, "localhost")]
        origin = headers.get(b"origin", b"")
        if headers.get(b"host") not in hosts or (origin and origin.removeprefix(b"http://") not in hosts):
            await _refuse(send, 403, f"This page is served as http://{HOST}:{self.port} only.")
            return
        if not any(path == one or (one.endswith("/") and one != "/" and path.startswith(one)) for one in ROUTES):
            await _refuse(send, 404, "There is no such page.")
            return
        if path == CALL:
            try:
                receive = _first(checked(await _whole(receive), self.uploads, self.fields), receive)
            except ValueError as error:
                await _refuse(send, 400, str(error))
                return
        kept = () if path.startswith(("/assets/", "/static/")) else ((b"cache-control", b"no-store"),)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in (*HEADERS, *kept)}
                before = [pair for pair in message["headers"] if pair[0].lower() not in names]
                message = {**message, "headers": [*before, *HEADERS, *kept]}
            await send(message)

        await self.inside(scope, receive, with_headers)


async def _whole(receive: Any) -> bytes:
    """The body of a call.

    Raises:
        ValueError: if it is longer than any of the page.
    """
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MOST_BYTES_OF_A_CALL:
            raise ValueError(f"More than {megabytes(MOST_BYTES_OF_A_CALL)} in one call: drop fewer files.")
    return body


def _first(body: bytes, receive: Any) -> Any:
    """As `receive`, after `body`."""
    messages = [{"type": "http.request", "body": body}]

    async def received() -> Any:
        return messages.pop() if messages else await receive()

    return received


async def _refuse(send: Any, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
