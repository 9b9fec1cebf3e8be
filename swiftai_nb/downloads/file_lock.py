"""A lock between processes that the system releases when its holder dies.

It is the same kind of lock (flock on POSIX) that huggingface_hub takes on `.locks/<repo>/<etag>.lock`,
so the two keep out of each other's way. Windows was not tried.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

_POLL_S = 0.05
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}


class FileLock:
    """Held between `acquire` and `release`, or inside `with`.

    Args:
        path: the lock's file; made when missing and left in place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Takes the lock if it is free; says whether it did."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(fd)
        except OSError as error:
            if error.errno in _HELD:
                os.close(fd)
                return False
            # This file system has no locks: two writers would repeat work, but waiting would never end.
        self._fd = fd
        return True

    def acquire(self, *, on_wait: Callable[[], None] | None = None, poll_s: float = _POLL_S) -> None:
        """Waits for the lock unless it is held already; calls `on_wait` before every further try."""
        while self._fd is None and not self.try_acquire():
            if on_wait is not None:
                on_wait()
            time.sleep(poll_s)

    def release(self) -> None:
        """Gives the lock back; harmless when it is not held."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock of this file now; a missing file is nobody's."""
    if not path.exists():
        return False
    lock = FileLock(path)
    if lock.try_acquire():
        lock.release()
        return False
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
