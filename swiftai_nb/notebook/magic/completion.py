"""Tab completion on the lines of the magics: options and their values, commands, models, variables, paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS
from swiftai_nb.notebook.magic.tokens import QUOTES

if TYPE_CHECKING:
    from swiftai_nb.notebook.magic.completion_values import OptionValues

_MAGIC = re.compile(r"(?:[^%]*=\s*|\s*)%{1,2}(?P<name>imagine(?:_\w+)?)\s")
_CELL_MAGIC = re.compile(r"\s*%%imagine(?:\s|$)")
_HISTORY_OPTIONS = ("--count", "--before", "--recall", "--keep", "--forget-folder")
_ADD_OPTIONS = ("--variant", "--id", "--revision")
# Command -> (its options, the kind of names that it takes).
_MODEL_COMMANDS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "list": (("--all",), ""),
    "info": ((), "all"),
    "download": (("--variant",), "other"),
    "delete": ((), "installed"),
    "verify": (("--repair", "--json"), "installed"),
    "quantize": (("--bits", "--id"), "installed"),
    "clean": (("--delete",), ""),
    "add": (_ADD_OPTIONS, "folders"),
    "remove": ((), "installed"),
    "default": ((), "default"),
}
# A value in quotes that are not closed yet; only behind an option are quotes more than an apostrophe.
_OPEN_QUOTE = re.compile(r"(?:^|\s)(?P<option>--?[\w-]+)(?:=|\s+)(?P<value>(?P<quote>[\"'])[^\"']*)$")
_FIELD = re.compile(r"(?<!\{)(?:\{\{)*\{(?P<inside>[^{}]*)$")
_FIELD_NAME = re.compile(r"\w*")
_FIELD_PATH = re.compile(r"\w+[.\[][^|]*")


class _NoCompletions(tuple[Any, ...]):
    """Nothing to offer, which keeps other matchers silent: IPython suppresses them if this has a length."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1


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

    @cached_property
    def _values(self) -> OptionValues:
        # Not needed before the first Tab; %load_ext is to be light.
        from swiftai_nb.notebook.magic.completion_values import OptionValues

        return OptionValues(self._shell)

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
            a `SimpleMatcherResult`. On the lines of the magics other matchers are suppressed, also where it
            offers nothing; in a field such as "{cat.size" they are not.
        """
        from IPython.core.completer import SimpleCompletion

        line = _line_of(context)
        field = None if line is None else _FIELD.search(line)
        if line is None or (field is not None and _FIELD_PATH.match(field["inside"])):
            return {"completions": [], "suppress": False}
        found = [SimpleCompletion(text=text, type=kind) for text, kind in self.complete(line).items()]
        return {
            "completions": found or _NoCompletions(),
            "matched_fragment": _last_word(line),
            "suppress": True,
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
        wanted = typed.lstrip(QUOTES)
        return {start + o: kind for o, kind in offers.items() if o.lstrip(QUOTES).startswith(wanted)}

    def _offers(self, magic: str, words: list[str], last: str) -> tuple[Mapping[str, str], str]:
        """(text -> type) of all that fits, and the part of `last` it must begin with."""
        if magic == "imagine":
            return self._option_offers(words, last)
        others = {
            "imagine_models": _model_offers,
            "imagine_jobs": _job_offers,
            "imagine_history": _history_offers,
        }
        return (others[magic](words, last) if magic in others else {}), last

    def _option_offers(self, words: list[str], last: str) -> tuple[Mapping[str, str], str]:
        option, equals, typed = last.partition("=")
        is_inline = bool(equals) and option in BY_NAME
        before = option if is_inline else _option_before(words)
        field = _FIELD.search(last)
        if field is not None and "--raw" not in words:
            return self._fields(before, field["inside"]), field["inside"]
        if "--" in words:
            return {}, last
        if not is_inline:
            typed = last
        if before != "" and (is_inline or not last.startswith("--")):
            from swiftai_nb.notebook.magic.completion_values import quoted

            quote = typed[:1] if typed.startswith(tuple(QUOTES)) else ""
            values = quoted(self._values.of(before, typed.removeprefix(quote)), quote)
            return dict.fromkeys(values, BY_NAME[before].name), typed
        return ({f"--{o.name}": o.help for o in OPTIONS} if last.startswith("-") else {}), last

    def _fields(self, option: str, typed: str) -> Mapping[str, str]:
        """What may be replaced in a text: variables, and the fields of a file's name."""
        if not _FIELD_NAME.fullmatch(typed):
            return {}
        from swiftai_nb.notebook.output.saving import FIELDS

        own = FIELDS if option == "--save" else ()
        return dict.fromkeys((*own, *self._values.variables(_is_data)), "variable")


