"""Starts the engine's process: standard streams, settings, exit; and prepares the MLX engine.

Also imported by interpreters without MLX, which is imported when the host is created.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from swiftai_nb.core.child import claim_standard_streams, exit_with_parent
from swiftai_nb.core.errors import UnsupportedPlatformError
from swiftai_nb.engine.channel import StreamChannel
from swiftai_nb.engine.child.serve import EngineHost, serve
from swiftai_nb.engine.messages import Ready

if TYPE_CHECKING:
    from swiftai_nb.engine.child.model_host import ModelHost

_NICENESS = 3  # keeps the kernel and the browser responsive beside a computing engine
_OFF = {"off", "0", "no", "false"}


def main() -> None:
    """Runs the MLX engine for the kernel that started this process, until the kernel has ended."""
    serve_parent(lambda started_s: make_model_host(own_process=True, started_s=started_s))


def serve_parent(make_host: Callable[[float], EngineHost]) -> None:
    """Serves the parent process over standard input and output until it has ended.

    Args:
        make_host: creates the host; called with the time at which the start began, on `time.monotonic`.
    """
    started_s = time.monotonic()
    reader, writer = claim_standard_streams()
    exit_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    serve(
        StreamChannel(os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb", buffering=0)),
        lambda: make_host(started_s),
        on_disconnect=_exit,
    )
    sys.stderr.flush()
    _exit()


def make_model_host(*, own_process: bool, started_s: float | None = None) -> ModelHost:
    """Prepares MLX in the calling thread and returns the host that computes with it.

    SWIFTAI_FAST_MATH=off computes with MLX's own functions instead of the CPU fast paths.

    Args:
        own_process: whether this process belongs to the engine, so that its allocator may be set.
        started_s: when the start began, on `time.monotonic`; None is now.

    Raises:
        UnsupportedPlatformError: MLX cannot be imported.
    """
    started_s = time.monotonic() if started_s is None else started_s
    try:
        import mlx.core as mx
    except ImportError as error:
        raise UnsupportedPlatformError(
            f"MLX cannot be loaded: {error}", hint="reinstall it: pip install --force-reinstall mlx"
        ) from error
    import numpy as np

    from swiftai_nb._version import __version__
    from swiftai_nb.diffusion import gpu, ops
    from swiftai_nb.diffusion.memory import apply_memory_limits, retain_freed_memory
    from swiftai_nb.engine.child.model_host import ModelHost

    ops.configure(fast=os.environ.get("SWIFTAI_FAST_MATH", "").strip().lower() not in _OFF)
    device = gpu.device()
    keeps_freed_memory = False
    if own_process:
        apply_memory_limits(gpu.memory_policy())
        keeps_freed_memory = device == "cpu" and retain_freed_memory()
    versions = {"swiftai_nb": __version__, "mlx": str(vars(mx)["__version__"]), "numpy": np.__version__}
    return ModelHost(
        Ready(
            pid=os.getpid(),
            device=device,
            versions=versions,
            start_s=time.monotonic() - started_s,
            device_memory_bytes=gpu.usable_memory_bytes(),
        ),
        keeps_freed_memory=keeps_freed_memory,
    )


def _exit() -> None:
    # No interpreter shutdown: a computation may be running, and there is nothing to save.
    os._exit(0)
