"""Finds providers: built-in ones, and those of other packages.

A package adds one by an entry point of the group `swiftai_nb.providers` whose object, called with
keyword options, returns an `ImageGenerator`. A package is imported when its provider is first used.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from swiftai_nb.core.errors import AIError, InvalidInputError, ProviderUnavailableError
from swiftai_nb.core.generator import ImageGenerator
from swiftai_nb.core.plugins import PROVIDERS, find_plugins

BUILT_IN = {
    "mlx": "swiftai_nb.providers.mlx:MLXImageProvider",
    "huggingface": "swiftai_nb.providers.huggingface:HuggingFaceProvider",
    "openai": "swiftai_nb.providers.openai:OpenAIImagesProvider",
}


def names() -> tuple[str, ...]:
    """All known names: built-in ones first, then those of other packages in alphabetical order."""
    return (*BUILT_IN, *plugin_names())


def plugin_names() -> tuple[str, ...]:
    """The names of the providers from entry points, in alphabetical order."""
    return tuple(name for name in find_plugins(PROVIDERS) if name not in BUILT_IN)


def create(name: str, **options: Any) -> ImageGenerator:
    """Creates a generator.

    Args:
        name: one of `names()`.
        options: what its factory takes, such as `isolation="thread"` or `token=...`.

    Raises:
        InvalidInputError: no such name (with a suggestion), or an option it does not take.
        ProviderUnavailableError: its package cannot be imported, or it does not create an ImageGenerator.
    """
    factory = _factory(name)
    try:
        generator = factory(**options)
    except AIError:
        raise
    except TypeError as error:
        raise InvalidInputError(f"provider {name!r}: {error}", hint="see its documentation") from error
    except Exception as error:
        raise ProviderUnavailableError(
            f"provider {name!r} refuses to start: {type(error).__name__}: {error}",
            hint="see its documentation",
        ) from error
    if not isinstance(generator, ImageGenerator):
        raise ProviderUnavailableError(
            f"provider {name!r} created a {type(generator).__name__}, which is not an ImageGenerator",
            hint="it needs generate_image, cancel_generation and is_available",
        )
    return generator


def kind(name: str) -> str:
    """Where a provider works: "local" or "cloud"; "local" where that is not known.

    Raises:
        InvalidInputError: no such name.
        ProviderUnavailableError: its package cannot be imported.
    """
    return str(getattr(_factory(name), "kind", "local"))


def _factory(name: str) -> Any:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(import_module(module), attribute)
    found = find_plugins(PROVIDERS).get(name)
    if found is None:
        close = difflib.get_close_matches(name.casefold(), names(), n=1, cutoff=0.5)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise InvalidInputError(f"no provider named {name!r}", hint=f"{meant}known: {', '.join(names())}")
    try:
        return found.load()
    except Exception as error:
        raise ProviderUnavailableError(
            f"provider {name!r} ({found.value}) cannot be imported: {error}", hint="reinstall its package"
        ) from error
