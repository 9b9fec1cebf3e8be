"""What is wrong with an installation of MLX, and the report that a user can paste into an issue."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from swiftai_nb._version import __version__
from swiftai_nb.core.child import ChildProcess, python_command
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.machine import installed_memory_bytes, usable_cpus
from swiftai_nb.engine.kernel import cuda
from swiftai_nb.engine.kernel.platform import (
    back_end_conflict,
    expected_device,
    installed_back_ends,
    is_translated,
    local_engine_obstacle,
)
from swiftai_nb.engine.kernel.process import engine_environment


def installation_findings() -> Iterator[tuple[str, str, str]]:
    """What keeps MLX from the device it could use: (topic, what was found, what to do about it)."""
    conflict = back_end_conflict()
    if conflict is not None:
        names = " and ".join(name for name in installed_back_ends() if name != "mlx-metal")
        yield "MLX", f"{names} own the same files; the one installed last is used", conflict
    if cuda.is_installed() and not cuda.has_driver():
        yield "NVIDIA", "MLX with CUDA is installed, but no driver was found", "install NVIDIA's driver"
    elif cuda.has_driver() and expected_device() == "cpu":
        yield "NVIDIA", "a driver was found, but MLX computes on the CPU", "python -m swiftai_nb cuda install"


def write_report(out: TextIO) -> int:
    """Writes versions, device, precision and speed as Markdown, without names of folders or of the machine.

    Returns:
        0 when every check is as expected, else 1.
    """
    memory = installed_memory_bytes()
    back_ends = ", ".join(f"{name} {version}" for name, version in installed_back_ends().items())
    rows = [
        (
            "swiftai_nb",
            f"{__version__}, Python {platform.python_version()}, {platform.python_implementation()}",
        ),
        ("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {platform.platform()}"),
        ("processors, memory", f"{usable_cpus()}, {'unknown' if memory is None else format_bytes(memory)}"),
        ("MLX's back ends", f"{back_ends or 'none'}; expected device {expected_device()}"),
    ]
    if platform.system() == "Darwin":
        rows.append(
            ("macOS", f"{platform.mac_ver()[0]}{', translated by Rosetta' if is_translated() else ''}")
        )
    if cuda.has_driver():
        rows.append(("NVIDIA", f"driver {cuda.driver_version()}, own folder {cuda.is_installed()}"))
    rows += [(topic, f"{text}. Try: `{remedy}`") for topic, text, remedy in installation_findings()]
    out.write("| check | result | verdict |\n|---|---|---|\n")
    out.writelines(f"| {check} | {result} |  |\n" for check, result in rows)
    obstacle = local_engine_obstacle()
    if obstacle is not None:
        out.write(f"| local engine | {obstacle.message} | **not as expected** |\n")
        return 1
    command = python_command("swiftai_nb.engine.child.self_check", first=cuda.engine_packages())
    is_fine = True
    with ChildProcess(command, name="the check", environment=engine_environment()) as child:
        for line in child.lines():
            is_fine = is_fine and "**not as expected**" not in line
            out.write(f"{_without_folders(line)}\n")
            out.flush()
        exit_ = child.describe_exit()
    if exit_.signal_name is not None or child.return_code != 0:
        out.write(f"| the check | {_without_folders(exit_.message)} | **not as expected** |\n")
        return 1
    return 0 if is_fine else 1


def _without_folders(text: str) -> str:
    """Paths begin with the user's name: the user's and the environment's folders are left out."""
    for folder, name in ((str(Path.home()), "~"), (sys.prefix, "ENVIRONMENT")):
        if len(folder) > 1:
            text = text.replace(folder, name)
    return re.sub(r"(?:/[^/\s|]+){2,}/", "…/", text)
