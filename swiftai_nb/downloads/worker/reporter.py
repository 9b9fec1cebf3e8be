"""Measures a download in the worker, reports it to the kernel, and ends it when the server is too slow."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from swiftai_nb.core.errors import NetworkError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.downloads.protocol import DownloadOptions

_TICK_S = 0.25
_WINDOW_S = 8.0
_QUIET_S = 0.3


class ProgressMeter:
    """Adds up bytes from several threads; computes speed and time left. Never goes backwards.

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
        self._received_at_s = 0.0
        self.total_bytes = 0
        self.total_files = 0
        self._phase = ("starting", "")
        self._retry = ("", 0.0)
        self._local_tasks = 0
        self._watch_start = (time.monotonic(), 0)

    def set_phase(self, phase: str, detail: str = "") -> None:
        """Reports what is being done now."""
        with self._lock:
            self._phase = (phase, detail)

    @contextmanager
    def local_work(self, phase: str, detail: str = "") -> Iterator[None]:
        """Reports work that receives nothing: reading the disk, waiting for another process."""
        with self._lock:
            self._local_tasks += 1
            self._phase = (phase, detail)
        try:
            yield
        finally:
            with self._lock:
                self._local_tasks -= 1
                self._restart_watch()

    def set_retry(self, detail: str, pause_s: float) -> None:
        """A file pauses before another attempt; shown unless bytes of other files are received."""
        with self._lock:
            self._retry = (detail, time.monotonic() + pause_s)
            self._phase = ("retrying", detail)
            self._restart_watch()

    def set_bytes(self, path: str, size_bytes: int, *, is_finished: bool = False) -> None:
        """`size_bytes` of a file are on disk (not counted as received: they may be of an earlier run)."""
        with self._lock:
            self._bytes_of[path] = size_bytes
            if is_finished:
                self._finished.add(path)
                self._restart_watch()

    def add_received(self, path: str, size_bytes: int) -> None:
        """`size_bytes` of a file were received from the network."""
        with self._lock:
            self._bytes_of[path] = self._bytes_of.get(path, 0) + size_bytes
            self._received_bytes += size_bytes
            self._received_at_s = time.monotonic()
            self._phase = ("downloading", "")

    def observe(self, path: str, size_bytes: int) -> None:
        """Another process has written `size_bytes` of a file so far; counts for the speed as well."""
        with self._lock:
            self._received_bytes += max(0, size_bytes - self._bytes_of.get(path, size_bytes))
            self._bytes_of[path] = size_bytes

    def note_answer(self) -> None:
        """The server has answered; counts as progress although no bytes of a file were received."""
        with self._lock:
            self._restart_watch()

    def snapshot(self) -> dict[str, Any]:
        """The fields of `DownloadProgress` except `model_id`."""
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

    def slow_for_s(self, min_bytes_per_s: float) -> float:
        """How many seconds the network has delivered less than `min_bytes_per_s` on average.

        Counted from the last retry, answer, finished file or local work; 0.0 while nothing is awaited from
        the network.
        """
        with self._lock:
            start_s, start_bytes = self._watch_start
            elapsed_s = time.monotonic() - start_s
            wanted_bytes = min_bytes_per_s * max(1.0, elapsed_s)
            if self._local_tasks == 0 and self._received_bytes - start_bytes < wanted_bytes:
                return max(0.0, elapsed_s)
            self._restart_watch()
            return 0.0

    def _restart_watch(self) -> None:
        self._watch_start = (max(time.monotonic(), self._retry[1]), self._received_bytes)

    def _speed(self, now_s: float) -> float:
        self._samples.append((now_s, self._received_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        (first_s, first_bytes), (last_s, last_bytes) = self._samples[0], self._samples[-1]
        return (last_bytes - first_bytes) / (last_s - first_s) if last_s > first_s else 0.0


class Reporter:
    """Writes events as JSON lines; a thread repeats the meter's state four times a second.

    Args:
        out: where the lines go.
        meter: what is repeated.
        options: which speed is too slow.
        on_too_slow: called after the error of a download that is too slow was sent.
    """

    def __init__(
        self, out: TextIO, meter: ProgressMeter, options: DownloadOptions, *, on_too_slow: Callable[[], Any]
    ) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._meter = meter
        self._options = options
        self._on_too_slow = on_too_slow
        self._is_done = False

    def send(self, event: str, **fields: Any) -> None:
        """Writes one line; nothing more follows "done" or "error"."""
        with self._lock:
            if not self._is_done:
                self._out.write(json.dumps({"event": event, **fields}) + "\n")
                self._out.flush()
            self._is_done = self._is_done or event in ("done", "error")

    def start(self) -> None:
        """Begins to repeat the meter's state and to watch the speed."""
        threading.Thread(target=self._repeat, name="progress", daemon=True).start()

    def _repeat(self) -> None:
        options = self._options
        while not self._is_done:
            self.send("progress", **self._meter.snapshot())
            time.sleep(_TICK_S)
            if self._meter.slow_for_s(options.min_bytes_per_s) > options.slow_timeout_s:
                speed = f"{format_bytes(options.min_bytes_per_s)}/s"
                error = NetworkError(
                    f"the server sent less than {speed} for {options.slow_timeout_s:g} s",
                    hint="check your connection and try again; the download resumes where it stopped",
                )
                self.send("error", error=error.to_dict())
                self._on_too_slow()
