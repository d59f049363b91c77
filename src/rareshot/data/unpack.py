"""Unpack a zip that nobody here has vouched for: every member is judged before the first byte is written."""

import errno
import os
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

MAX_RATIO = 100
"""A member that grows more than this is a bomb: JPEGs grow by 1, the 0/1 label table of ISIC 2018 by about 12."""
MAX_DEPTH, MAX_NAME = 16, 255
"""Folders that a member may lie in, and bytes of each part of its name, as file systems take it."""


class UnpackError(ValueError):
    """The archive is broken or hostile; nothing of it was kept."""


def unpack(archive: Path, folder: Path, *, max_members: int, max_bytes: int) -> None:
    """Every member of the zip, as plain files and folders below the new `folder`.

    Modes, owners and times of the archive are not taken over. If anything is refused or fails, no `folder` remains.

    Args:
        archive: the zip, whatever its name.
        folder: must not exist; its parent must.
        max_members: the most members (files and folders) that are accepted.
        max_bytes: the most bytes that all members may have together once unpacked.

    Raises:
        UnpackError: if a member would land outside `folder`, is not a plain file or folder, stands twice, is encrypted,
            grows absurdly or fails its CRC, or if there are too many members or bytes.
        OSError: if the disk is full or the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check(members, max_members, max_bytes)
            need, free = sum(member.file_size for member in members), shutil.disk_usage(archive.parent).free
            if need > free:
                raise OSError(errno.ENOSPC, f"unpacking needs {need:,} bytes, {free:,} are free", str(folder))
            folder.mkdir()
            try:
                for member in members:
                    _write(opened, member, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except UnpackError:
        raise
    # Besides its own error, zipfile lets these through on damaged headers, names and streams.
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        OverflowError,
        ValueError,
    ) as error:
        raise UnpackError(f"not a sound zip: {error}") from error


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    path = folder.joinpath(*member.filename.split("/"))
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # zipfile stops at the declared size and compares the CRC, so no more than what `_check` counted can come out.
    with opened.open(member) as source, path.open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _check(members: list[zipfile.ZipInfo], max_members: int, max_bytes: int) -> None:
    if len(members) > max_members:
        raise UnpackError(f"{len(members):,} members, at most {max_members:,} expected")
    total = sum(member.file_size for member in members)
    if total > max_bytes:
        raise UnpackError(f"{total:,} bytes when unpacked, at most {max_bytes:,} expected")
    seen: set[str] = set()
    for member in members:
        reason = _refusal(member)
        if reason:
            raise UnpackError(f"member {_short(member.filename)!r} {reason}")
        # Two names that differ in case or in Unicode form only are one file on Windows and macOS.
        key = unicodedata.normalize("NFC", member.filename.rstrip("/")).casefold()
        if key in seen:
            raise UnpackError(f"member {member.filename!r} stands twice")
        seen.add(key)
    files = {unicodedata.normalize("NFC", member.filename).casefold() for member in members if not member.is_dir()}
    for key in seen:
        parents = key.split("/")[:-1]
        clash = files & {"/".join(parents[: depth + 1]) for depth in range(len(parents))}
        if clash:
            raise UnpackError(f"member {clash.pop()!r} is a file and a folder at once")


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why this member is not taken; empty if it is."""
    # orig_filename: zipfile cuts names at a NUL and turns the system's separator into a slash.
    name = member.orig_filename
    if name.startswith(("/", "\\")) or os.path.isabs(name) or ":" in name:
        return "has an absolute path"
    if "\\" in name or "\0" in name:
        return "has a character that is no part of a file name"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "leads outside the folder"
    parts = name.removesuffix("/").split("/")
    if len(parts) > MAX_DEPTH or any(len(part.encode(errors="surrogatepass")) > MAX_NAME for part in parts):
        return f"has a name of more than {MAX_DEPTH} parts, or a part of more than {MAX_NAME} bytes"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
        return "is a link or a special file, not a plain file"
    if member.flag_bits & 1:
        return "is encrypted"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}, not stored or deflated"
    if member.file_size > MAX_RATIO * max(member.compress_size, 1):
        return f"grows from {member.compress_size:,} to {member.file_size:,} bytes, more than {MAX_RATIO}-fold"
    return ""
