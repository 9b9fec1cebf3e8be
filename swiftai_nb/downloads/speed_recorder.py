"""Remembers how fast downloads are here, so that the next one's time can be told beforehand."""

from __future__ import annotations

import contextlib
import time

from swiftai_nb.downloads.download import Download
from swiftai_nb.downloads.progress import DownloadProgress
from swiftai_nb.registry.user_config import UserConfig

_WORTH_BYTES = 20_000_000
_WORTH_S = 3.0


class SpeedRecorder:
    """Measures one download from its first received byte to its last.

    Args:
        choices: where the speed is kept.
        download: what is measured; nothing is kept when too little came to say anything.
    """

    def __init__(self, choices: UserConfig, download: Download) -> None:
        self._choices = choices
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)
        download.subscribe(self._note)
        download.add_done_callback(self._keep)

    def _note(self, progress: DownloadProgress) -> None:
        if progress.phase == "downloading":
            self._last = (time.monotonic(), progress.completed_bytes)
            self._first = self._last if self._first is None else self._first

    def _keep(self) -> None:
        if self._first is None:
            return
        elapsed_s = self._last[0] - self._first[0]
        received_bytes = self._last[1] - self._first[1]
        if elapsed_s >= _WORTH_S and received_bytes >= _WORTH_BYTES:
            with contextlib.suppress(OSError):
                self._choices.record_speed(received_bytes / elapsed_s)
