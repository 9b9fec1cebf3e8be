"""Tab completion on an `%imagine` line: options, models, styles, schedulers, pictures in variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS, Option
from swiftai_nb.notebook.magic.styles import STYLES
from swiftai_nb.notebook.magic.values import SIZE_WORDS

SCHEDULERS = (
    "ddim", "pndm", "euler", "euler-karras", "euler-a", "dpm++2m", "dpm++2m-karras", "lms", "lms-karras",
    "lcm", "flow-match-euler",
)  # fmt: skip
ENGINES = ("auto", "local", "cloud")
_MAGIC = re.compile(r"(?:.*=\s*)?%{1,2}imagine\s")
_PICTURE_TYPES = ("GeneratedImage", "Pictures", "GridPictures", "Recipe")


class Completer:
    """IPython's completer for our lines.

    Args:
        shell: the IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell

    def install(self) -> None:
        """Adds itself to the shell."""
        completer = getattr(self._shell, "Completer", None)
        if completer is not None and hasattr(completer, "custom_matchers"):
            completer.custom_matchers.append(self.match)

    @staticmethod
    def remove_from(shell: Any) -> None:
        """Removes every completer of ours from the shell."""
        matchers = getattr(getattr(shell, "Completer", None), "custom_matchers", [])
        matchers[:] = [m for m in matchers if not isinstance(getattr(m, "__self__", None), Completer)]

    def match(self, text: str) -> list[str]:
        """IPython's hook: completions of the word `text` at the cursor."""
        completer = self._shell.Completer
        line = str(getattr(completer, "line_buffer", "") or "")
        if not _MAGIC.match(line):
            return []
        return self.complete(line, text)

    def complete(self, line: str, text: str) -> list[str]:
        """Completions of the last word of `line`.

        Args:
            line: up to the cursor, with the magic's name.
            text: the part that the front end will replace.
        """
        words = line.split()
        last = "" if line.endswith((" ", "\t")) else words[-1]
        before = words[-1] if last == "" else words[-2]
        option, equals, typed = last.partition("=")
        if equals and option in BY_NAME:
            return _beginning(self._values(BY_NAME[option]), typed, last, text)
        if before in BY_NAME and BY_NAME[before].takes_value and not last.startswith("--"):
            return _beginning(self._values(BY_NAME[before]), last, last, text)
        if not last.startswith("-"):
            return []
        return _beginning((f"--{o.name}" for o in OPTIONS), last, last, text)

    def _values(self, option: Option) -> Iterable[str]:
        sources: dict[str, Callable[[], Iterable[str]]] = {
            "model": self._models,
            "style": self._styles,
            "scheduler": lambda: SCHEDULERS,
            "engine": self._engines,
            "size": lambda: SIZE_WORDS,
            "image": self._picture_names,
            "mask": self._picture_names,
            "from": self._picture_names,
            "executor": self._executor_names,
            "grid": lambda: [f"{o.name}=" for o in OPTIONS if o.kind in ("int", "float", "size", "word")],
        }
        return sources.get(option.name, lambda: option.choices)()

    def _models(self) -> Iterable[str]:
        from swiftai_nb.registry.registry import DiffusionModelRegistry

        return [m.id for m in DiffusionModelRegistry.shared.available_models if m.kind == "model"]

    def _engines(self) -> Iterable[str]:
        from swiftai_nb.providers.discovery import plugin_names

        return [*ENGINES, *plugin_names()]

    def _styles(self) -> Iterable[str]:
        own = [m.styles for m in self._shell.configurables if type(m).__name__ == "Imagine"]
        return [*STYLES, *(name for styles in own for name in styles)]

    def _executor_names(self) -> Iterable[str]:
        names = self._shell.user_ns
        return [name for name, value in names.items() if not name.startswith("_") and is_executor(value)]

    def _picture_names(self) -> Iterable[str]:
        names = self._shell.user_ns
        return [name for name, value in names.items() if not name.startswith("_") and is_picture(value)]


def is_executor(value: Any) -> bool:
    """Whether a variable can be given to `--executor`: an executor, or a client that has one."""
    kind = type(value)
    return any(hasattr(kind, name) for name in ("submit", "get_executor", "executor"))


def is_picture(value: Any) -> bool:
    """Whether a variable can be given to `--image`, judged by its type's name: nothing is imported."""
    kinds = {base.__name__ for base in type(value).__mro__}
    if kinds & {*_PICTURE_TYPES, "Image", "Figure"}:
        return True
    return "ndarray" in kinds and getattr(value, "ndim", 0) in (2, 3)


def _beginning(candidates: Iterable[str], typed: str, last: str, text: str) -> list[str]:
    """Those that begin with `typed`, without what the front end keeps of the word."""
    kept = last[: len(last) - len(text)] if last.endswith(text) else ""
    offset = max(0, len(kept) - (len(last) - len(typed)))
    prefix = last[: len(last) - len(typed)][len(kept) :] if len(kept) < len(last) - len(typed) else ""
    return [prefix + name[offset:] for name in candidates if name.startswith(typed)]
