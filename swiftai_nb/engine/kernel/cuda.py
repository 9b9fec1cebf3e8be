"""MLX for NVIDIA GPUs in a folder of its own, beside the environment's MLX for the CPU.

`mlx-cpu` and `mlx-cuda-*` own the same files, so one environment cannot hold both, and no extra of a package
can take away the back end that its base installation brings. The engine is a process of its own: it imports
MLX with CUDA from a folder that nothing else imports from, and only where NVIDIA's driver is. An upgrade of
the environment does not touch it; without a driver the engine computes on the CPU as before.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TextIO

from swiftai_nb.core.errors import InvalidInputError, UnsupportedPlatformError

VERSIONS = ("12", "13")
# The first drivers for CUDA 13; older ones run CUDA 12 (NVIDIA, CUDA Toolkit release notes, table 2).
_DRIVER_OF_CUDA_13 = 580
_NEEDED_BYTES = 8 * 10**9
_USAGE = """\
python -m swiftai_nb cuda                  is MLX for NVIDIA GPUs installed, and is it used?
python -m swiftai_nb cuda install [12|13]  install it for the engine; by default for the driver's version
python -m swiftai_nb cuda remove           compute on the CPU again
"""


def cuda_folder() -> Path:
    """Where MLX for NVIDIA GPUs is or would be: inside the environment, removed with it."""
    return Path(sys.prefix) / "share" / "swiftai_nb" / "mlx-cuda"


def engine_packages() -> list[str]:
    """Folders that the engine's process imports from first: that of MLX with CUDA, where a driver is."""
    return [str(cuda_folder())] if is_installed() and has_driver() else []


def is_installed() -> bool:
    """Whether `install` has run in this environment."""
    return (cuda_folder() / "mlx").is_dir()


@lru_cache(maxsize=1)
def has_driver() -> bool:
    """Whether NVIDIA's driver is on this machine: MLX with CUDA cannot be imported without it."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def driver_version() -> str | None:
    """Of NVIDIA's driver, such as "580.65.06"; None where nvidia-smi does not tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"[0-9.]+", result.stdout)
    return None if found is None else found[0]


def install(version: str | None, out: TextIO) -> None:
    """Installs MLX with CUDA, of the version of the environment's MLX, in `cuda_folder`.

    Args:
        version: "12" or "13"; None is what the driver supports.
        out: for pip's output.

    Raises:
        UnsupportedPlatformError: no wheels for this system, or no installer.
        InvalidInputError: another version, too little disk space, or pip failed.
    """
    version = _supported_version() if version is None else version
    if version not in VERSIONS:
        raise InvalidInputError(f"there is no MLX for CUDA {version}", hint="install 12 or 13")
    if sys.platform == "win32" and version == "12":
        raise UnsupportedPlatformError("MLX for CUDA 12 has no wheel for Windows", hint="install 13")
    if sys.platform not in ("linux", "win32"):
        raise UnsupportedPlatformError("MLX with CUDA exists for Linux and Windows only")
    folder = cuda_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < _NEEDED_BYTES:
        raise InvalidInputError(
            f"MLX with CUDA needs about {_NEEDED_BYTES / 1e9:.0f} GB while it is installed, "
            f"and {free / 1e9:.1f} GB are free",
            hint="free disk space",
        )
    mlx_version = metadata.version("mlx")
    target = folder.with_name(f".{folder.name}-new")
    shutil.rmtree(target, ignore_errors=True)
    packages = [f"mlx=={mlx_version}", f"mlx-cuda-{version}=={mlx_version}"]
    try:
        command = [*_installer(), "--target", str(target), *packages]
        if subprocess.run(command, stdout=out, stderr=out, check=False).returncode != 0:
            raise InvalidInputError("the installation failed", hint="see the output above")
        remove()
        target.replace(folder)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def remove() -> None:
    """Removes MLX with CUDA; nothing happens when it is not installed."""
    if cuda_folder().exists():
        shutil.rmtree(cuda_folder())


def run(words: list[str], out: TextIO) -> int:
    """The command `cuda`; returns the exit status."""
    if words[:1] == ["install"] and len(words) <= 2:
        install(words[1] if len(words) == 2 else None, out)
    elif words == ["remove"]:
        remove()
    elif words:
        out.write(_USAGE)
        return 0 if words in (["help"], ["--help"], ["-h"]) else 2
    state = "installed" if is_installed() else "not installed"
    driver = "found" if has_driver() else "not found"
    device = "NVIDIA GPU" if engine_packages() else "environment's MLX"
    out.write(f"MLX for NVIDIA GPUs: {state}\nNVIDIA driver: {driver}\nthe engine uses the {device}\n")
    return 0


def _supported_version() -> str:
    version = driver_version()
    if version is None:
        raise UnsupportedPlatformError(
            "no NVIDIA driver was found: nvidia-smi does not run",
            hint="install the driver; or name the version: cuda install 13",
        )
    return "13" if int(version.split(".")[0]) >= _DRIVER_OF_CUDA_13 or sys.platform == "win32" else "12"


def _installer() -> list[str]:
    """The command that installs packages for this interpreter."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    uv = shutil.which("uv")
    if uv is None:
        raise UnsupportedPlatformError("neither pip nor uv was found", hint="python -m ensurepip")
    return [uv, "pip", "install", "--python", sys.executable]
