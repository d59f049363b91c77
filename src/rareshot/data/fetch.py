"""Download a public data set from its publisher: resumed where it was cut, checked, safely unpacked.

A download grows as `NAME.part` beside `NAME.part.etag`, which says which edition of the file it is part of. It gets its
own name only when it is whole, has the right checksum and (a zip) has unpacked without complaint. So whatever stands in
the folder under its own name is complete, and running the same command again goes on where it stopped.

Checksums are the publisher's; where there are none, the SHA-256 of the first download is written to `checksums.json`
and every later download is compared with it. Standard library only; nothing is printed.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from rareshot.atomic import write_atomically
from rareshot.data.files import Observe, ignore
from rareshot.data.sources import SOURCES, RemoteFile, Source
from rareshot.data.transfer import Changed, Interrupted, Refused, request
from rareshot.data.unpack import UnpackError, unpack
from rareshot.locks import alone

CHECKSUMS = "checksums.json"
TRIES = 4
"""Attempts in a row that bring nothing new before `fetch` gives up."""
BACKOFF_S = 1.0
"""Seconds before the second attempt; doubled before each further one that brought nothing new."""


class FetchError(ValueError):
    """What stopped a download, in plain words, with the way out."""


def fetch(name: str, out: Path, *, observe: Observe = ignore, base_url: str = "") -> Path:
    """The data set `name`, whole and checked, in the folder `out`; what is there already is not downloaded again.

    Args:
        name: a key of `SOURCES`; `SOURCES[name].card` has the licence and the citation to show.
        out: the folder to fill; made if missing. No file that stands in it is overwritten.
        observe: called with (bytes so far, bytes in all) of the current file; in all is 0 while unknown.
        base_url: take the files from below this address instead of the publisher's, for a mirror. https only, except on
            this machine.

    Returns:
        What the reader of this data set opens: the folder, or the `.npz` in it.

    Raises:
        FetchError: if the name is unknown, `out` is a file, the network or the disk gives out, or what arrives is not
            the file that was promised. A partial download is kept unless it is wrong; complete files are never touched.
    """
    if name not in SOURCES:
        raise FetchError(f"no data set {name!r} to fetch; there are {', '.join(SOURCES)}")
    if out.exists() and not out.is_dir():
        raise FetchError(f"{out} is a file; give a folder to fetch {name} into")
    source = SOURCES[name]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone(out, wait=False) as held:
            if not held:
                raise FetchError(
                    f"another process is fetching into {out}; wait until it is done, or give another folder"
                )
            for file in source.files:
                address = f"{base_url.rstrip('/')}/{file.name}" if base_url else file.address
                _fetch_file(file, source, out, observe, address)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FetchError(
                f"the disk of {out} is full ({error.strerror}); free some space and run the same command again: "
                "it goes on where it stopped"
            ) from error
        raise FetchError(f"cannot write in {out}: {error}; give another folder") from error
    return out / source.opens if source.opens else out


def _fetch_file(file: RemoteFile, source: Source, out: Path, observe: Observe, address: str) -> None:
    target, part, etag = out / (file.folder or file.name), out / f"{file.name}.part", out / f"{file.name}.part.etag"
    unpacking = out / f"{file.name}.unpacking"
    for path in (target, part, etag, unpacking, out / CHECKSUMS):
        if path.is_symlink():
            raise FetchError(f"{path} is a link to {os.readlink(path)}; only plain files are written: remove the link")
    recorded = _read_checksums(out)
    known = recorded.get(file.name, {}) | ({"md5": file.md5} if file.md5 else {})
    if target.exists():
        _check_present(target, file, known)
    else:
        _download(file, source, part, etag, observe, address)
        sums = _sums(part)
        if wrong := _mismatch(sums, known):
            _discard(part, etag)
            trust = (
                f", and take {file.name} out of {out / CHECKSUMS} to trust the new one" if file.name in recorded else ""
            )
            raise FetchError(
                f"{file.name} from {address} has {wrong}; the download was thrown away. Run the same command again; "
                f"if it stays so, the file changed at its publisher: see {source.page}{trust}"
            )
        content = _unpack(part, etag, unpacking, file, address) if file.folder else part
        # Recorded before the rename: what has its own name is always known, even after a power cut in between.
        if recorded.get(file.name) != {"sha256": sums["sha256"]}:
            _write_checksums(out, recorded | {file.name: {"sha256": sums["sha256"]}})
        os.replace(content, target)
    shutil.rmtree(unpacking, ignore_errors=True)
    _discard(part, etag)


def _check_present(target: Path, file: RemoteFile, known: dict[str, str]) -> None:
    if not known:
        raise FetchError(
            f"{target} is there already, but {CHECKSUMS} says nothing of it, so it cannot be checked; "
            "move it away and run the same command again, or use it as it is"
        )
    if target.is_dir() != bool(file.folder):
        raise FetchError(f"{target} should be a {'folder' if file.folder else 'file'}; move it away and run again")
    # An unpacked folder got its name only after its zip was checked; the zip itself is not kept.
    if not file.folder and (wrong := _mismatch(_sums(target), known)):
        raise FetchError(f"{target} has {wrong}; nothing was changed: move it away and run the same command again")


def _download(file: RemoteFile, source: Source, part: Path, etag: Path, observe: Observe, address: str) -> None:
    furthest, failures = _size(part), 0
    while True:
        try:
            return _attempt(file, part, etag, observe, address)
        except Refused as error:
            raise FetchError(f"{file.name} from {address}: {error}; see {source.page}") from error
        except Interrupted as error:
            if isinstance(error, Changed):
                part.unlink(missing_ok=True)
            # Counted only without progress: a line that drops now and then still brings 2.6 GB home. A server that
            # starts over each time makes no progress, so this ends.
            have = _size(part)
            furthest, failures = max(furthest, have), 0 if have > furthest else failures + 1
            if failures >= TRIES:
                raise FetchError(
                    f"cannot reach {address} ({error}); {have:,} bytes of {file.name} are kept. Check the network and "
                    "run the same command again: it goes on where it stopped"
                ) from error
            time.sleep(BACKOFF_S * 2**failures)


def _attempt(file: RemoteFile, part: Path, etag: Path, observe: Observe, address: str) -> None:
    """One request: the rest of `part` if its edition is known and still the publisher's, otherwise the whole file."""
    edition = etag.read_text(encoding="utf-8", errors="replace") if etag.exists() else ""
    if not (edition.isascii() and edition.isprintable()):
        edition = ""  # no header can carry it
    have = _size(part) if edition else 0
    with request(address, start=have, edition=edition) as answer:
        have, total = answer.start, answer.total
        if total is not None and total > file.max_bytes:
            raise Refused(f"{total:,} bytes announced, at most {file.max_bytes:,} expected")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise OSError(errno.ENOSPC, f"{file.name} needs {total - have:,} bytes more, {free:,} are free", str(part))
        if not have:
            # The old part goes first: bytes of one edition must never lie under the name of another.
            part.unlink(missing_ok=True)
            etag.write_text(answer.edition, encoding="utf-8")
        observe(have, total or 0)
        with part.open("ab") as stream:
            for chunk in answer.chunks():
                have += len(chunk)
                if have > (file.max_bytes if total is None else total):
                    stream.truncate(0)
                    raise Refused("more bytes came than were announced")
                stream.write(chunk)
                observe(have, total or 0)
            stream.flush()
            os.fsync(stream.fileno())
        if total is not None and have < total:
            raise Interrupted(f"cut after {have:,} of {total:,} bytes")


