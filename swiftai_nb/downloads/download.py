"""One running download, seen from the kernel: a worker process as a `Task`."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from swiftai_nb.core.child import ChildProcess, copy_environment, python_command
from swiftai_nb.core.errors import AIError, DownloadCancelledError, DownloadFailedError, error_from_dict
from swiftai_nb.core.task import Task
from swiftai_nb.downloads.deletion import remove_abandoned_scratch
from swiftai_nb.downloads.progress import DownloadProgress
from swiftai_nb.downloads.protocol import DownloadJob, redact
from swiftai_nb.registry.model_info import ModelFile

_log = logging.getLogger(__name__)
_GRACE_S = 0.2
_TRY_AGAIN = "try again; the download resumes where it stopped"
_WORKER = "swiftai_nb.downloads.worker.__main__"

PlanHandler = Callable[[str, str, list[ModelFile]], None]


class Download(Task[Path, DownloadProgress]):
    """A model being downloaded by a worker process that ends with this one. Its result is the folder.

    Subscribers are called about four times a second with the task itself, see `Task`; `progress` never
    goes backwards.

    Args:
        job: what to fetch.
        on_plan: called with repository, commit and files as soon as the Hub has answered.

    Raises:
        DownloadFailedError: the process cannot be started.
    """

    def __init__(self, job: DownloadJob, *, on_plan: PlanHandler | None = None) -> None:
        name = f"the download of {job.model_id}"
        super().__init__(name=name, progress=DownloadProgress(job.model_id))
        self.job = job
        self._on_plan = on_plan
        self._folder: Path | None = None
        self._failure: AIError | None = None
        environment = copy_environment(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_PROGRESS_BARS="0")
        try:
            self._process = ChildProcess(python_command(_WORKER), name=name, environment=environment)
        except OSError as error:
            raise DownloadFailedError(
                f"cannot start a process for {name}: {error.strerror}", hint="close other programs"
            ) from error
        self._process.write(job.to_line().encode())
        self.token.on_cancel(self._stop)
        self.run_in_thread(self._follow, thread_name=f"download {job.model_id}")

    @property
    def progress(self) -> DownloadProgress:
        """How far it is."""
        return self._progress or DownloadProgress(self.job.model_id)

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def cancel(self) -> None:
        """Ends it within half a second, whatever it is doing. What was received is kept."""
        super().cancel()
        self.wait(1.0)

    def _stop(self) -> None:
        self._process.terminate(_GRACE_S)

    def _follow(self) -> Path:
        """Reads the worker's events until it exits; whatever fails here ends the task with an error."""
        try:
            for line in self._process.lines():
                if not self.token.is_cancelled:
                    self._handle(_parse_event(line))
            self._process.wait()
        except Exception as error:
            raise DownloadFailedError(
                f"the download of {self.job.model_id} failed ({type(error).__name__}: {error})",
                hint=_TRY_AGAIN,
            ) from error
        finally:
            self._process.close(_GRACE_S)
            self._clean_up()
        if self.token.is_cancelled:
            raise DownloadCancelledError(
                f"Download of {self.job.model_id} cancelled",
                hint=f"%imagine_models download {self.job.model_id} resumes it",
            )
        if self._failure is not None:
            raise self._failure
        if self._folder is None:
            message = redact(self._process.describe_exit().message, self.job.token)
            raise DownloadFailedError(message, hint=_TRY_AGAIN)
        total, files = self.progress.total_bytes, self.progress.total_files
        self._progress = DownloadProgress(self.job.model_id, "done", total, total, 0.0, None, files, files)
        return self._folder

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event.pop("event", None)
        if kind == "progress":
            self.report(DownloadProgress(self.job.model_id, **event))
        elif kind == "plan" and self._on_plan is not None:
            files = [ModelFile(**f) for f in event["files"]]
            try:
                self._on_plan(event["repository"], event["commit"], files)
            except Exception:  # noqa: BLE001 - a record that cannot be written must not end the download
                _log.exception("recording the plan of a download failed")
        elif kind == "done":
            self._folder = Path(event["folder"])
        elif kind == "error":
            self._failure = error_from_dict(event["error"])

    def _clean_up(self) -> None:
        with contextlib.suppress(OSError):
            for repository in self.job.repositories:
                remove_abandoned_scratch(Path(self.job.cache_dir), repository)


def _parse_event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}
