"""docs/widget.md names buttons and keys that the widget has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "widget.md"
WIDGET = ROOT / "js" / "src" / "widget"


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    if not WIDGET.is_dir():
        pytest.skip("the TypeScript source is not part of this installation")
    return {path.stem: path.read_text(encoding="utf-8") for path in WIDGET.glob("*.ts")}


def test_every_label_that_the_page_names_is_one_of_the_widgets(sources: dict[str, str]) -> None:
    labels = set(re.findall(r'"([^"\n]+)"', sources["strings"]))
    named = set(re.findall(r"\*\*([^*]+)\*\*", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 10
    assert named - labels == set()


def test_every_text_of_the_widget_is_in_its_table(sources: dict[str, str]) -> None:
    """Words between quotes elsewhere are names: of elements, attributes, messages."""
    found = [
        f"{name}.ts: {text}"
        for name, source in sources.items()
        if name != "strings"
        for line in source.splitlines()
        if not line.lstrip().startswith(("//", "*", "/*", "import"))
        for text in re.findall(r'"([A-Z][a-z]+ [a-z]+[^"]*)"', line)
    ]
    assert found == []
