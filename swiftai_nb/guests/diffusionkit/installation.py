"""Making an environment for DiffusionKit, beside the user's own and never inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import (
    DownloadFailedError,
    InsufficientDiskSpaceError,
    InvalidInputError,
    UnsupportedPlatformError,
)
from swiftai_nb.guests.diffusionkit.environment import interpreter_in
from swiftai_nb.guests.diffusionkit.probe import (
    DIFFUSIONKIT_VERSION,
    EnvironmentFacts,
    broken,
    obstacle_in,
)
from swiftai_nb.guests.diffusionkit.process import ask_environment

# 0.38 GB measured on Linux with Python 3.11; on a Mac it was not tried.
DOWNLOAD_BYTES = 100_000_000
DISK_BYTES = 400_000_000
PINNED_MLX = "mlx==0.17.3"
_OLDEST, _NEWEST = (3, 10), (3, 12)  # DiffusionKit's mlx has wheels for macOS up to Python 3.12
# What its pipelines import; torch and argmaxtools are not among it (see engine.diffusionkit.compatibility).
_REQUIREMENTS = (
    *("transformers", "huggingface_hub", "sentencepiece", "protobuf", "safetensors"),
    *("numpy", "pillow", "regex", "beartype", "tqdm"),
)
Say = Callable[[str], None]


@dataclass(frozen=True)
class InstallPlan:
    """What will be done, before it is.

    Attributes:
        folder: of the new environment.
        python: the interpreter it is made with.
        commands: to run, in order.
    """

    folder: Path
    python: Path
    commands: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [
            f"DiffusionKit {DIFFUSIONKIT_VERSION} in an environment of its own:",
            f"  folder    {self.folder}",
            f"  size      about {DISK_BYTES / 1e9:.1f} GB on disk, {DOWNLOAD_BYTES / 1e9:.1f} GB to download",
            f"  python    {self.python}",
            *(f"  runs      {' '.join(command)}" for command in self.commands),
            "Your own environment is not touched. Models are downloaded separately, when you ask for them.",
        ]
        return "\n".join(lines)


def plan_installation(folder: Path, *, python: str | None = None) -> InstallPlan:
    """What installing would do.

    Args:
        folder: of the new environment.
        python: interpreter to make it with; None finds one.

    Raises:
        UnsupportedPlatformError: no mlx exists for this system, or there is no fitting Python.
        InvalidInputError: `python` is none.
    """
    pins = mlx_requirement()
    chosen = _find_python(needs_old=pins == PINNED_MLX) if python is None else _given(python)
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
    """The mlx to install here: the one DiffusionKit pins where it exists, else a current one.

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


def install(plan: InstallPlan, say: Say, *, again: bool = False) -> EnvironmentFacts:
    """Does what the plan says.

    Args:
        plan: see `plan_installation`.
        say: told each line of what runs.
        again: replaces an environment that is there.

    Raises:
        InvalidInputError: there is one already.
        InsufficientDiskSpaceError: the disk has no room; nothing was fetched.
        DownloadFailedError: a command failed; the unfinished environment is removed.
        ProviderUnavailableError: what was installed cannot be used.
    """
    if plan.folder.exists() and not again:
        raise InvalidInputError(f"{plan.folder} is there already", hint="add --again to make it anew")
    _check_room(plan.folder)
    if plan.folder.exists():
        shutil.rmtree(plan.folder)
    try:
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        for command in plan.commands:
            say(f"> {' '.join(command)}")
            _run(command, say)
    except BaseException:  # Ctrl-C too: half an environment would only puzzle
        shutil.rmtree(plan.folder, ignore_errors=True)
        raise
    facts = ask_environment(interpreter_in(plan.folder), is_own=True)
    obstacle = obstacle_in(facts, is_own=True)
    if obstacle is not None:
        raise broken(obstacle.message, is_own=True)
    return facts


def _run(command: Sequence[str], say: Say) -> None:
    last = ""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
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
                say(line.rstrip())
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code != 0:
        raise DownloadFailedError(
            f"installing DiffusionKit failed: {last[:200] or f'status {code}'}",
            hint="read the lines above; --python chooses another interpreter",
        )


def _check_room(folder: Path) -> None:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < DISK_BYTES:
        raise InsufficientDiskSpaceError(
            f"{existing} has {free_bytes / 1e9:.1f} GB free, DiffusionKit needs {DISK_BYTES / 1e9:.1f} GB",
            hint="free some room, or set SWIFTAI_HOME to another disk",
        )


def _given(python: str) -> Path:
    found = shutil.which(python)
    if found is None:
        raise InvalidInputError(f"there is no Python {python!r}", hint="give the path of an interpreter")
    return Path(found)


def _find_python(*, needs_old: bool) -> Path:
    """This interpreter where it fits, else the newest on the path that does."""
    here = sys.version_info[:2]
    if here >= _OLDEST and (not needs_old or here <= _NEWEST):
        return Path(sys.executable)
    for minor in range(_NEWEST[1], _OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found is not None:
            return Path(found)
    raise UnsupportedPlatformError(
        f"DiffusionKit needs Python 3.10 to 3.12, this is {here[0]}.{here[1]} and there is no other",
        hint="install Python 3.12 and give it with --python",
    )
