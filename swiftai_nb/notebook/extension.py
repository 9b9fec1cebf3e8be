"""`%load_ext swiftai_nb` and `%unload_ext swiftai_nb`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from swiftai_nb.core.plugins import Editor
from swiftai_nb.notebook.magic.magics import Imagine

SESSION_MODULE = "swiftai_nb.notebook.session"


def load(shell: Any) -> None:
    """Registers the magics and the completer; loads nothing that makes pictures."""
    from swiftai_nb.notebook.magic.completion import Completer

    unload(shell)
    magics = Imagine(shell)
    shell.register_magics(magics)
    Completer(shell).install()
    Editor.edit, Editor.upscale = _edit, _upscale


def _edit(pictures: Sequence[Any], prompt: str, **options: Any) -> Any:
    from swiftai_nb.notebook.magic.edit import edit_pictures

    return edit_pictures(pictures, prompt, **options)


def _upscale(pictures: Sequence[Any], factor: float, **options: Any) -> Any:
    from swiftai_nb.notebook.magic.upscale import upscale_pictures

    return upscale_pictures(pictures, factor, **options)


def unload(shell: Any) -> None:
    """Removes them, cancels all jobs and ends the engines."""
    from swiftai_nb.notebook.magic.completion import Completer

    for magics in [m for m in shell.configurables if isinstance(m, Imagine)]:
        shell.configurables.remove(magics)
        for kind, names in magics.magics.items():
            for name in names:
                shell.magics_manager.magics[kind].pop(name, None)
        shell.magics_manager.registry.pop(Imagine.__name__, None)
    Completer.remove_from(shell)
    Editor.edit = Editor.upscale = None
    session = sys.modules.get(SESSION_MODULE)
    if session is not None:
        session.close_session()
