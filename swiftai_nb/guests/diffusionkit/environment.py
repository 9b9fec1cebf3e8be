"""Which interpreter has DiffusionKit: the user's own choice, or the environment we made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import ProviderUnavailableError
from swiftai_nb.guests.diffusionkit.probe import INSTALL, EnvironmentFacts, obstacle_in
from swiftai_nb.guests.diffusionkit.process import ask_environment

PYTHON_VARIABLE = "SWIFTAI_DIFFUSIONKIT_PYTHON"
FOLDER_NAME = "diffusionkit"


@dataclass(frozen=True)
class Interpreter:
    """A Python that should have DiffusionKit.

    Attributes:
        path: of its executable.
        is_own: whether our installer made it.
    """

    path: Path
    is_own: bool


def environment_folder(home: Path) -> Path:
    """Where our installer puts the environment.

    Args:
        home: folder of the user's choices.
    """
    return home / FOLDER_NAME


def interpreter_in(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find_interpreter(home: Path) -> Interpreter:
    """The interpreter to use now; the environment variable is read at every call.

    Args:
        home: folder of the user's choices.

    Raises:
        ProviderUnavailableError: there is none; says how to get one.
    """
    chosen = os.environ.get(PYTHON_VARIABLE, "").strip()
    if chosen:
        path = Path(chosen).expanduser()
        path = interpreter_in(path) if path.is_dir() else path
        if not path.is_file():
            raise ProviderUnavailableError(
                f"{PYTHON_VARIABLE} is {chosen}, and there is no Python",
                hint=f"unset it, or give the python of an environment that has DiffusionKit ({INSTALL})",
            )
        return Interpreter(path.absolute(), is_own=False)
    folder = environment_folder(home)
    path = interpreter_in(folder)
    if path.is_file():
        return Interpreter(path, is_own=True)
    if folder.exists():
        raise ProviderUnavailableError(
            f"the DiffusionKit environment in {folder} is not whole", hint=f"{INSTALL} --again"
        )
    raise ProviderUnavailableError("DiffusionKit is not installed", hint=f"{INSTALL}   (in a terminal)")


class CheckedInterpreters:
    """Interpreters that were asked what they have; only good answers are remembered."""

    def __init__(self) -> None:
        self._good: dict[tuple[Path, int], EnvironmentFacts] = {}

    def facts(self, interpreter: Interpreter) -> EnvironmentFacts:
        """What the interpreter has.

        Raises:
            ProviderUnavailableError: DiffusionKit cannot run there; says why and what to do.
        """
        try:
            key = (interpreter.path, interpreter.path.stat().st_mtime_ns)
        except OSError:
            key = (interpreter.path, 0)
        if key not in self._good:
            facts = ask_environment(interpreter.path, is_own=interpreter.is_own)
            obstacle = obstacle_in(facts, is_own=interpreter.is_own)
            if obstacle is not None:
                raise obstacle
            self._good[key] = facts
        return self._good[key]
