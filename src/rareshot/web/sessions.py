"""Whose session is whose: one for each open page, apart from all others, gone when the page is closed."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rareshot.predict import Predictor
from rareshot.web.limits import IDLE_S, MOST_SESSIONS
from rareshot.web.session import EndedError, Session

REMEMBERED = 10_000
"""Ended sessions that are known to have ended, so that a page left open says so."""


class Sessions:
    """All sessions of one server, by the key that each open page sends."""

    def __init__(self, root: Path, start: Predictor | None = None) -> None:
        """Begin with none.

        Args:
            root: a private folder; a folder a session is made in it.
            start: the classifier that every session begins with.
        """
        self._root, self.start = root, start
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._number = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def of(self, key: str) -> Session:
        """The session of a page, opened at its first call.

        Raises:
            EndedError: if it has ended.
            ValueError: if as many people are here as the server takes.
        """
        with self._lock:
            if key in self._ended:
                raise EndedError
            if key not in self._open:
                if len(self._open) >= MOST_SESSIONS:
                    raise ValueError(
                        f"{MOST_SESSIONS} people use this page now, the most that it takes: try again later."
                    )
                self._number += 1
                self._open[key] = Session(self._root / f"{self._number:06d}", self.start)
            return self._open[key]

    def by_token(self, token: str) -> Session | None:
        """The session that may be downloaded from with this token."""
        with self._lock:
            return next((one for one in self._open.values() if one.token == token), None)

    def end(self, key: str) -> None:
        """A page was closed: its session goes, and cannot be opened again."""
        with self._lock:
            session = self._open.pop(key, None)
            self._ended[key] = None
            if len(self._ended) > REMEMBERED:
                self._ended.popitem(last=False)
        if session is not None:
            session.end()

    def end_idle(self, seconds: float = IDLE_S) -> None:
        """Sessions that nobody has touched for so long go."""
        now = time.monotonic()
        with self._lock:
            idle = [key for key, session in self._open.items() if now - session.touched > seconds]
        for key in idle:
            self.end(key)

    @contextmanager
    def closing(self) -> Iterator["Sessions"]:
        """At the end all sessions go."""
        try:
            yield self
        finally:
            for key in list(self._open):
                self.end(key)