def _line_of(context: Any) -> str | None:
    """The magic's line up to the cursor; lines in the cell of `%%imagine` continue it. None elsewhere."""
    line: str = context.full_text.split("\n")[context.cursor_line][: context.cursor_position]
    if context.cursor_line > 0 and _CELL_MAGIC.match(context.full_text):
        above = "\n".join(context.full_text.split("\n")[: context.cursor_line])
        if above.strip():
            is_option = line.lstrip().startswith("--")
            return f"%%imagine {'' if is_option else '-- '}{line}"
    return line if _MAGIC.match(line) else None


def _is_data(value: Any) -> bool:
    return not (callable(value) or type(value).__name__ == "module")


def _option_before(words: list[str]) -> str:
    """The option whose value comes next, as it is typed; "" without one."""
    for word in reversed(words):
        if word in BY_NAME:
            is_open = word == words[-1] or (word == "--grid" and all("=" in w for w in _after(words, word)))
            return word if BY_NAME[word].takes_value and is_open else ""
        if "=" not in word:
            break
    return ""


def _after(words: list[str], word: str) -> list[str]:
    return words[len(words) - words[::-1].index(word) :]


def _model_offers(words: list[str], last: str) -> Mapping[str, str]:
    from swiftai_nb.downloads.commands import COMMANDS
    from swiftai_nb.model_files.variants import DiffusionVariant

    if not words:
        return dict.fromkeys(COMMANDS, "command")
    options, names = _MODEL_COMMANDS.get(words[0], ((), ""))
    if last.startswith("-"):
        return dict.fromkeys((option for option in options if option not in words), "option")
    if words[-1] == "--variant":
        return dict.fromkeys((variant.value for variant in DiffusionVariant), "family")
    if words[-1] == "--bits":
        return dict.fromkeys(("4", "8"), "bits")
    if words[-1] in _ADD_OPTIONS:
        return {}
    return dict.fromkeys((name for name in _model_names(names, last) if name not in words), "model")


def _model_names(kind: str, typed: str) -> Iterable[str]:
    from swiftai_nb.notebook.magic.completion_values import installed, paths, quoted
    from swiftai_nb.registry.registry import DiffusionModelRegistry

    if kind in ("", "folders"):
        return quoted(paths(typed, (".safetensors", ".gguf", ".ckpt")), "") if kind else ()
    here = installed()
    if kind in ("installed", "default"):
        return here if kind == "installed" else ["none", *_bundled(), *here]
    models = DiffusionModelRegistry.shared.available_models
    return [m.id for m in models if kind == "all" or not (m.bundled or m.id in here)]


def _bundled() -> list[str]:
    from swiftai_nb.registry.registry import DiffusionModelRegistry

    return [model.id for model in DiffusionModelRegistry.shared.available_models if model.bundled]


def _job_offers(words: list[str], _last: str) -> Mapping[str, str]:
    from swiftai_nb.notebook.session import get_session

    if not words:
        return {"cancel": "command"}
    unfinished = [job.id for job in get_session().queue.jobs if not job.state.is_final]
    return dict.fromkeys((name for name in unfinished if name not in words), "job")


def _history_offers(words: list[str], last: str) -> Mapping[str, str]:
    from swiftai_nb.notebook.magic.completion_values import paths, quoted
    from swiftai_nb.notebook.session import get_session

    if words and words[-1] in ("--recall", "--before"):
        newest = get_session().history.newest(20)
        return {str(entry.id): entry.prompt for entry in newest}
    if words and words[-1] == "--keep":
        return dict.fromkeys(quoted(paths(last, ()), ""), "folder")
    return dict.fromkeys(_HISTORY_OPTIONS if last.startswith("-") else (), "option")


def _last_word(line: str) -> str:
    """The word at the end of a line, whole where a quote is open behind an option; "" after a blank."""
    quote = _OPEN_QUOTE.search(line)
    if quote is not None and quote["option"] in BY_NAME and BY_NAME[quote["option"]].takes_value:
        is_inline = line[quote.end("option")] == "="
        return line[quote.start("option" if is_inline else "value") :]
    return re.split(r"\s", line)[-1]
