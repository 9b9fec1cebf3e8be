"""Starting DiffusionKit's worker, and asking an interpreter what it has."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from swiftai_nb.core.errors import AIError, EngineDiedError
from swiftai_nb.engine.kernel.client import CANCEL_GRACE_S, EngineClient
from swiftai_nb.engine.kernel.process import ProcessEngine
from swiftai_nb.guests.diffusionkit.probe import (
    MIN_PYTHON,
    EnvironmentFacts,
    broken,
    facts_from_dict,
)

PROBE_TIMEOUT_S = 60.0
_AGAIN = "a smaller size or a smaller model; the next picture starts a fresh worker"
# The other interpreter must find this package and nothing else of the user's environment, whose packages
# were built for another Python: the package is registered by its folder, sys.path stays as it is. What runs
# before the version is known must be understood by every Python.
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
_WORKER = "swiftai_nb.guests.diffusionkit.child.__main__"
_PROBE = "swiftai_nb.guests.diffusionkit.probe"


class DiffusionKitEngine(ProcessEngine):
    """The worker in a process of its own, under another interpreter.

    Args:
        python: that interpreter.

    Raises:
        GenerationFailedError: it cannot be started.
    """

    def __init__(self, python: Path) -> None:
        super().__init__(_command(python, _WORKER), environment=_environment())

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        error = super().exit_error()
        return EngineDiedError(error.message.replace("the engine", "the DiffusionKit worker"), hint=_AGAIN)


def diffusionkit_client(python: Path, *, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is DiffusionKit's worker."""
    return EngineClient(lambda: DiffusionKitEngine(python), cancel_grace_s=cancel_grace_s)


def ask_environment(python: Path, *, is_own: bool = False) -> EnvironmentFacts:
    """What an interpreter has; takes a fraction of a second.

    Args:
        python: the interpreter.
        is_own: see `environment.broken`.

    Raises:
        ProviderUnavailableError: it cannot be run, or is no Python.
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
        raise broken(f"{python} does not answer", is_own=is_own) from None
    except OSError as error:
        reason = error.strerror if error.strerror is not None else str(error)
        raise broken(f"{python} cannot be run ({reason})", is_own=is_own) from None
    try:
        return facts_from_dict(json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1]))
    except (IndexError, ValueError, KeyError, TypeError):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = f": {said[-1][:200]}" if said else ""
        raise broken(f"{python} is no usable Python{last}", is_own=is_own) from None


def _command(python: Path, module: str) -> list[str]:
    folder = Path(__file__).resolve().parents[2]
    return [str(python), "-E", "-u", "-c", _BOOT, str(folder), module]


def _environment() -> dict[str, str]:
    """This process's, without what would lead the other interpreter astray."""
    left_out = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    return {name: value for name, value in os.environ.items() if name not in left_out}
