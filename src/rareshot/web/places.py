"""A private folder for one server, gone at its end; what a killed server left goes when the next one starts."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

PREFIX = "rareshot-serve-"
NEW = "rareshot-new-"
"""Of a folder before its server holds it."""


@contextmanager
def private_folder(inside: Path | None = None) -> Iterator[Path]:
    """A new folder that only this user may open, resolved, deleted at the end, after those of servers that no longer run.

    A server holds a lock in its folder as long as it lives, however it ends.

    Args:
        inside: where to make it; None: where temporary files belong.
    """
    inside = inside or Path(tempfile.gettempdir())
    for left in inside.glob(f"{PREFIX}*"):
        with suppress(OSError), open(left / "lock", opener=_at_once) as lock:  # not ours, or in use
            _hold(lock)
            _refuse_foreign(lock)
            shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix=NEW, dir=inside)).resolve()
    with (made / "lock").open("w") as lock:
        with suppress(OSError):
            _hold(lock)
        # Only now by the name that other servers look for: they would take it for one that nobody holds.
        folder = made.rename(made.with_name(made.name.replace(NEW, PREFIX, 1)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _hold(file: TextIO) -> None:
    """Lock a file until it is closed.

    Raises:
        OSError: if another process holds it, or this system has no such locks: there nothing is cleaned up.
    """
    try:
        import fcntl
    except ModuleNotFoundError as error:
        raise OSError("no locks here") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _at_once(path: str, flags: int) -> int:
    """Open a file, but follow no link, and wait for nobody at the other end of a pipe: anybody may have made a folder there."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _refuse_foreign(lock: TextIO) -> None:
    """Refuse what no server of this user has made.

    Raises:
        OSError: if it is no regular file, or another user's.
    """
    status = os.fstat(lock.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise OSError("not a lock of this user")
