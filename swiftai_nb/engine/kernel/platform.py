"""Whether this machine can run the local engine, found out without importing MLX."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from swiftai_nb.core.errors import UnsupportedPlatformError


def local_engine_obstacle() -> UnsupportedPlatformError | None:
    """Why the local engine cannot run here, or None when it can."""
    spec = importlib.util.find_spec("mlx")
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
    """What MLX most probably computes on here: "metal", "cuda" or "cpu"."""
    if sys.platform == "darwin":
        return "metal"
    for name in ("mlx-cuda-12", "mlx-cuda-13", "mlx-cuda"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return "cuda"
    return "cpu"
