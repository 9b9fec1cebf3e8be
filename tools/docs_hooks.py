"""Brings what stands elsewhere in the repository into the documentation: tutorials and the option table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"


def on_pre_build(config: Any) -> None:
    """Copies the executed notebooks beside the pages."""
    TUTORIALS.mkdir(exist_ok=True)
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        shutil.copyfile(notebook, TUTORIALS / notebook.name)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the magic's option table, made from the table the parser uses, where a page asks for it."""
    if "{{ options }}" not in markdown:
        return markdown
    from swiftai_nb.notebook.options import help_text

    return markdown.replace("{{ options }}", f"```text\n{help_text()}\n```")
