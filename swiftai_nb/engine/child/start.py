"""What an engine does before its first command: MLX, a fast BLAS, the switches of the environment."""

from __future__ import annotations

import os
import time

from swiftai_nb.core.errors import UnsupportedPlatformError
from swiftai_nb.engine.child.model_host import ModelHost
from swiftai_nb.engine.protocol import Ready

_OFF = {"off", "0", "no", "false"}


def make_model_host(*, own_process: bool, started_s: float | None = None) -> ModelHost:
    """Prepares MLX in the calling thread and returns the host that computes with it.

    SWIFTAI_BLAS=off leaves MLX's own BLAS in place, SWIFTAI_FAST_MATH=off its own functions.

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
    from swiftai_nb.diffusion import allocator, blas, ops
    from swiftai_nb.diffusion.memory import MemoryPolicy

    ops.configure(fast=not _switched_off("SWIFTAI_FAST_MATH"))
    status = blas.install_fast_blas(enabled=not _switched_off("SWIFTAI_BLAS"))
    if ops.fast_paths_enabled():
        # The fast paths bring their own threads; a pool that spins beside them costs more than it gives.
        blas.set_threads(1)
    if own_process:
        MemoryPolicy.for_machine().apply()
        if ops.on_cpu():
            allocator.retain_freed_memory()
            if status.active and ops.fast_paths_enabled():
                blas.limit_numpy_threads(1)
    return ModelHost(
        Ready(
            pid=os.getpid(),
            device=_device(),
            blas=status.reason if status.library is None else status.library,
            versions=_versions(status.library),
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


def _versions(blas_library: str | None) -> dict[str, str]:
    import numpy as np

    from swiftai_nb._version import __version__

    versions = {"swiftai_nb": __version__, "mlx": _mlx_version(), "numpy": np.__version__}
    if blas_library is not None:
        versions["openblas"] = blas_library.removeprefix("OpenBLAS").strip()
    return versions


def _mlx_version() -> str:
    import mlx.core as mx

    return str(vars(mx)["__version__"])
