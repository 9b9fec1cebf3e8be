"""Tab completion on the lines of the magics: options and their values, commands, models, variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from swiftai_nb.core.control import KINDS
from swiftai_nb.notebook.magic.option_values import SIZE_WORDS
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS, Option

ENGINES = ("auto", "local", "cloud", "openai")
_MAGIC = re.compile(r"(?:[^%]*=\s*)?%{1,2}(?P<name>imagine(?:_\w+)?)\s")
_PICTURE_TYPES = ("GeneratedImage", "Pictures", "GridPictures", "Recipe")
_HISTORY_OPTIONS = ("--count", "--before", "--recall", "--keep", "--forget-folder")
_MODEL_COMMANDS = {"info", "download"}  # of every model; these only of installed ones:
_INSTALLED_COMMANDS = {"delete", "verify", "quantize", "default", "remove"}


class Completer:
    """IPython completer for the lines of the magics: a version 2 matcher that suppresses other matchers.

    Args:
        shell: the IPython shell.
    """

    # IPython reads these attributes of a matcher.
    matcher_api_version = 2
    matcher_identifier = "swiftai_nb.Completer"
    matcher_priority = 100

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.__qualname__ = self.matcher_identifier

    def install(self) -> None:
        """Adds itself to the shell."""
        completer = getattr(self._shell, "Completer", None)
        if completer is not None and hasattr(completer, "custom_matchers"):
            completer.custom_matchers.append(self)

    @staticmethod
    def remove_from(shell: Any) -> None:
        """Removes all completers of this class from the shell."""
        matchers = getattr(getattr(shell, "Completer", None), "custom_matchers", [])
        matchers[:] = [matcher for matcher in matchers if not isinstance(matcher, Completer)]

    def __call__(self, context: Any) -> dict[str, Any]:
        """Answers IPython.

        Args:
            context: an `IPython.core.completer.CompletionContext`.

        Returns:
            a `SimpleMatcherResult`; matches of other matchers are suppressed if it has any.
        """
        from IPython.core.completer import SimpleCompletion

        line = context.full_text.split("\n")[context.cursor_line][: context.cursor_position]
        first = context.full_text.partition("\n")[0]
        if context.cursor_line > 0 and line.startswith("--") and first.startswith("%%imagine"):
            line = f"%%imagine {line}"  # options may continue below the first line
        offers = self.complete(line)
        return {
            "completions": [SimpleCompletion(text=text, type=kind) for text, kind in offers.items()],
            "matched_fragment": _last_word(line),
            "suppress": bool(offers),
            "ordered": True,
        }

    def complete(self, line: str) -> dict[str, str]:
        """Completions of the last word of a line, each with its type.

        Args:
            line: up to the cursor, with the magic's name.
        """
        magic = _MAGIC.match(line)
        if magic is None:
            return {}
        last = _last_word(line)
        words = line[magic.end() : len(line) - len(last)].split()
        offers, typed = self._offers(magic["name"], words, last)
        start = last[: len(last) - len(typed)]
        return {start + offer: kind for offer, kind in offers.items() if offer.startswith(typed)}

    def _offers(self, magic: str, words: list[str], last: str) -> tuple[Mapping[str, str], str]:
        """(text -> type) of all that fits, and the part of `last` it must begin with."""
        if magic == "imagine":
            return self._option_offers(words, last)
        others = {
            "imagine_models": self._model_offers,
            "imagine_jobs": _job_offers,
            "imagine_history": _history_offers,
        }
        return (others[magic](words, last) if magic in others else {}), last

    def _option_offers(self, words: list[str], last: str) -> tuple[Mapping[str, str], str]:
        option, equals, typed = last.partition("=")
        before = words[-1] if words else ""
        if equals and option in BY_NAME:
            return self._values(BY_NAME[option]), typed
        if before in BY_NAME and BY_NAME[before].takes_value and not last.startswith("--"):
            return self._values(BY_NAME[before]), last
        return ({f"--{o.name}": o.help for o in OPTIONS} if last.startswith("-") else {}), last

    def _values(self, option: Option) -> Mapping[str, str]:
        sources: dict[str, Callable[[], Iterable[str]]] = {
            "models": self._models,
            "styles": self._styles,
            "schedulers": self._samplers,
            "engines": self._engines,
            "sizes": lambda: SIZE_WORDS,
            "controls": lambda: [f"{kind}=" for kind in KINDS],
            "pictures": lambda: self._variables(is_picture),
            "executors": lambda: self._variables(is_executor),
            "upscalers": self._upscalers,
            "axes": lambda: [f"{o.name}=" for o in OPTIONS if o.is_axis],
        }
        return dict.fromkeys(sources[option.values]() if option.values else option.choices, option.name)

    def _model_offers(self, words: list[str], last: str) -> Mapping[str, str]:
        from swiftai_nb.downloads.commands import COMMANDS
        from swiftai_nb.registry.registry import DiffusionModelRegistry

        if not words:
            return dict.fromkeys(COMMANDS, "command")
        if last.startswith("-") or words[0] not in _MODEL_COMMANDS | _INSTALLED_COMMANDS:
            return {}
        registry = DiffusionModelRegistry.shared
        every = [m.id for m in registry.available_models if words[0] == "info" or not m.bundled]
        if words[0] in _INSTALLED_COMMANDS:
            every = [name for name in every if registry.is_downloaded(name)]
        return dict.fromkeys((name for name in every if name not in words), "model")

    def _models(self) -> Iterable[str]:
        from swiftai_nb.registry.registry import DiffusionModelRegistry

        return [m.id for m in DiffusionModelRegistry.shared.available_models if m.kind == "model"]

    def _upscalers(self) -> Iterable[str]:
        from swiftai_nb.registry.registry import DiffusionModelRegistry
        from swiftai_nb.registry.upscalers import upscaler_names

        return upscaler_names(DiffusionModelRegistry.shared)

    def _engines(self) -> Iterable[str]:
        from swiftai_nb.providers.discovery import plugin_names

        return [*ENGINES, *plugin_names()]

    def _samplers(self) -> Iterable[str]:
        from swiftai_nb.model_files.samplers import SAMPLERS

        return SAMPLERS

    def _styles(self) -> Iterable[str]:
        from swiftai_nb.notebook.magic.prompt import STYLES

        own = [m.styles for m in self._shell.configurables if type(m).__name__ == "Imagine"]
        return [*STYLES, *(name for styles in own for name in styles)]

    def _variables(self, fits: Callable[[Any], bool]) -> Iterable[str]:
        names = self._shell.user_ns
        return [name for name, value in names.items() if not name.startswith("_") and fits(value)]


def _job_offers(words: list[str], _last: str) -> Mapping[str, str]:
    from swiftai_nb.notebook.session import get_session

    if not words:
        return {"cancel": "command"}
    return {job.id: "job" for job in get_session().queue.jobs if not job.state.is_final}


def _history_offers(_words: list[str], last: str) -> Mapping[str, str]:
    return dict.fromkeys(_HISTORY_OPTIONS if last.startswith("-") else (), "option")


def _last_word(line: str) -> str:
    """The word at the end of a line; "" after a blank."""
    return re.split(r"\s", line)[-1]


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
