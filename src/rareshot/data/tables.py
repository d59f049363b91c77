"""Tables that others made: CSV and TSV, read strictly, every fault named with its row."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rareshot.data.files import BadFileError, read_file, shown

SUFFIXES = (".csv", ".tsv", ".tab")
MAX_TABLE_BYTES = 256 * 2**20
MAX_HEADER = 2**18
MAX_FIELD = 4000
"""Characters of one field; a longer one is a quote that was never closed, or no table at all."""


@dataclass(frozen=True)
class Problem:
    """Something wrong in a data set: `name` is a file, or a table and its row."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.name)}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """One line of a table: where it stands, and its fields by column, without surrounding blanks."""

    where: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Table:
    """What could be read of a table, and what was wrong with the rest."""

    name: str
    header: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    problems: tuple[Problem, ...] = ()

    def lacking(self, columns: Sequence[str]) -> list[Problem]:
        """A problem for each of `columns` that the table does not have."""
        if not self.header:  # what is wrong then stands in `problems` already
            return []
        have = ", ".join(map(shown, self.header))
        return [
            Problem(self.name, f"has no column {column!r}; its columns are {have}")
            for column in columns
            if column not in self.header
        ]


def read_table(path: Path) -> Table:
    """Reads a table with a header, UTF-8, separated by comma, semicolon or tab (whichever the header has most of).

    Rows are named by the line on which they end, the header being row 1. Empty rows are skipped.
    """
    name = path.name
    try:
        text = _text(name, read_file(path, limit=MAX_TABLE_BYTES))
    except BadFileError as error:
        return Table(name, problems=(Problem(error.name if error.name != str(path) else name, error.reason),))
    first_line = text.split("\n", 1)[0]
    separator = max(",;\t", key=first_line.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[Row] = []
    problems: list[Problem] = []
    header: tuple[str, ...] = ()
    try:
        for raw in reader:
            fields = [field.strip() for field in raw]
            where = f"{name} row {reader.line_num}"
            if not any(fields):
                continue
            if not header:
                header = tuple(fields)
                fault = _header_fault(header)
                if fault:
                    return Table(name, problems=(Problem(where, fault),))
                continue
            fault = _row_fault(header, fields)
            if fault:
                problems.append(Problem(where, fault))
            else:
                rows.append(Row(where, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        problems.append(Problem(f"{name} row {reader.line_num}", f"is not a row of a table: {error}"))
    if not header:
        problems.append(Problem(name, "has no header"))
    return Table(name, header, tuple(rows), tuple(problems))


def header_of(path: Path) -> tuple[str, ...]:
    """The columns of what may be a table, of which no more is read; empty where it is none."""
    try:
        with path.open("rb") if path.is_file() else io.BytesIO() as file:
            line = file.readline(MAX_HEADER).decode("utf-8-sig")
        fields = next(csv.reader([line], delimiter=max(",;\t", key=line.count), strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return ()
    return tuple(field.strip() for field in fields)


def _text(name: str, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadFileError(f"{name} row 1", "is UTF-16 text; save the table as UTF-8")
    nul = data.find(b"\0")
    if nul >= 0:
        raise BadFileError(f"{name} row {_row_at(data, nul)}", "holds a NUL byte; this is not a text table")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{name} row {_row_at(data, error.start)}"
        raise BadFileError(where, "is not UTF-8 text; save the table as UTF-8") from error


def _row_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _header_fault(header: tuple[str, ...]) -> str:
    twice = sorted({column for column in header if header.count(column) > 1}) if len(header) <= MAX_FIELD else ["…"]
    if twice:
        return f"names a column twice: {', '.join(map(shown, twice))}"
    if max(map(len, header)) > MAX_FIELD:
        return f"has a field of more than {MAX_FIELD} characters"
    return ""


def _row_fault(header: tuple[str, ...], fields: list[str]) -> str:
    if len(fields) != len(header):
        return f"has {len(fields)} fields; the header has {len(header)}"
    if max(map(len, fields)) > MAX_FIELD:
        return f"has a field of more than {MAX_FIELD} characters"
    return ""
