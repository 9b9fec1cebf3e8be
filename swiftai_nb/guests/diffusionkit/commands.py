"""`python -m swiftai_nb diffusionkit`: installs, checks and removes the environment of DiffusionKit."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from swiftai_nb.core.child import copy_environment
from swiftai_nb.core.errors import (
    DownloadFailedError,
    InsufficientDiskSpaceError,
    InvalidInputError,
    UnsupportedPlatformError,
)
from swiftai_nb.core.format import format_bytes
from swiftai_nb.guests.diffusionkit.environment import (
    PYTHON_VARIABLE,
    CheckedInterpreters,
    environment_folder,
    find_interpreter,
    inspect_environment,
    interpreter_in,
)
from swiftai_nb.guests.diffusionkit.probe import (
    DIFFUSIONKIT_VERSION,
    INSTALL,
    EnvironmentFacts,
    broken_environment,
    find_obstacle,
)

USAGE = f"""diffusionkit: an environment for DiffusionKit, separate from yours

  install [--yes] [--dry-run] [--again] [--python PATH]
                              shows size and commands, asks, then installs
  check                       shows what is installed and whether it is usable
  remove [--yes]              deletes it

{PYTHON_VARIABLE} names the python of an environment of your own instead.
"""
_YES = {"y", "yes"}
# 0.38 GB measured on Linux with Python 3.11; not tried on a Mac.
DOWNLOAD_BYTES = 100_000_000
DISK_BYTES = 400_000_000
PINNED_MLX = "mlx==0.17.3"
_OLDEST, _NEWEST = (3, 10), (3, 12)  # DiffusionKit's mlx has wheels for macOS up to Python 3.12
# What its pipelines import; torch and argmaxtools are not among it, see child/compatibility.py.
_REQUIREMENTS = (
    *("transformers", "huggingface_hub", "sentencepiece", "protobuf", "safetensors"),
    *("numpy", "pillow", "regex", "beartype", "tqdm"),
)
Log = Callable[[str], None]


def run(argv: Sequence[str], out: TextIO, *, home: Path | None = None, answers: TextIO | None = None) -> int:
    """An environment for DiffusionKit (Stable Diffusion 3): install, check, remove.

    Args:
        argv: the arguments after `diffusionkit`.
        out: where to write.
        home: state folder; None is the usual one.
        answers: where the confirmation is read from; None is standard input.

    Returns:
        the exit status: 0 success, 1 declined.

    Raises:
        AIError: not understood, or the command failed.
    """
    options = _parser().parse_args(list(argv) or ["help"])
    home = _home() if home is None else home
    answers = sys.stdin if answers is None else answers
    if options.command == "install":
        return _install(options, out, answers, home)
    if options.command == "remove":
        return _remove(options, out, answers, home)
    if options.command == "check":
        return _check(out, home)
    out.write(USAGE)
    return 0


def _install(options: argparse.Namespace, out: TextIO, answers: TextIO, home: Path) -> int:
    plan = plan_installation(environment_folder(home), python=options.python)
    out.write(f"{plan}\n")
    if options.dry_run:
        return 0
    if not options.yes and not _confirmed("Install it?", out, answers):
        out.write("Nothing was installed.\n")
        return 1

    def log(line: str) -> None:
        out.write(f"{line}\n")
        out.flush()

    facts = install(plan, log, again=options.again)
    out.write(
        f"DiffusionKit is installed: {_versions(facts.versions)}. Try %%imagine --engine diffusionkit\n"
    )
    return 0


def _remove(options: argparse.Namespace, out: TextIO, answers: TextIO, home: Path) -> int:
    folder = environment_folder(home)
    if not folder.exists():
        raise InvalidInputError(f"there is no environment in {folder}", hint="nothing to remove")
    if not options.yes and not _confirmed(f"Delete {folder}?", out, answers):
        out.write("Nothing was deleted.\n")
        return 1
    shutil.rmtree(folder)
    out.write(f"{folder} was removed; models in the Hugging Face cache were kept.\n")
    return 0


def _check(out: TextIO, home: Path) -> int:
    interpreter = find_interpreter(home)
    facts = CheckedInterpreters().facts(interpreter)
    origin = "installed by this command" if interpreter.is_own else f"set by {PYTHON_VARIABLE}"
    out.write(f"ready: {_versions(facts.versions)} on Python {facts.python}, {interpreter.path} ({origin})\n")
    return 0


def _confirmed(question: str, out: TextIO, answers: TextIO) -> bool:
    out.write(f"{question} [y/N] ")
    out.flush()
    return answers.readline().strip().lower() in _YES


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _home() -> Path:
    from swiftai_nb.registry.user_config import state_dir

    return state_dir()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InvalidInputError(f"diffusionkit: {message}", hint=f"{INSTALL}, or check, or remove")


def _parser() -> _Parser:
    parser = _Parser(prog="diffusionkit", add_help=False)
    parser.add_argument("-h", "--help", dest="command", action="store_const", const="help")
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    for name in ("check", "help"):
        commands.add_parser(name, add_help=False)
    make = commands.add_parser("install", add_help=False)
    for option in ("--yes", "--dry-run", "--again"):
        make.add_argument(option, action="store_true")
    make.add_argument("--python")
    commands.add_parser("remove", add_help=False).add_argument("--yes", action="store_true")
    return parser


@dataclass(frozen=True)
class InstallPlan:
    """The steps of an installation.

    Attributes:
        folder: of the new environment.
        python: the interpreter it is created with.
        commands: to run, in order.
    """

    folder: Path
    python: Path
    commands: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        disk, download = format_bytes(DISK_BYTES), format_bytes(DOWNLOAD_BYTES)
        lines = [
            f"DiffusionKit {DIFFUSIONKIT_VERSION} in a separate environment:",
            f"  folder    {self.folder}",
            f"  size      about {disk} on disk, {download} to download",
            f"  python    {self.python}",
            *(f"  runs      {' '.join(command)}" for command in self.commands),
            "Your own environment is not changed. Models are downloaded separately, when you ask.",
        ]
        return "\n".join(lines)


def plan_installation(folder: Path, *, python: str | None = None) -> InstallPlan:
    """Chooses interpreter, packages and commands; changes nothing.

    Args:
        folder: of the new environment.
        python: interpreter to create it with; None finds one.

    Raises:
        UnsupportedPlatformError: no mlx exists for this system, or there is no fitting Python.
        InvalidInputError: `python` does not exist.
    """
    pins = mlx_requirement()
    chosen = _suitable_python(needs_old=pins == PINNED_MLX) if python is None else _existing_python(python)
    inside = str(interpreter_in(folder))
    pip = (inside, "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    return InstallPlan(
        folder,
        chosen,
        (
            (str(chosen), "-m", "venv", str(folder)),
            (*pip, pins, *_REQUIREMENTS),
            # Alone: its own list names torch, and on Linux an mlx that does not exist there.
            (*pip, "--no-deps", f"diffusionkit=={DIFFUSIONKIT_VERSION}"),
        ),
    )


def mlx_requirement() -> str:
    """The mlx to install: the version DiffusionKit pins where it exists, else a current one.

    Raises:
        UnsupportedPlatformError: there is none for this system.
    """
    machine = os.uname().machine if hasattr(os, "uname") else ""
    if sys.platform == "darwin" and machine == "arm64":
        return PINNED_MLX
    if sys.platform == "linux" and machine in ("x86_64", "aarch64"):
        return "mlx[cpu]"
    raise UnsupportedPlatformError(
        f"DiffusionKit needs MLX, which does not exist for {sys.platform} on {machine or 'this machine'}",
        hint="use the cloud: --engine cloud --model stabilityai/stable-diffusion-3-medium-diffusers",
    )


def install(plan: InstallPlan, log: Log, *, again: bool = False) -> EnvironmentFacts:
    """Runs the plan.

    Args:
        plan: from `plan_installation`.
        log: called with each line of output.
        again: replaces an existing environment.

    Raises:
        InvalidInputError: there is one, and `again` is False.
        InsufficientDiskSpaceError: the disk is full; nothing was downloaded.
        DownloadFailedError: a command failed; the unfinished environment is removed.
        ProviderUnavailableError: the installed environment is not usable.
    """
    if plan.folder.exists() and not again:
        raise InvalidInputError(f"{plan.folder} exists already", hint="add --again to replace it")
    _check_disk_space(plan.folder)
    if plan.folder.exists():
        shutil.rmtree(plan.folder)
    try:
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        for command in plan.commands:
            log(f"> {' '.join(command)}")
            _run_command(command, log)
    except BaseException:  # Ctrl-C too: no half environment is left
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise
    facts = inspect_environment(interpreter_in(plan.folder), is_own=True)
    obstacle = find_obstacle(facts, is_own=True)
    if obstacle is not None:
        raise broken_environment(obstacle.message, is_own=True)
    return facts


def _run_command(command: Sequence[str], log: Log) -> None:
    last = ""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=copy_environment(),
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise DownloadFailedError(
            f"{command[0]} cannot be run: {error}", hint="choose another --python"
        ) from error
    with process:
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                log(line.rstrip())
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        raise DownloadFailedError(
            f"installing DiffusionKit failed: {last[:200] or f'status {code}'}",
            hint="read the lines above; --python chooses another interpreter",
        )


def _check_disk_space(folder: Path) -> None:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < DISK_BYTES:
        raise InsufficientDiskSpaceError(
            f"{existing} has {format_bytes(free_bytes)} free, DiffusionKit needs {format_bytes(DISK_BYTES)}",
            hint="free disk space, or set SWIFTAI_HOME to another disk",
        )


def _existing_python(python: str) -> Path:
    found = shutil.which(python)
    if found is None:
        raise InvalidInputError(f"no Python {python!r}", hint="give the path of an interpreter")
    return Path(found)


def _suitable_python(*, needs_old: bool) -> Path:
    """This interpreter where it fits, else the newest on the path that does."""
    current = sys.version_info[:2]
    if current >= _OLDEST and (not needs_old or current <= _NEWEST):
        return Path(sys.executable)
    for minor in range(_NEWEST[1], _OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            return Path(found)
    raise UnsupportedPlatformError(
        f"DiffusionKit needs Python 3.10 to 3.12, this is {current[0]}.{current[1]} and no other was found",
        hint="install Python 3.12 and give it with --python",
    )
