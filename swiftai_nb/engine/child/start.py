"""What an engine does before its first command: MLX, NumPy's threads, the switches of the environment."""

from __future__ import annotations

import os
import time

from swiftai_nb.core.errors import UnsupportedPlatformError
from swiftai_nb.engine.child.model_host import ModelHost
from swiftai_nb.engine.protocol import Ready

_OFF = {"off", "0", "no", "false"}


def make_model_host(*, own_process: bool, started_s: float | None = None) -> ModelHost:
    """Prepares MLX in the calling thread and returns the host that computes with it.

    SWIFTAI_FAST_MATH=off computes with MLX's own functions only, on the CPU too.

    Args:
        own_process: whether this process belongs to the engine, so that its thread pools may be set.
        started_s: when the start began, on `time.monotonic`.

    Raises:
        UnsupportedPlatformError: MLX cannot be imported here.
    """
    began_s = time.monotonic() if started_s is None else started_s
    try:
        import mlx.core  # noqa: F401
    except ImportError as error:
        raise UnsupportedPlatformError(
            f"MLX cannot be loaded: {error}", hint="reinstall it: pip install --force-reinstall mlx"
        ) from error
    from swiftai_nb.diffusion import allocator, ops
    from swiftai_nb.diffusion.cpu.workers import limit_numpy_threads
    from swiftai_nb.diffusion.memory import MemoryPolicy

    ops.configure(fast=not _switched_off("SWIFTAI_FAST_MATH"))
    if own_process:
        MemoryPolicy.for_machine().apply()
        if ops.on_cpu():
            allocator.retain_freed_memory()
            if ops.fast_paths_enabled():
                limit_numpy_threads(1)
    return ModelHost(
        Ready(
            pid=os.getpid(),
            device=_device(),
            versions=_versions(),
            start_s=time.monotonic() - began_s,
        )
    )


def _switched_off(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in _OFF


def _device() -> str:
    import mlx.core as mx

    if mx.default_device() == mx.cpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def _versions() -> dict[str, str]:
    import numpy as np

    from swiftai_nb._version import __version__

    return {"swiftai_nb": __version__, "mlx": _mlx_version(), "numpy": np.__version__}


def _mlx_version() -> str:
    import mlx.core as mx

    return str(vars(mx)["__version__"])
