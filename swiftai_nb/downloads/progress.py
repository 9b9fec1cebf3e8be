"""How far a download is, and the clockwork that measures it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from swiftai_nb.registry.model_info import format_bytes

_WINDOW_S = 8.0
_QUIET_S = 0.3


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Args:
        model_id: which model.
        phase: "starting", "asking the Hub", "checking", "waiting", "downloading", "retrying" or "done".
        completed_bytes: on this disk, those of earlier runs included; never goes down.
        total_bytes: the whole model; 0 while the Hub was not asked yet.
        bytes_per_s: mean over the last seconds; 0.0 while nothing came.
        eta_s: seconds left at that speed; None while unknown.
        completed_files: finished files.
        total_files: all files.
        detail: a few words more, such as the reason of a retry; may be empty.
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
        """0.0 to 1.0; 1.0 only when everything is here and verified."""
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
        left = f", {format_duration(self.eta_s)} left" if self.eta_s is not None else ""
        why = "" if self.phase == "downloading" else f", {self.detail or self.phase}"
        return f"{self.model_id}: {self.percent_completed} % ({amount}{speed}{left}{why})"


def format_duration(seconds: float) -> str:
    """In words: "45 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class ProgressMeter:
    """Adds up bytes from several threads; says speed and time left. Never goes backwards.

    A file may have to start again (its bytes were wrong); the sum shown then stands still until it is
    overtaken.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes_of: dict[str, int] = {}
        self._finished: set[str] = set()
        self._shown_bytes = 0
        self._samples: deque[tuple[float, int]] = deque()
        self._received_bytes = 0
        self.total_bytes = 0
        self.total_files = 0
        self._phase = ("starting", "")
        self._retry = ("", 0.0)
        self._received_at_s = 0.0

    def set_phase(self, phase: str, detail: str = "") -> None:
        """Says what is being done now."""
        with self._lock:
            self._phase = (phase, detail)

    def set_retry(self, detail: str, pause_s: float) -> None:
        """A file pauses before another try; shown unless the bytes of other files keep coming."""
        with self._lock:
            self._retry = (detail, time.monotonic() + pause_s)
            self._phase = ("retrying", detail)

    def set_bytes(self, path: str, size_bytes: int, *, is_finished: bool = False) -> None:
        """`size_bytes` of a file are here (not counted as received: they may be from earlier)."""
        with self._lock:
            self._bytes_of[path] = size_bytes
            if is_finished:
                self._finished.add(path)

    def add_received(self, path: str, size_bytes: int) -> None:
        """`size_bytes` of a file just came over the network."""
        with self._lock:
            self._bytes_of[path] = self._bytes_of.get(path, 0) + size_bytes
            self._received_bytes += size_bytes
            self._received_at_s = time.monotonic()
            self._phase = ("downloading", "")

    def observe(self, path: str, size_bytes: int) -> None:
        """Another process wrote `size_bytes` of a file so far; counts for the speed as well."""
        with self._lock:
            self._received_bytes += max(0, size_bytes - self._bytes_of.get(path, size_bytes))
            self._bytes_of[path] = size_bytes

    def snapshot(self) -> dict[str, Any]:
        """The fields of `DownloadProgress` but for `model_id`."""
        with self._lock:
            self._shown_bytes = min(max(self._shown_bytes, sum(self._bytes_of.values())), self.total_bytes)
            now_s = time.monotonic()
            speed = self._speed(now_s)
            is_pausing = now_s < self._retry[1] and now_s - self._received_at_s > _QUIET_S
            phase, detail = ("retrying", self._retry[0]) if is_pausing else self._phase
            left = self.total_bytes - self._shown_bytes
            return {
                "phase": phase,
                "detail": detail,
                "completed_bytes": self._shown_bytes,
                "total_bytes": self.total_bytes,
                "bytes_per_s": speed,
                "eta_s": left / speed if speed > 0 and left > 0 else None,
                "completed_files": len(self._finished),
                "total_files": self.total_files,
            }

    def _speed(self, now_s: float) -> float:
        self._samples.append((now_s, self._received_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        (first_s, first_bytes), (last_s, last_bytes) = self._samples[0], self._samples[-1]
        return (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else 0.0
