"""Every relative link, anchor and picture of the documentation leads somewhere. Nothing is fetched."""

from __future__ import annotations

import itertools
import re
import struct
from pathlib import Path

import pytest

from tests.docs.pages import (
    CHANGELOG,
    CONTRIBUTING,
    DOCS,
    MARKDOWN,
    NOTEBOOKS,
    README,
    ROOT,
    anchors,
    links,
    markdown_of,
)

FOREIGN = re.compile(r"^(?:https?:|mailto:|data:|attachment:)")
LARGEST_PICTURE_BYTES = 400_000


def text_of(path: Path) -> str:
    return markdown_of(path) if path.suffix == ".ipynb" else path.read_text("utf-8")


def resolved(page: Path, target: str) -> Path:
    """The file that a link means; tutorials of the site are copies of the notebooks."""
    path = (page.parent / target).resolve()
    if path.parent == DOCS / "tutorials":
        return ROOT / "notebooks" / path.name
    return path


@pytest.mark.parametrize("page", [*MARKDOWN, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_anchors_that_exist(page: Path) -> None:
    for link in links(text_of(page)):
        if FOREIGN.match(link):
            assert link.startswith(("https://", "mailto:", "data:")), f"{link} is not https"
            continue
        name, _, anchor = link.partition("#")
        target = page if not name else resolved(page, name)
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert ROOT in target.parents, f"{page.name}: {link} leaves the repository"
        if anchor:
            assert anchor in anchors(text_of(target)), f"{page.name}: no heading {link}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_the_site_links_to_nothing_outside_of_itself(page: Path) -> None:
    local = [link for link in links(page.read_text("utf-8")) if not FOREIGN.match(link)]
    assert not [link for link in local if link.startswith("..")], "the built site holds docs/ only"


def test_pictures_of_the_documentation_are_small_and_used() -> None:
    used = {
        Path(link).name
        for page in [*MARKDOWN, *NOTEBOOKS]
        for link in links(text_of(page))
        if "images/" in link
    }
    for picture in (DOCS / "images").iterdir():
        assert picture.stat().st_size <= LARGEST_PICTURE_BYTES, picture.name
        assert picture.name in used | {"favicon.svg"}, f"{picture.name} stands nowhere"


def test_the_readme_begins_with_a_moving_picture() -> None:
    first_screen = "\n".join(README.read_text("utf-8").splitlines()[:12])
    film = next(ROOT / link for link in links(first_screen) if link.endswith(".webp"))
    data = film.read_bytes()
    frames, at = 0, 12
    while at + 8 <= len(data):
        kind, size = data[at : at + 4], struct.unpack("<I", data[at + 4 : at + 8])[0]
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    assert frames >= 5, "a still picture, or hardly more"


def test_a_list_is_set_off_from_the_words_before_it() -> None:
    """The site's Markdown makes a paragraph of a list that follows one without an empty line."""
    for page in [*sorted(DOCS.glob("*.md")), README, CONTRIBUTING, CHANGELOG]:
        lines = re.sub(r"(?ms)^( *)(```+).*?^\1\2 *$", "", page.read_text("utf-8")).splitlines()
        for before, line in itertools.pairwise(lines):
            starts_list = re.match(r"(?:[-*] |1\. )", line) is not None
            in_list = re.match(r" *(?:[-*] |\d+\. )|  +\S|#|<|$", before) is not None
            assert not starts_list or in_list, f"{page.name}: {line[:60]!r}"
