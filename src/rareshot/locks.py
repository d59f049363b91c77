"""One process at a time on a file or folder; a killed one lets go by itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HeldElsewhereError(ValueError):
    """Another process is at this very work.

    Args:
        message: for whoever cannot wait.
        name: of the run or the cell that it is at.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


def hold(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file or folder until it is closed; whether it is held now.

    Where there are no such locks, on Windows and some network disks, it counts as held.

    Args:
        wait: until it is free; else say False where another process, or another opening of it here, holds it.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def alone(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder while open; yields what `hold` says."""
    if sys.platform == "win32":  # a folder cannot be opened there
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield hold(descriptor, wait=wait)
    finally:
        os.close(descriptor)
