"""What completion offers as the values of an option: names, variables, and paths of fitting files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from swiftai_nb.core.config import QUANTIZATION_BITS
from swiftai_nb.core.control import KINDS
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.paths import user_path
from swiftai_nb.notebook.magic.option_values import SIZE_WORDS
from swiftai_nb.notebook.magic.options import BY_NAME, OPTIONS

ENGINES = ("auto", "local", "cloud", "openai")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
WEIGHT_SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
_SIDES = ("left=", "top=", "right=", "bottom=")
_PICTURE_TYPES = ("GeneratedImage", "Pictures", "GridPictures", "Recipe")
_SCANNED_ENTRIES = 5000  # of one folder
_MOST_PATHS = 200
_PATH_MARKS = ("/", os.sep, ".", "~")


class OptionValues:
    """The values that completion offers.

    Args:
        shell: the IPython shell.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._sources: Mapping[str, Callable[[str], Iterable[str]]] = {
            "models": self._models,
            "styles": lambda _: self._styles(),
            "schedulers": lambda _: _samplers(),
            "engines": lambda _: _engines(),
            "providers": lambda _: _cloud_providers(),
            "sizes": lambda _: SIZE_WORDS,
            "bits": lambda _: map(str, QUANTIZATION_BITS),
            "controls": self._controls,
            "sides": lambda typed: (typed.rpartition(",")[0] + "," * ("," in typed) + s for s in _SIDES),
            "pictures": self._pictures,
            "executors": lambda _: self.variables(is_executor),
            "upscalers": lambda typed: [*_upscalers(), *paths(typed, WEIGHT_SUFFIXES)],
            "loras": lambda typed: [*installed("lora"), *paths(typed, WEIGHT_SUFFIXES)],
            "weights": lambda typed: paths(typed, WEIGHT_SUFFIXES),
            "folders": lambda typed: paths(typed, ()),
            "axes": self._axes,
        }

    def of(self, name: str, typed: str) -> Iterable[str]:
        """All values of one kind that may follow; those that do not begin with `typed` are to be left out.

        Args:
            name: an option as it is typed, such as "--model".
            typed: the value so far, without quotes.
        """
        option = BY_NAME[name]
        return self._sources[option.values](typed) if option.values else option.choices

    def variables(self, fits: Callable[[Any], bool]) -> Iterable[str]:
        """The user's variables with such a value."""
        hidden = getattr(self._shell, "user_ns_hidden", {})
        return [
            name
            for name, value in self._shell.user_ns.items()
            if not name.startswith("_") and hidden.get(name, self) is not value and fits(value)
        ]

    def _pictures(self, typed: str) -> Iterable[str]:
        return [*self.variables(is_picture), *paths(typed, PICTURE_SUFFIXES)]

    def _models(self, typed: str) -> Iterable[str]:
        from swiftai_nb.registry.registry import DiffusionModelRegistry

        names = [m.id for m in DiffusionModelRegistry.shared.available_models if m.kind == "model"]
        is_path = typed.startswith(_PATH_MARKS) or any(mark in typed for mark in ("/", os.sep))
        return [*names, *(paths(typed, WEIGHT_SUFFIXES) if is_path else ())]

    def _controls(self, typed: str) -> Iterable[str]:
        kind, equals, picture = typed.partition("=")
        return [f"{kind}={one}" for one in self._pictures(picture)] if equals else [f"{k}=" for k in KINDS]

    def _axes(self, typed: str) -> Iterable[str]:
        name, equals, listed = typed.partition("=")
        if not equals:
            return ["prompt=", *(f"{o.name}=" for o in OPTIONS if o.is_axis)]
        if f"--{name}" not in BY_NAME:
            return []
        before, comma, last = listed.rpartition(",")
        start = f"{name}={before}{comma}"
        return [f"{start}{value}" for value in self.of(f"--{name}", last) if value not in before.split(",")]

    def _styles(self) -> Iterable[str]:
        from swiftai_nb.notebook.magic.prompt import STYLES

        own = [m.styles for m in self._shell.configurables if type(m).__name__ == "Imagine"]
        return [*STYLES, *(name for styles in own for name in styles)]


def _samplers() -> Iterable[str]:
    from swiftai_nb.model_files.samplers import SAMPLERS

    return SAMPLERS


def _engines() -> Iterable[str]:
    from swiftai_nb.providers.discovery import plugin_names

    return [*ENGINES, *plugin_names()]


def _cloud_providers() -> Iterable[str]:
    from swiftai_nb.providers.huggingface.hub import provider_names

    return provider_names()


def _upscalers() -> Iterable[str]:
    from swiftai_nb.registry.registry import DiffusionModelRegistry
    from swiftai_nb.registry.upscalers import upscaler_names

    return upscaler_names(DiffusionModelRegistry.shared)


def installed(kind: str = "") -> list[str]:
    """Ids of the installed models, or of those of one kind; not the bundled one."""
    from swiftai_nb.registry.registry import DiffusionModelRegistry

    registry = DiffusionModelRegistry.shared
    return [
        model.id
        for model in registry.available_models
        if not model.bundled and kind in ("", model.kind) and registry.is_installed(model)
    ]


def paths(typed: str, suffixes: tuple[str, ...]) -> list[str]:
    """Folders, with "/" behind, and files with one of `suffixes` that begin with `typed`; sorted.

    A folder that cannot be read gives nothing. Hidden entries are offered where their dot is typed.
    """
    name = os.path.split(typed)[1]
    start = typed[: len(typed) - len(name)]
    try:
        with os.scandir(user_path(start)) as entries:
            found = [
                start + entry.name + ("/" if is_folder else "")
                for entry in islice(entries, _SCANNED_ENTRIES)
                if entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith("."))
                if (is_folder := entry.is_dir()) or entry.name.lower().endswith(suffixes)
            ]
    except (OSError, InvalidInputError):
        return []
    return sorted(found)[:_MOST_PATHS]


def quoted(values: Iterable[str], quote: str) -> Iterator[str]:
    """The values as they are typed after `quote`, which may be empty; blanks need quotes."""
    for value in values:
        mark = quote or ('"' if any(c.isspace() for c in value) else "")
        is_open = mark and value.endswith("/")
        yield f"{mark}{value}{'' if is_open else mark}"


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
