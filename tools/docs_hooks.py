"""Brings what stands elsewhere in the repository into the documentation: tutorials, options, defaults."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
_BRACES = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


def on_pre_build(config: Any) -> None:
    """Copies the executed notebooks beside the pages."""
    TUTORIALS.mkdir(exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copyfile(notebook, TUTORIALS / notebook.name)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the tables that are made from code, where a page asks for them."""
    if "{{" in markdown:
        sys.path.insert(0, str(ROOT))
        for name, make in TABLES.items():
            if f"{{{{ {name} }}}}" in markdown:
                markdown = markdown.replace(f"{{{{ {name} }}}}", make())
    return markdown


def option_tables() -> str:
    """One Markdown table for each group of options."""
    from swiftai_nb.notebook.magic.options import GROUPS

    return "\n\n".join(
        "\n".join([f"| {title} | |", "|---|---|", *_rows(options)]) for title, options in GROUPS.items()
    )


def _rows(options: Any) -> Iterator[str]:
    for option in options:
        spelling = f"`{option.spelling.strip()}`"
        choices = f": `{'`, `'.join(option.choices)}`" if option.choices else ""
        yield f"| {spelling} | {_escaped(option.help)}{choices} |"


def default_table() -> str:
    """The magic's `%config` settings."""
    from swiftai_nb.notebook.magic.magics import Imagine

    traits = sorted(Imagine.class_traits(config=True).items())
    rows = [f"| `Imagine.{name}` | {_escaped(trait.help)} |" for name, trait in traits if trait.help]
    return "\n".join(["| Setting | Meaning |", "|---|---|", *rows])


def license_table() -> str:
    """The catalog's licenses."""
    from swiftai_nb.registry.catalog import catalog

    rows = [f"| {m.id} | `{m.license}` | {_escaped(m.license_summary)} |" for m in catalog()]
    return "\n".join(["| Model | License | In plain words |", "|---|---|---|", *rows])


TABLES = {"options": option_tables, "defaults": default_table, "licenses": license_table}


def _escaped(text: str) -> str:
    """Text for a table cell; what stands in braces becomes code."""
    return _BRACES.sub(r"`\g<0>`", text).replace("|", "\\|")
