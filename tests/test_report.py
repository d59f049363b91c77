"""The page: escaped, in one file, and sound HTML."""

import re
from html.parser import HTMLParser

import pytest

from rareshot.report import Figure, Section, Table, page

HOSTILE = '<script>alert("x")</script>&"\'{{ 7 * 7 }}'
PICTURE = "data:image/svg+xml;base64,PHN2Zy8+"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checked(HTMLParser):
    """Tags in order, with their attributes; an error where they do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _page(words: str) -> str:
    figure, table = Figure(PICTURE, words, words), Table(words, (words, words), ((words, words),))
    return page(words, words, [Section(words, words, [figure], table), Section("Second", "one\n\ntwo")])


@pytest.fixture(scope="module")
def plain() -> Checked:
    return Checked(_page("words"))


def test_hostile_names_are_text_wherever_they_stand() -> None:
    html = _page(HOSTILE)
    found = Checked(html)
    assert "<script" not in html
    assert not found.all("script")
    # title, h1, lead, h2, text, table caption, two headings, row name, cell, figure caption
    assert sum(HOSTILE in text for text in found.texts) == 11
    assert found.all("img") == [{"src": PICTURE, "alt": HOSTILE}]


def test_no_attribute_escapes_its_quotes() -> None:
    html = _page('" onerror="alert(1)')
    assert not [attributes for _, attributes in Checked(html).tags if "onerror" in attributes]


def test_page_loads_nothing_from_elsewhere(plain: Checked) -> None:
    html = _page("words")
    assert not re.search(r"https?:|url\(|@import|<link|<script|<iframe|//", html)
    sources = [value for _, attributes in plain.tags for key in ("src", "href") if (value := attributes.get(key))]
    assert sources == [PICTURE]


def test_structure_is_that_of_a_document(plain: Checked) -> None:
    names = [tag for tag, _ in plain.tags]
    assert plain.all("html") == [{"lang": "en"}]
    assert [names.count(tag) for tag in ("title", "h1", "header", "main", "footer")] == [1, 1, 1, 1, 1]
    assert [names.count(tag) for tag in ("section", "h2")] == [2, 2]
    assert {"charset": "utf-8"} in plain.all("meta")
    assert any(meta.get("name") == "viewport" for meta in plain.all("meta"))


def test_every_section_is_named_by_its_heading(plain: Checked) -> None:
    ids = [heading["id"] for heading in plain.all("h2")]
    assert [section["aria-labelledby"] for section in plain.all("section")] == ids
    assert len(set(ids)) == 2


def test_tables_name_their_rows_and_columns(plain: Checked) -> None:
    assert [cell["scope"] for cell in plain.all("th")] == ["col", "col", "row"]
    assert len(plain.all("caption")) == 1


def test_an_empty_line_begins_a_paragraph(plain: Checked) -> None:
    assert [text for text in plain.texts if text in ("one", "two")] == ["one", "two"]


def test_footer_says_what_it_is_not_for(plain: Checked) -> None:
    assert any("research use; not a medical device" in text for text in plain.texts)


def test_figure_that_would_be_loaded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"as a data:image address, .* got 'https://a\.example/x\.png'"):
        Figure("https://a.example/x.png", "alt")


def test_figure_without_alternative_text_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an alternative text"):
        Figure(PICTURE, " ")


def test_row_of_another_length_than_the_header_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table 'AUC': a row has 1 cells under 2 headings: \('x',\)"):
        Table("AUC", ("a", "b"), (("x",),))
