"""The Python environment of DiffusionKit: finding, inspecting and running its interpreter."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import AIError, EngineDiedError, ProviderUnavailableError
from swiftai_nb.engine.kernel.client import CANCEL_GRACE_S, EngineClient
from swiftai_nb.engine.kernel.process import ProcessEngine, engine_environment
from swiftai_nb.guests.diffusionkit.probe import (
    INSTALL,
    MIN_PYTHON,
    EnvironmentFacts,
    broken_environment,
    facts_from_dict,
    find_obstacle,
)

PYTHON_VARIABLE = "SWIFTAI_DIFFUSIONKIT_PYTHON"
FOLDER_NAME = "diffusionkit"
PROBE_TIMEOUT_S = 60.0
_AGAIN = "use a smaller size or model; the next picture starts a fresh worker"
# The other interpreter must import this package but nothing else of the user's environment, whose packages
# were built for another Python: the package is registered by its folder, sys.path stays as it is. The code
# before the version check must run on every Python.
_BOOT = f"""
import sys
if sys.path and sys.path[0] == '': del sys.path[0]
folder, module = sys.argv[1:3]
if sys.version_info[:2] < {MIN_PYTHON}:
    version = '.'.join(map(str, sys.version_info[:3]))
    sys.stdout.write('{{"executable": "%s", "python": "%s"}}\\n' % (sys.executable, version))
    sys.exit(3)
import importlib, importlib.util, os
spec = importlib.util.spec_from_file_location(
    'swiftai_nb', os.path.join(folder, '__init__.py'), submodule_search_locations=[folder])
package = sys.modules['swiftai_nb'] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
importlib.import_module(module).main()
"""
_CHILD = "swiftai_nb.guests.diffusionkit.child.start"
_PROBE = "swiftai_nb.guests.diffusionkit.probe"


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
    """The interpreter to use; the environment variable is read at every call.

    Args:
        home: folder of the user's choices.

    Raises:
        ProviderUnavailableError: there is none.
    """
    chosen = os.environ.get(PYTHON_VARIABLE, "").strip()
    if chosen:
        path = Path(chosen).expanduser()
        path = interpreter_in(path) if path.is_dir() else path
        if not path.is_file():
            raise ProviderUnavailableError(
                f"{PYTHON_VARIABLE} is {chosen}, where there is no Python",
                hint=f"unset it, or give the python of an environment that has DiffusionKit ({INSTALL})",
            )
        return Interpreter(path.absolute(), is_own=False)
    folder = environment_folder(home)
    path = interpreter_in(folder)
    if path.is_file():
        return Interpreter(path, is_own=True)
    if folder.exists():
        raise ProviderUnavailableError(
            f"the DiffusionKit environment in {folder} is incomplete", hint=f"{INSTALL} --again"
        )
    raise ProviderUnavailableError("DiffusionKit is not installed", hint=f"{INSTALL}   (in a terminal)")


class CheckedInterpreters:
    """Inspected interpreters; only usable ones are remembered, so a repaired one is inspected again."""

    def __init__(self) -> None:
        self._good: dict[tuple[Path, int], EnvironmentFacts] = {}

    def facts(self, interpreter: Interpreter) -> EnvironmentFacts:
        """Versions of an interpreter's packages.

        Raises:
            ProviderUnavailableError: DiffusionKit cannot run there, with the reason.
        """
        try:
            key = (interpreter.path, interpreter.path.stat().st_mtime_ns)
        except OSError:
            key = (interpreter.path, 0)
        if key not in self._good:
            facts = inspect_environment(interpreter.path, is_own=interpreter.is_own)
            obstacle = find_obstacle(facts, is_own=interpreter.is_own)
            if obstacle is not None:
                raise obstacle
            self._good[key] = facts
        return self._good[key]


class _DiffusionKitEngine(ProcessEngine):
    """DiffusionKit's engine in a process of its own, under another interpreter.

    Args:
        python: that interpreter.

    Raises:
        GenerationFailedError: it cannot be started.
    """

    def __init__(self, python: Path) -> None:
        super().__init__(_command(python, _CHILD), environment=_environment(), name="the DiffusionKit worker")

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        return EngineDiedError(super().exit_error().message, hint=_AGAIN)


def diffusionkit_client(python: Path, *, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is DiffusionKit's."""
    return EngineClient(lambda: _DiffusionKitEngine(python), cancel_grace_s=cancel_grace_s)


def inspect_environment(python: Path, *, is_own: bool = False) -> EnvironmentFacts:
    """Versions and missing packages of an interpreter; takes a fraction of a second.

    Args:
        python: the interpreter.
        is_own: whether our installer made it.

    Raises:
        ProviderUnavailableError: it cannot be run, or is not a usable Python.
    """
    try:
        done = subprocess.run(
            _command(python, _PROBE),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise broken_environment(
            f"{python} did not answer within {PROBE_TIMEOUT_S:.0f} s", is_own=is_own
        ) from None
    except OSError as error:
        reason = error.strerror if error.strerror is not None else str(error)
        raise broken_environment(f"{python} cannot be run ({reason})", is_own=is_own) from None
    try:
        return facts_from_dict(json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1]))
    except (IndexError, ValueError, KeyError, TypeError):
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:200]}" if lines else ""
        raise broken_environment(f"{python} is not a usable Python{last}", is_own=is_own) from None


def _command(python: Path, module: str) -> list[str]:
    folder = Path(__file__).resolve().parents[2]
    return [str(python), "-E", "-u", "-c", _BOOT, str(folder), module]


def _environment() -> dict[str, str]:
    """An engine's variables without those that would point the other interpreter at this environment."""
    left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in engine_environment().items() if name not in left_out}
