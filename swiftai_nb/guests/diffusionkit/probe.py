"""Inspects a Python environment for DiffusionKit. Standard library only: any interpreter can run it."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from typing import Any

from swiftai_nb.core.errors import ProviderUnavailableError

DIFFUSIONKIT_VERSION = "0.5.2"
MIN_PYTHON = (3, 10)
INSTALL = "python -m swiftai_nb diffusionkit install"
# What the child imports: name of the module -> name of the package.
PACKAGES = {
    "mlx": "mlx",
    "diffusionkit": "diffusionkit",
    "transformers": "transformers",
    "huggingface_hub": "huggingface_hub",
    "numpy": "numpy",
    "PIL": "pillow",
    "regex": "regex",
    "beartype": "beartype",
    "sentencepiece": "sentencepiece",
    "tqdm": "tqdm",
}
_SHOWN = ("diffusionkit", "mlx", "transformers", "numpy")


@dataclass(frozen=True)
class EnvironmentFacts:
    """A Python environment.

    Attributes:
        executable: its interpreter.
        python: its version.
        versions: package -> version, of the packages that compute.
        missing: required packages that are not installed.
    """

    executable: str
    python: str
    versions: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def inspect_this_interpreter() -> EnvironmentFacts:
    """Inspects the interpreter that runs this; imports none of the packages."""
    missing = tuple(package for module, package in PACKAGES.items() if util.find_spec(module) is None)
    versions = {name: found for name in _SHOWN if (found := _version(name)) is not None}
    return EnvironmentFacts(sys.executable, platform.python_version(), versions, missing)


def facts_from_dict(data: Mapping[str, Any]) -> EnvironmentFacts:
    """Reads what `main` printed in another interpreter.

    Raises:
        (KeyError, TypeError, ValueError): the data is not of that form.
    """
    return EnvironmentFacts(
        str(data["executable"]),
        str(data["python"]),
        {str(k): str(v) for k, v in dict(data.get("versions", {})).items()},
        tuple(str(name) for name in data.get("missing", ())),
    )


def find_obstacle(facts: EnvironmentFacts, *, is_own: bool = False) -> ProviderUnavailableError | None:
    """Why DiffusionKit cannot run there, or None when it should.

    Args:
        facts: of the environment.
        is_own: whether our installer made it, so that it can be reinstalled.
    """
    remedy = f"{INSTALL} --again" if is_own else f"set SWIFTAI_DIFFUSIONKIT_PYTHON to another, or {INSTALL}"
    if _numbers(facts.python) < MIN_PYTHON:
        least = ".".join(map(str, MIN_PYTHON))
        return ProviderUnavailableError(
            f"the DiffusionKit worker needs Python {least} or newer, {facts.executable} is {facts.python}",
            hint=remedy,
        )
    if facts.missing:
        return ProviderUnavailableError(
            f"{facts.executable} lacks {', '.join(facts.missing)}, which DiffusionKit needs", hint=remedy
        )
    version = facts.versions.get("diffusionkit", "of no known version")
    if version != DIFFUSIONKIT_VERSION:
        return ProviderUnavailableError(
            f"DiffusionKit {version} is in {facts.executable}, only {DIFFUSIONKIT_VERSION} is supported",
            hint=remedy,
        )
    return None


def broken_environment(reason: str, *, is_own: bool = False) -> ProviderUnavailableError:
    """The error for an environment that passes inspection and still does not work."""
    again = f"{INSTALL} --again" if is_own else f"repair it, or install another: {INSTALL}"
    return ProviderUnavailableError(f"the DiffusionKit environment is broken: {reason}", hint=again)


def main() -> None:
    """Prints the facts as one line of JSON."""
    facts = inspect_this_interpreter()
    sys.stdout.write(json.dumps({**vars(facts), "versions": dict(facts.versions)}) + "\n")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
