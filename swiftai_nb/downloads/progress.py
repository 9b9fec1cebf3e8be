"""How far a download is, and how fast the last one was."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from swiftai_nb.core.format import format_bytes, format_remaining
from swiftai_nb.registry.user_config import UserConfig

_MIN_MEASURED_BYTES = 20_000_000
_MIN_MEASURED_S = 3.0


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Args:
        model_id: which model.
        phase: "starting", "asking the Hub", "checking", "waiting", "downloading", "retrying" or "done".
        completed_bytes: bytes on this disk, those of earlier runs included; never decreases.
        total_bytes: size of the whole model; 0 until the Hub has answered.
        bytes_per_s: mean over the last seconds; 0.0 while nothing is received.
        eta_s: seconds left at that speed; None while unknown.
        completed_files: finished files.
        total_files: all files.
        detail: more about the phase, such as the reason of a retry; may be empty.
    """

    model_id: str
    phase: str = "starting"
    completed_bytes: int = 0
    total_bytes: int = 0
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    completed_files: int = 0
    total_files: int = 0
    detail: str = ""

    @property
    def fraction_completed(self) -> float:
        """0.0 to 1.0; 1.0 only when all files are complete and verified."""
        if self.phase == "done":
            return 1.0
        return min(0.999, self.completed_bytes / self.total_bytes) if self.total_bytes else 0.0

    @property
    def percent_completed(self) -> int:
        """0 to 100, rounded down."""
        return int(self.fraction_completed * 100)

    def __str__(self) -> str:
        if self.phase == "done":
            return f"{self.model_id}: {format_bytes(self.total_bytes)}, complete"
        if not self.total_bytes:
            return f"{self.model_id}: {self.phase}"
        amount = f"{format_bytes(self.completed_bytes)} of {format_bytes(self.total_bytes)}"
        speed = f", {format_bytes(self.bytes_per_s)}/s" if self.bytes_per_s > 0 else ""
        left = f", {format_remaining(self.eta_s)}" if self.eta_s is not None else ""
        detail = "" if self.phase == "downloading" else f", {self.detail or self.phase}"
        return f"{self.model_id}: {self.percent_completed} % ({amount}{speed}{left}{detail})"


class SpeedRecorder:
    """Measures a download from its first received byte to its last, so that the next one can be estimated.

    Args:
        config: where the speed is kept.
    """

    def __init__(self, config: UserConfig) -> None:
        self._config = config
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def note(self, progress: DownloadProgress) -> None:
        """A report of the download."""
        if progress.phase == "downloading":
            self._last = (time.monotonic(), progress.completed_bytes)
            self._first = self._last if self._first is None else self._first

    def save(self) -> None:
        """Keeps the speed, unless too little was received to measure it."""
        if self._first is None:
            return
        elapsed_s = self._last[0] - self._first[0]
        received_bytes = self._last[1] - self._first[1]
        if elapsed_s >= _MIN_MEASURED_S and received_bytes >= _MIN_MEASURED_BYTES:
            with contextlib.suppress(OSError):
                self._config.record_speed(received_bytes / elapsed_s)
