"""What a picture may cost, and what opening one may say: limits, a clock, silence; for every decoder."""

import io
import logging
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PIXELS = 100_000_000
MAX_SIDE = 100_000
MAX_SCANS = 100
"""Scans of one JPEG: real ones have 10 or so, and each costs a pass over the whole picture."""
MAX_SECONDS = 20.0
"""Time to read one file; a real picture needs less than 3 s, a forged chain of headers may need hours."""


class RefusedError(Exception):
    """Why we refuse a picture that a decoder would open."""


def refuse_size(width: int, height: int) -> None:
    """Raises if a picture that its header states to be so large is not decoded.

    Raises:
        RefusedError: naming its pixels.
    """
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise RefusedError(too_large(f"{width} x {height} pixels"))


def refuse_scans(data: bytes) -> None:
    """Raises if a JPEG has more scans than any real one: each costs a pass over the whole picture.

    Raises:
        RefusedError: as said.
    """
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise RefusedError(f"has more than {MAX_SCANS} scans, as no real JPEG has: it would take very long to decode")


def too_large(what: str) -> str:
    """The reason for refusing a picture that has `what`."""
    return f"has {what}; at most {MAX_PIXELS // 10**6} megapixels and {MAX_SIDE} pixels a side are decoded"


class TimedBytes(io.BytesIO):
    """Bytes that stop answering after `MAX_SECONDS`: headers may be chained so that following them takes hours."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._deadline = time.monotonic() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            RefusedError: when the time is over.
        """
        if time.monotonic() > self._deadline:
            raise RefusedError(f"takes more than {MAX_SECONDS:g} s to read, as no real picture does")
        return super().read(size)


_lock = threading.Lock()
_no_log = logging.NullHandler()
_decoding = 0
_caught = warnings.catch_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """No warning of Pillow's or pydicom's gets out while any thread decodes; pydicom's can name the patient.

    Counted, because `catch_warnings` of several threads at once would restore each other's filters in the wrong order.
    """
    global _decoding, _caught
    pydicom = logging.getLogger("pydicom")
    with _lock:
        if _decoding == 0:
            logging.getLogger("PIL").addHandler(_no_log)
            pydicom.addHandler(_no_log)
            pydicom.propagate = False
            _caught = warnings.catch_warnings()
            _caught.__enter__()
            warnings.simplefilter("ignore")
        _decoding += 1
    try:
        yield
    finally:
        with _lock:
            _decoding -= 1
            if _decoding == 0:
                _caught.__exit__(None, None, None)
                pydicom.propagate = True
