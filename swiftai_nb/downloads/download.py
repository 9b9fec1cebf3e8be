"""One running download, seen from the kernel: the child process, its progress, its end."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import AIError, DownloadCancelledError, DownloadFailedError, error_from_dict
from swiftai_nb.core.task import CallbackList
from swiftai_nb.downloads.deletion import remove_abandoned_scratch
from swiftai_nb.downloads.progress import DownloadProgress
from swiftai_nb.downloads.protocol import DownloadJob, redact
from swiftai_nb.registry.model_info import ModelFile

_log = logging.getLogger(__name__)
_GRACE_S = 0.2
_SILENCE_S = 0.4
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]

ProgressHandler = Callable[[DownloadProgress], None]
PlanHandler = Callable[[str, str, list[ModelFile]], None]


class Download:
    """A model on its way. Runs in a child process that ends with this one.

    Args:
        job: what to fetch.
        on_plan: told repository, commit and files as soon as the Hub answered.
    """

    def __init__(self, job: DownloadJob, *, on_plan: PlanHandler | None = None) -> None:
        self.job = job
        self._on_plan = on_plan
        self._lock = threading.Lock()
        self._reporting = threading.RLock()
        self._reported_s = time.monotonic()
        self._listeners: CallbackList[[DownloadProgress]] = CallbackList()
        self._done_callbacks: list[Callable[[], None]] = []
        self._progress = DownloadProgress(job.model_id)
        self._result: Path | None = None
        self._error: AIError | None = None
        self._is_over = threading.Event()
        self._said: deque[str] = deque(maxlen=20)
        self._process = _start_child(job)
        threading.Thread(target=self._listen, name=f"download {job.model_id}", daemon=True).start()
        threading.Thread(target=self._drain_stderr, daemon=True).start()
        threading.Thread(target=self._repeat_when_silent, daemon=True).start()

    @property
    def progress(self) -> DownloadProgress:
        """How far it is."""
        return self._progress

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def is_over(self) -> bool:
        """Whether it ended: complete, failed or cancelled."""
        return self._is_over.is_set()

    def subscribe(self, handler: ProgressHandler) -> Callable[[], None]:
        """Calls `handler` with every progress, from another thread; returns what ends that."""
        return self._listeners.add(handler)

    def add_done_callback(self, action: Callable[[], None]) -> None:
        """Calls `action` once, when it is over; at once when it is."""
        with self._lock:
            is_over = self._is_over.is_set()
            if not is_over:
                self._done_callbacks.append(action)
        if is_over:
            action()

    def wait(self, timeout_s: float | None = None) -> Path:
        """Blocks until it is over; the folder of the complete model.

        Raises:
            DownloadCancelledError: it was cancelled.
            AIError: it failed; one error, with a remedy.
            TimeoutError: it still runs after `timeout_s`.
        """
        if not self._is_over.wait(timeout_s):
            raise TimeoutError(f"{self.job.model_id} is still downloading")
        return self.result()

    def result(self) -> Path:
        """As `wait`, for one that is over."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise DownloadFailedError(f"{self.job.model_id} is still downloading", hint="wait for it")
        return self._result

    def cancel(self) -> None:
        """Ends it at once, whatever it is doing. Finished files and the bytes of others are kept."""
        with self._lock:
            if self._is_over.is_set() or self._error is not None:
                return
            self._error = DownloadCancelledError(
                f"Download of {self.job.model_id} cancelled",
                hint=f"%imagine_models download {self.job.model_id} resumes it",
            )
        self._end_child()
        self._is_over.wait(1.0)

    def _end_child(self) -> None:
        process = self._process
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _listen(self) -> None:
        """Whatever fails in this thread ends the download with an error, never with endless waiting."""
        try:
            out = self._process.stdout
            for line in out if out is not None else ():
                event = _parsed(line)
                if event is not None:
                    self._handle(event)
        except Exception as error:  # noqa: BLE001
            _log.exception("reading the events of a download failed")
            with self._lock:
                self._error = self._error or DownloadFailedError(
                    f"the download of {self.job.model_id} failed ({type(error).__name__}: {error})",
                    hint="try again; the download resumes where it stopped",
                )
            self._process.kill()
        self._process.wait()
        for repository in self.job.repositories:
            with _logged_failure("removing temporary files of a download"):
                remove_abandoned_scratch(Path(self.job.cache_dir), repository)
        self._finish()

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "progress":
            self._report(DownloadProgress(self.job.model_id, **event))
        elif kind == "plan" and self._on_plan is not None:
            files = [ModelFile(**f) for f in event["files"]]
            with _logged_failure("recording the plan of a download"):
                self._on_plan(event["repository"], event["commit"], files)
        elif kind == "done":
            self._result = Path(event["folder"])
        elif kind == "error":
            with self._lock:
                self._error = error_from_dict(event["error"]) if self._error is None else self._error

    def _report(self, progress: DownloadProgress | None = None) -> None:
        """Tells all listeners, one report at a time; without an argument, the last one again."""
        with self._reporting:
            with self._lock:
                if self._error is not None:
                    return
                self._progress = self._progress if progress is None else progress
            self._reported_s = time.monotonic()
            self._listeners.notify(self._progress)

    def _repeat_when_silent(self) -> None:
        """The child is silent while it imports and starts: a bar that stands still would look dead."""
        while not self._is_over.wait(_SILENCE_S / 2):
            if time.monotonic() - self._reported_s > _SILENCE_S:
                self._report()

    def _finish(self) -> None:
        with self._lock:
            if self._error is None and self._result is None:
                self._error = self._unexplained()
            succeeded = self._error is None
        if succeeded:
            total = self._progress.total_bytes
            files = self._progress.total_files
            done = DownloadProgress(self.job.model_id, "done", total, total, 0.0, None, files, files)
            self._report(done)
        self._close_pipes()
        with self._lock:
            self._is_over.set()
            endings = tuple(self._done_callbacks)
        for action in endings:
            with _logged_failure("what was to follow a download"):
                action()

    def _unexplained(self) -> AIError:
        code = self._process.returncode
        why = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        said = f": {redact(self._said[-1], self.job.token)}" if self._said else ""
        return DownloadFailedError(
            f"the process downloading {self.job.model_id} {why}{said[:200]}",
            hint="try again; the download resumes where it stopped",
        )

    def _drain_stderr(self) -> None:
        if self._process.stderr is None:
            return
        with self._process.stderr as complaints:
            self._said.extend(line.strip() for line in complaints if line.strip())

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                continue


@contextmanager
def _logged_failure(what: str) -> Iterator[None]:
    """Other people's code must not end the thread that follows a download."""
    try:
        yield
    except Exception:  # noqa: BLE001 (anything may come out of a listener; it is logged)
        _log.exception("%s failed", what)


def _start_child(job: DownloadJob) -> subprocess.Popen[str]:
    # Its own session: a Ctrl-C for the kernel is for the kernel to answer. No user folder on the
    # module path: a `random.py` next to a notebook must not end up in here.
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "swiftai_nb.downloads.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_child_environment(),
            cwd=_PACKAGE_ROOT,
            start_new_session=os.name == "posix",
        )
    except OSError as error:
        raise DownloadFailedError(
            f"no process could be started for the download: {error.strerror}", hint="close other programs"
        ) from error
    try:
        if process.stdin is not None:
            process.stdin.write(job.to_line())
            process.stdin.flush()
    except OSError:
        pass  # it died already; `_unexplained` says why
    return process


def _child_environment() -> dict[str, str]:
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "PYTHONSAFEPATH": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "0",
    }


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
