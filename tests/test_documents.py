"""What the documents point at is there: files, headings, and the sections that code and text name by their titles."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"))
SOURCES = (*PAGES, *ROOT.glob("src/**/*.py"), *ROOT.glob("src/**/*.md"), *ROOT.glob("experiments/*.py"))
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")
TITLE = re.compile(r'docs/([\w-]+\.md)(?:\]\([^)]*\))?,\s+"([^"]+)"')


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub names them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in LINK.findall(page.read_text()):
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {file}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {file}#{anchor}"


def test_pages_and_sections_that_are_named_exist() -> None:
    named = 0
    for source in SOURCES:
        text = re.sub(r"\s+", " ", source.read_text())
        for file in re.findall(r"\bdocs/([\w-]+\.md)", text):
            assert (ROOT / "docs" / file).is_file(), f"{source.name}: docs/{file}"
        for file, title in TITLE.findall(text):
            assert f" {title}\n" in (ROOT / "docs" / file).read_text(), f'{source.name}: docs/{file}, "{title}"'
            named += 1
    assert named >= 5
