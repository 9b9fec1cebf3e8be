"""`%load_ext swiftai_nb` and `%unload_ext swiftai_nb`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from IPython.core.inputtransformer2 import EscapedCommand, MagicAssign, TokenTransformBase

from swiftai_nb.core.plugins import Editor
from swiftai_nb.notebook.magic.magics import Imagine

_QUESTION = re.compile(r"(?:[^%]*=\s*|\s*)%imagine(?:_\w+)?\s+[^\s?].*\?\s*$")
SESSION_MODULE = "swiftai_nb.notebook.session"


def load(shell: Any) -> None:
    """Registers the magics and the completer; loads nothing that makes pictures."""
    from swiftai_nb.notebook.magic.completion import Completer

    unload(shell)
    magics = Imagine(shell)
    shell.register_magics(magics)
    shell.input_transformer_manager.token_transformers.append(QuestionPrompt)
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
    transformers = shell.input_transformer_manager.token_transformers
    transformers[:] = [one for one in transformers if one is not QuestionPrompt]
    Editor.edit = Editor.upscale = None
    session = sys.modules.get(SESSION_MODULE)
    if session is not None:
        session.close_session()


class QuestionPrompt(TokenTransformBase):  # type: ignore[misc]
    """Keeps `%imagine is this a cat?` a prompt: IPython takes a question mark at the end for a call for help.

    `%imagine?` still shows the magic's help.
    """

    priority = 1  # before that of the help

    def __init__(self, start: tuple[int, int], command: Any) -> None:
        super().__init__(start)
        self._command = command

    @classmethod
    def find(cls, tokens_by_line: Any) -> QuestionPrompt | None:
        """The first such line of a cell, if any; called by IPython."""
        for tokens in tokens_by_line:
            if tokens and _QUESTION.match(tokens[0].line):
                for kind in (EscapedCommand, MagicAssign):
                    command = kind.find([tokens])
                    if command is not None:
                        return cls(tokens[0].start, command)
        return None

    def transform(self, lines: list[str]) -> list[str]:
        """The cell's lines with the magic as a call; called by IPython."""
        changed: list[str] = self._command.transform(lines)
        return changed
