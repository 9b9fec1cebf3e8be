"""The documentation as data: pages, their links, their anchors. Standard library only, no network."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
README, CONTRIBUTING, CHANGELOG = (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SITE_PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")])
MARKDOWN = [README, CONTRIBUTING, CHANGELOG, *SITE_PAGES, *sorted((ROOT / "training").glob("*.md"))]

_FENCE = re.compile(r"^( *)(```+|~~~+)(.*?)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_HTML_LINK = re.compile(r"(?:href|src|srcset)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)? *$", re.MULTILINE)


def prose(text: str) -> str:
    """The text without its code blocks."""
    return _FENCE.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return [body for _, _, info, body in _FENCE.findall(text) if info.split(" ")[0] == language]


def links(text: str) -> Iterator[str]:
    """Every target of a link or a picture that stands in prose."""
    visible = _CODE.sub("", prose(text))
    yield from _LINK.findall(visible)
    yield from _HTML_LINK.findall(visible)


def markdown_of(notebook: Path) -> str:
    """The prose of a notebook."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(text: str) -> set[str]:
    """The anchors that its headings get, on the site and on GitHub."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", ""))
        ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode("ascii")
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())
        github = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found |= {site, github}
    return found | set(re.findall(r"::: ([\w.]+)", text))


def code_spans(text: str) -> list[str]:
    """What stands in `code` in the prose."""
    return [match[0].strip("`").strip() for match in _CODE.finditer(prose(text))]


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row, headings left out."""
    for line in prose(text).splitlines():
        if line.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
