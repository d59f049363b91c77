"""Files that are there whole or as they were, whatever happens while they are written."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """Write what stands in `file` once all of it is on the disk: till then, and after an error, it is as it was."""
    # A name that nobody foresees, and no link: a stranger's folder may hold one that leads elsewhere.
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        opened = temporary.open("xb")
    except OSError as error:
        error.filename = str(file)  # nobody has named the other
        raise
    try:
        with opened as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(file: Path, data: bytes) -> None:
    """Write bytes by `replacing`."""
    with replacing(file) as out:
        out.write(data)
