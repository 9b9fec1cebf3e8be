"""Whether this machine can run the local engine, and on which device, without importing MLX."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

from swiftai_nb.core.child import find_child_module
from swiftai_nb.core.errors import UnsupportedPlatformError


def local_engine_obstacle() -> UnsupportedPlatformError | None:
    """Why the local engine cannot run on this machine, or None when it can.

    MLX is searched where the engine's process would find it, not beside the notebook.
    """
    spec = find_child_module("mlx")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    if any(found for folder in folders for found in Path(folder).glob("core*")):
        return None
    system = f"{platform.system() or sys.platform} on {platform.machine()}"
    has_wheel = (sys.platform == "darwin" and platform.machine() == "arm64") or (
        sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    )
    if has_wheel:
        return UnsupportedPlatformError(
            "MLX is not installed", hint='pip install "mlx[cpu]", or use the cloud'
        )
    return UnsupportedPlatformError(
        f"the local engine needs MLX, which does not exist for {system}",
        hint="use the cloud engine: set HF_TOKEN and choose --engine cloud",
    )


def expected_device() -> str:
    """The device MLX is expected to compute on: "metal", "cuda" or "cpu"."""
    if sys.platform == "darwin":
        return "metal"
    for name in ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return "cuda"
    return "cpu"
