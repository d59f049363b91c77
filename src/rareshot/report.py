"""A page to read: one HTML file that holds all it shows, for screen, telephone and printer (not in the paper).

Text, tables and pictures come in as values; the template gives them their form. Every text is escaped, so that a class
may be called what it likes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


@dataclass(frozen=True)
class Figure:
    """A picture with its words.

    Raises:
        ValueError: if the picture is not part of the page, or has no alternative text.
    """

    image: str
    """A `data:` address: the picture itself, not a place to load it from."""
    alt: str
    """What it shows, for those who cannot see it."""
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.image.startswith("data:image/"):
            raise ValueError(
                "a figure must carry its picture as a data:image address, so that the page is one file; "
                f"got {self.image[:40]!r}"
            )
        if not self.alt.strip():
            raise ValueError("a figure needs an alternative text, for those who cannot see it")


@dataclass(frozen=True)
class Table:
    """Cells by row; the first column names the row.

    Raises:
        ValueError: if a row has more or fewer cells than the header.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"table {self.caption!r}: a row has {len(row)} cells under {len(self.header)} headings: {row}"
                )


@dataclass(frozen=True)
class Section:
    """A part of the page; an empty line in `text` begins a paragraph."""

    heading: str
    text: str
    figures: Sequence[Figure] = ()
    table: Table | None = None


def legible(text: str) -> str:
    """With a mark in place of each character that no XML may hold: a picture with one would be blank, a .tex not compile."""
    return UNSPEAKABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """One self-contained HTML page: no script, no address that is loaded.

    Args:
        title: of the page and its main heading.
        lead: what a reader takes along who reads nothing else.
        sections: in the order of reading.
    """
    return rendered("page.html", title=title, lead=lead, sections=sections)


def rendered(template: str, **values: object) -> str:
    """A page by one of the templates; every text among the values is escaped."""
    environment = Environment(
        loader=PackageLoader("rareshot"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["paragraphs"] = _paragraphs
    return environment.get_template(template).render(values)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
