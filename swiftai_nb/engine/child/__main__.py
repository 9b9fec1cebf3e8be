"""The engine's process: `python -m swiftai_nb.engine.child`, with frames on standard input and output."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swiftai_nb.engine.child.serve import EngineHost

_NICENESS = 3  # the kernel and the browser stay lively beside a computing engine
_ORPHAN_CHECK_S = 1.0


def main() -> None:
    """Serves the kernel that started this process until it is gone, with our own engine."""
    serve_parent(_make_own_host)


def _make_own_host(started_s: float) -> EngineHost:
    from swiftai_nb.engine.child.start import make_model_host

    return make_model_host(own_process=True, started_s=started_s)


def serve_parent(make_host: Callable[[float], EngineHost]) -> None:
    """Serves the parent process over standard input and output until it is gone.

    Args:
        make_host: makes what computes; given when the start began, on `time.monotonic`.
    """
    started_s = time.monotonic()
    from swiftai_nb.engine.channel import StreamChannel

    reader, writer = _take_streams()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    from swiftai_nb.engine.child.serve import serve

    serve(
        StreamChannel(os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb", buffering=0)),
        lambda: make_host(started_s),
        on_disconnect=_leave,
    )
    sys.stderr.flush()
    _leave()


def _take_streams() -> tuple[int, int]:
    """Keeps 0 and 1 for frames alone: whatever a library prints goes to standard error."""
    reader, writer = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return reader, writer


def _end_with_parent(parent: int) -> None:
    """Ends the process when its parent is gone.

    The closed pipe says so at once; this is for a pipe that another child of the kernel holds open.
    (Linux's parent-death signal would fire when the *thread* that started us ends: of no use here.)
    """
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_S)
    _leave()


def _leave() -> None:
    # No interpreter shutdown: a computation may be running, and nothing here needs saving.
    os._exit(0)


if __name__ == "__main__":
    main()
