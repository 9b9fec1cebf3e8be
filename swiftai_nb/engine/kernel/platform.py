"""Whether this machine can run the local engine, on which device and with how much memory, without MLX.

MLX comes as a package of Python bindings and one back end: `mlx-metal`, `mlx-cpu`, `mlx-cuda-12` or
`mlx-cuda-13`. The last three own the same file, `mlx/lib/libmlx.so`: in one environment the one that was
installed last is used.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

from swiftai_nb.core.child import find_child_module
from swiftai_nb.core.cpu_kernels import resolve_precision
from swiftai_nb.core.errors import UnsupportedPlatformError
from swiftai_nb.core.machine import GIB, MIB, MemoryPolicy, installed_memory_bytes, machine_memory_bytes
from swiftai_nb.engine.kernel.cuda import engine_packages

BACK_ENDS = ("mlx-metal", "mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-cuda")
_QUERY_TIMEOUT_S = 5.0
# Metal recommends two thirds of the memory up to 32 GiB, three quarters above
# (`recommendedMaxWorkingSetSize` of machines with 8 to 64 GiB).
_SMALL_MAC_BYTES = 32 * GIB


def local_engine_obstacle() -> UnsupportedPlatformError | None:
    """Why the local engine cannot run on this machine, or None when it can.

    MLX is searched where the engine's process would find it, not beside the notebook.
    """
    spec = find_child_module("mlx")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if any(found for folder in folders for found in Path(folder).glob("core*")):
        return None
    if is_translated():
        return UnsupportedPlatformError(
            "this Python is built for Intel processors and runs translated on Apple silicon; MLX needs an "
            "arm64 one",
            hint="install an arm64 build of Python and make the environment again",
        )
    command = _mlx_command()
    if command is not None:
        return UnsupportedPlatformError("MLX is not installed", hint=f"{command}, or use the cloud")
    system = f"{platform.system() or sys.platform} on {platform.machine()}"
    return UnsupportedPlatformError(
        f"the local engine needs MLX, which does not exist for {system}",
        hint="use the cloud engine: set HF_TOKEN and choose --engine cloud",
    )


def is_translated() -> bool:
    """Whether this is an Intel build of Python under Rosetta."""
    return (
        sys.platform == "darwin"
        and platform.machine() == "x86_64"
        and "ARM64" in getattr(os, "uname", platform.uname)().version
    )


def _mlx_command() -> str | None:
    """Installs MLX here; None where it has no wheel."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return "pip install mlx (macOS 14 or newer)" if machine == "arm64" else None
    has_cpu_wheel = (sys.platform == "linux" and machine in ("x86_64", "aarch64")) or (
        sys.platform == "win32" and machine in ("amd64", "x86_64", "arm64")
    )
    return "pip install mlx mlx-cpu" if has_cpu_wheel else None


def installed_back_ends() -> dict[str, str]:
    """Package -> version of MLX's back ends in this environment."""
    found = {}
    for name in BACK_ENDS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def back_end_conflict() -> str | None:
    """The commands that leave one back end where there are two; None where there is one at most."""
    found = [name for name in installed_back_ends() if name != "mlx-metal"]
    wanted = next((name for name in found if "cuda" in name), None)
    others = [name for name in found if name != wanted]
    if wanted is None or not others:
        return None
    return (
        f"pip uninstall -y {' '.join(others)} && "
        f"pip install --force-reinstall --no-deps {wanted}=={installed_back_ends()[wanted]}"
    )


def expected_device() -> str:
    """The device MLX is expected to compute on: "metal", "cuda" or "cpu".

    MLX with CUDA in a folder of its own (`engine.kernel.cuda`) comes first. With two back ends in one
    environment the library's size tells which one was installed last.
    """
    if sys.platform == "darwin":
        return "metal"
    if engine_packages():
        return "cuda"
    names = [name for name in installed_back_ends() if "cuda" in name]
    if not names:
        return "cpu"
    return "cuda" if "mlx-cpu" not in installed_back_ends() or _owns_library(names[0]) else "cpu"


def _owns_library(name: str) -> bool:
    """Whether the shared library on the disk is the one of this package, by the size its RECORD gives."""
    for file in metadata.files(name) or ():
        if file.name in ("libmlx.so", "mlx.dll"):
            try:
                return Path(str(file.locate())).stat().st_size == file.size
            except OSError:
                return False
    return True


def compute_dtype(device: str, precision: str | None, *, is_flow: bool) -> str:
    """What the networks of a model compute in.

    Args:
        device: "metal", "cuda" or "cpu".
        precision: one of `cpu_kernels.PRECISIONS`; None is "auto".
        is_flow: whether it is a flow model.
    """
    if device == "cpu":
        return resolve_precision(precision)
    usual = "bfloat16" if is_flow else "float16"
    return usual if precision is None or precision == "auto" else precision


def device_memory_bytes(device: str) -> int | None:
    """Memory of the device before an engine has reported it; None on a CPU or where it is unknown."""
    if device == "metal":
        total = installed_memory_bytes()
        return None if total is None else _metal_working_set(total)
    return _video_memory_bytes() if device == "cuda" else None


def _metal_working_set(total_bytes: int) -> int:
    return total_bytes * 2 // 3 if total_bytes <= _SMALL_MAC_BYTES else total_bytes * 3 // 4


@lru_cache(maxsize=1)
def _video_memory_bytes() -> int | None:
    """Free memory of the first NVIDIA GPU that CUDA may use, as nvidia-smi reports it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    chosen = ["-i", visible] if visible else []
    command = [program, *chosen, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True)
        return int(result.stdout.splitlines()[0]) * MIB
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def memory_policy(device: str) -> MemoryPolicy:
    """The policy that an engine on this device will have."""
    if device == "cpu":
        return MemoryPolicy.for_machine()
    total = device_memory_bytes(device)
    machine = machine_memory_bytes()
    if device == "metal" and total is not None and machine is not None:
        total = min(total, machine)
    return MemoryPolicy.for_machine(total, on_gpu=True)
