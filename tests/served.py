"""`rareshot serve` in a process of its own, and people who use it as a browser does: upload, press, read, download, leave."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
START = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's background job ignores it
    "from rareshot.cli import main; sys.exit(main())"
)


@dataclass(frozen=True)
class Served:
    """A page that runs."""

    process: subprocess.Popen
    port: int
    folder: Path
    """Where its process puts temporary files."""
    errors: Path
    """What it said on standard error."""

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def folders(self) -> list[Path]:
        """Its private folder, while there is one; torch has a folder of its own beside it."""
        return list(self.folder.glob("rareshot-serve-*"))

    def files(self) -> list[Path]:
        """All files that it holds now."""
        walked = (here for folder in self.folders() for here in os.walk(folder))  # folders may go while one looks
        return [Path(root, name) for root, _, names in walked for name in names if name != "lock"]

    def files_at_last(self, seconds: float = 20.0) -> list[Path]:
        """What is still there once everybody has left."""
        end = time.monotonic() + seconds
        while self.files() and time.monotonic() < end:
            time.sleep(0.05)
        return self.files()

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def serving(folder: Path, *args: str) -> Iterator[Served]:
    """A page served from `folder` until the end."""
    (folder / "tmp").mkdir(parents=True)
    errors = folder / "errors.txt"
    with errors.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", START, "serve", *args, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address.startswith(f"http://{HOST}:"), errors.read_text()
            yield Served(process, int(address.rpartition(":")[2]), folder / "tmp", errors)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def ask(
    port: int, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """One request: status, headers, body."""
    connection = http.client.HTTPConnection(HOST, port, timeout=120)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class Person:
    """Somebody with the page open."""

    def __init__(self, port: int) -> None:
        self.port, self.key = port, secrets.token_hex(6)
        self.deeds = {one["api_name"]: one["id"] for one in json.loads(ask(port, "/config")[2])["dependencies"]}
        self._heart = http.client.HTTPConnection(HOST, port, timeout=120)
        self._heart.request("GET", f"/gradio_api/heartbeat/{self.key}")
        self._beat = self._heart.getresponse()

    def call(self, name: str, *values: Any) -> tuple[int, bytes]:
        """Ask for it, and do not wait: status and body."""
        call = {"data": values, "fn_index": self.deeds[name], "session_hash": self.key}
        status, _, told = ask(
            self.port, "/gradio_api/queue/join", "POST", json.dumps(call).encode(), Content_Type="application/json"
        )
        return status, told

    def press(self, name: str, *values: Any) -> str:
        """Do it; all texts that the page then shows."""
        status, told = self.call(name, *values)
        assert status == 200, told
        status, _, told = ask(self.port, f"/gradio_api/queue/data?session_hash={self.key}")
        messages = [json.loads(line[5:]) for line in told.decode().splitlines() if line.startswith("data:")]
        assert messages[-2]["msg"] == "process_completed", messages
        assert messages[-2]["success"], messages
        return " ".join(text for message in messages for text in _texts(message))

    def drop(self, name: str, files: list[Path]) -> str:
        """Upload files, and hand them to the page."""
        return self.press(name, self.upload(files))

    def upload(self, files: list[Path]) -> list[dict[str, Any]]:
        """As the page hands them over then."""
        mark = secrets.token_hex(16)
        parts = [
            f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{file.name}"\r\n\r\n'.encode()
            + file.read_bytes()
            for file in files
        ]
        body = b"\r\n".join([*parts, f"--{mark}--\r\n".encode()])
        status, _, told = ask(
            self.port, "/gradio_api/upload", "POST", body, Content_Type=f"multipart/form-data; boundary={mark}"
        )
        assert status == 200, told
        return [
            {"path": path, "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}
            for path, file in zip(json.loads(told), files, strict=True)
        ]

    def learn(self, learner: str, names: list[str]) -> str:
        return self.press("learn", learner, *names, *[""] * (20 - len(names)))

    def download(self, shown: str, name: str) -> bytes:
        """By the last link in what the page showed."""
        links = re.findall(rf'href="(/download/[^"]*/{re.escape(name)})"', shown)
        assert links, shown
        return ask(self.port, links[-1])[2]

    def __enter__(self) -> "Person":
        return self

    def __exit__(self, *told: object) -> None:
        """Close the page."""
        self._beat.close()
        self._heart.close()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
