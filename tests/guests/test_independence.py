"""A guest enters through entry points and the public contract: nothing outside its folder names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftai_nb.core.plugins import COMMANDS, MODELS, PROVIDERS, find_plugins

ROOT = Path(__file__).parents[2]
GUESTS = [p.name for p in (ROOT / "swiftai_nb" / "guests").iterdir() if (p / "__init__.py").is_file()]
SOURCES = [
    path
    for folder, pattern in (("swiftai_nb", "*.py"), ("swiftai_nb/static", "*"), ("js/src", "*"))
    for path in (ROOT / folder).rglob(pattern)
    if path.is_file()
]


def test_there_is_a_guest() -> None:
    assert "diffusionkit" in GUESTS
    assert len(SOURCES) > 100


@pytest.mark.parametrize("guest", GUESTS)
def test_no_file_outside_its_folder_names_a_guest(guest: str) -> None:
    own = ROOT / "swiftai_nb" / "guests" / guest
    named = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if own not in path.parents and guest in path.read_text("utf-8").casefold()
    ]
    assert named == []


@pytest.mark.parametrize("group", [PROVIDERS, MODELS, COMMANDS])
def test_a_guest_is_found_by_its_entry_points(group: str) -> None:
    assert set(GUESTS) <= set(find_plugins(group))
