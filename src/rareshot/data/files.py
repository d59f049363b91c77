"""Files that others made, opened with care: regular files of a stated size; a refusal is a plain `ValueError`."""

import errno
import os
import stat
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

Observe = Callable[[int, int], None]
"""Progress: (done, total)."""

_PLAIN_REASONS = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist: part of its path is a file, not a folder",
    errno.EACCES: "may not be read: permission denied",
    errno.EPERM: "may not be read: permission denied",
    errno.ELOOP: "is a symbolic link that leads in a circle",
    errno.ENAMETOOLONG: "does not exist: its name is too long",
}


class BadFileError(ValueError):
    """A file that cannot be used: `name` says which, `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{shown(name)}: {reason}")
        self.name = name
        self.reason = reason


def one_form(name: str) -> str:
    """A name in Unicode's composed form: archives of macOS have é in two parts, which no reader can tell from one."""
    return unicodedata.normalize("NFC", name)


def in_known_form(names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """The names as they are known, where they differ from that in the form of their letters alone."""
    forms = {one_form(name): name for name in known}
    return tuple(forms.get(one_form(name), name) for name in names)


def ignore(done: int, total: int) -> None:
    """The observer that nobody watches."""


def shown(name: str) -> str:
    """A name safe to print: as it is, or quoted with escapes if it holds line breaks or bytes that are no text."""
    return name if name.isprintable() else ascii(name)


def read_file(path: str | Path, *, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        BadFileError: if it is missing, unreadable, empty, too large, or a folder, pipe, socket or device (those are
            never opened: they may hang).
    """
    name = str(path)
    try:
        _refuse_special(name, os.stat(path).st_mode)
        # O_NONBLOCK: were the file replaced by a pipe in between, opening it would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            _refuse_special(name, status.st_mode)
            if status.st_size > limit:
                raise BadFileError(name, f"has {_megabytes(status.st_size)}; at most {_megabytes(limit)} are read")
            data = file.read(limit + 1)
    except OSError as error:
        if error.errno == errno.ENOENT and os.path.islink(path):
            raise BadFileError(name, "is a symbolic link to something that does not exist") from error
        reason = _PLAIN_REASONS.get(error.errno or 0, f"cannot be read: {error.strerror or error}")
        raise BadFileError(name, reason) from error
    except ValueError as error:
        if isinstance(error, BadFileError):
            raise
        raise BadFileError(name, f"is not a possible file name: {error}") from error
    if not data:
        raise BadFileError(name, "is empty (0 bytes)")
    if len(data) > limit:
        raise BadFileError(name, f"has more than {_megabytes(limit)}, the most that is read")
    return data


def is_dicom(data: bytes) -> bool:
    """Do these bytes begin a DICOM file? Files without its preamble, as some devices wrote in the 1990s, do not count."""
    return data[128:132] == b"DICM"


def is_bare_dicom(path: Path) -> bool:
    """Is this a DICOM file by content whose name has no suffix, as devices and exports name them: IM0001, 1.2.840.7?

    Only such names are looked into, 132 bytes each. DICOMDIR, the index of a disc, does not count.
    """
    suffix = path.suffix[1:]
    if (suffix and not suffix.isdecimal()) or path.name == "DICOMDIR":
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            return is_dicom(file.read(132))
    except (OSError, ValueError):
        return False


def _refuse_special(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise BadFileError(name, "is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise BadFileError(name, "is not a regular file but a pipe, socket or device")


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
