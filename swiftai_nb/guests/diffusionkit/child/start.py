"""Starts the engine under DiffusionKit's interpreter; what may be missing is imported late."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from swiftai_nb.engine.child.start import serve_parent
from swiftai_nb.engine.messages import Ready
from swiftai_nb.guests.diffusionkit.child.compatibility import import_diffusionkit
from swiftai_nb.guests.diffusionkit.probe import (
    broken_environment,
    find_obstacle,
    inspect_this_interpreter,
)

if TYPE_CHECKING:
    from swiftai_nb.guests.diffusionkit.child.host import DiffusionKitHost


def main() -> None:
    """Serves the kernel that started this process until it is gone."""
    serve_parent(make_host)


def make_host(started_s: float) -> DiffusionKitHost:
    """Prepares DiffusionKit in the calling thread.

    Args:
        started_s: when the start began, on `time.monotonic`.

    Raises:
        ProviderUnavailableError: DiffusionKit is missing, of another version, or broken.
    """
    facts = inspect_this_interpreter()
    obstacle = find_obstacle(facts)
    if obstacle is not None:
        raise obstacle
    try:
        dk = import_diffusionkit()
    except Exception as error:
        raise broken_environment(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    import mlx.core as mx

    from swiftai_nb._version import __version__
    from swiftai_nb.guests.diffusionkit.child.host import DiffusionKitHost

    device = "cpu" if mx.default_device() == mx.cpu else "metal" if mx.metal.is_available() else "cuda"
    versions = {"swiftai_nb": __version__, **facts.versions}
    ready = Ready(
        pid=os.getpid(),
        device=device,
        versions=versions,
        start_s=time.monotonic() - started_s,
    )
    return DiffusionKitHost(dk, ready)