def _unpack(part: Path, etag: Path, unpacking: Path, file: RemoteFile, address: str) -> Path:
    """Where the content now lies: the zip's folder of the right name (what lies beside it is dropped), else all."""
    shutil.rmtree(unpacking, ignore_errors=True)  # left by a run that was killed
    try:
        unpack(part, unpacking, max_members=file.max_members, max_bytes=file.max_unpacked_bytes)
    except UnpackError as error:
        _discard(part, etag)
        raise FetchError(
            f"{file.name} from {address} was not unpacked: {error}; the download was thrown away"
        ) from error
    inner = unpacking / file.folder
    return inner if inner.is_dir() else unpacking


def _discard(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sums(path: Path) -> dict[str, str]:
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    for block in _blocks(path):
        for digest in digests.values():
            digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in digests.items()}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            yield block


def _mismatch(sums: dict[str, str], known: dict[str, str]) -> str:
    """What is wrong, with both sums; empty if every known sum is met."""
    return ", ".join(f"{kind} {sums[kind]}, not {known[kind]}" for kind in known if sums[kind] != known[kind])


def _read_checksums(out: Path) -> dict[str, dict[str, str]]:
    path = out / CHECKSUMS
    try:
        told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {str(name): {"sha256": str(entry["sha256"])} for name, entry in told.items()}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise FetchError(f'{path} is not of the form {{"file": {{"sha256": "…"}}}}; mend it or move it away') from error


def _write_checksums(out: Path, sums: dict[str, dict[str, str]]) -> None:
    write_atomically(out / CHECKSUMS, (json.dumps(sums, indent=2, sort_keys=True) + "\n").encode())
