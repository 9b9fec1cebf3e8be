"""Plugins of this package: added by the notebook extension, and by entry points.

Entry points are those of installed packages; docs/add-a-provider.md describes each group. Nothing is imported
before it is needed, and a package that cannot be imported does not affect the others.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PROVIDERS = "swiftai_nb.providers"
MODELS = "swiftai_nb.models"
COMMANDS = "swiftai_nb.commands"
_log = logging.getLogger(__name__)


class Editor:
    """Does `GeneratedImage.edit` and `upscale`: the notebook extension, while it is loaded; else None."""

    edit: ClassVar[Callable[..., Any] | None] = None
    upscale: ClassVar[Callable[..., Any] | None] = None


def find_plugins(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, sorted; read again at every call, nothing is imported."""
    from importlib.metadata import entry_points  # 40 modules, which `%load_ext` does without

    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load_plugins(group: str) -> dict[str, Any]:
    """The objects of a group by name; each is loaded once per process.

    One that cannot be imported is left out with a warning in the log.
    """
    return dict(_load(group, tuple(sys.path)))


@lru_cache(maxsize=32)
def _load(group: str, _search_path: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    loaded = []
    for name, point in find_plugins(group).items():
        try:
            loaded.append((name, point.load()))
        except Exception as error:  # noqa: BLE001 - code of another package
            _log.warning("entry point %s of %s cannot be loaded: %s", name, group, error)
    return tuple(loaded)
