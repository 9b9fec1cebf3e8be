"""The child process that fetches one model: `python -m swiftai_nb.downloads.worker`.

A process, because ending it is the only thing that stops a download at once, whatever it is doing: plain
HTTP, a stalled server, or hf_xet's native code. See `download_protocol` for what goes in and out.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from swiftai_nb.core.errors import (
    AIError,
    InsufficientDiskSpaceError,
    InvalidModelFilesError,
    ModelNotFoundError,
)
from swiftai_nb.downloads.file_lock import FileLock
from swiftai_nb.downloads.progress import ProgressMeter
from swiftai_nb.downloads.protocol import DownloadJob, job_from_line
from swiftai_nb.downloads.worker.cache_writer import CacheWriter
from swiftai_nb.downloads.worker.hub_errors import hub_utils, is_disk_full, redacted, status_of, translate
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, fetch_listing
from swiftai_nb.downloads.worker.retries import StoppedError, with_retries
from swiftai_nb.downloads.worker.transfer import FileTransfer, TransferContext
from swiftai_nb.downloads.worker.xet_transfer import can_use_xet, fetch_with_hub
from swiftai_nb.registry.model_info import ModelFile, format_bytes

_TICK_S = 0.25


class Reporter:
    """Writes events as JSON lines; a thread repeats the meter's state four times a second."""

    def __init__(self, out: TextIO, meter: ProgressMeter) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._meter = meter
        self._is_over = False

    def send(self, event: str, **fields: Any) -> None:
        """One line; nothing more comes after "done" or "error"."""
        with self._lock:
            if not self._is_over:
                self._out.write(json.dumps({"event": event, **fields}) + "\n")
                self._out.flush()
            self._is_over = self._is_over or event in ("done", "error")

    def start_ticking(self) -> None:
        """Begins to repeat the meter's state."""
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        while not self._is_over:
            self.send("progress", **self._meter.snapshot())
            time.sleep(_TICK_S)


def run_job(job: DownloadJob, reporter: Reporter, meter: ProgressMeter) -> None:
    """Fetches a model and reports it; tries the copies of a repository that is gone.

    Raises:
        AIError: one error, with a remedy.
    """
    first_error: AIError | None = None
    for repository in job.repositories:
        try:
            _fetch_model(job, repository, reporter, meter)
            return
        except (ModelNotFoundError, InvalidModelFilesError) as error:
            first_error = error if first_error is None else first_error
    if first_error is not None:
        raise first_error


def _fetch_model(job: DownloadJob, repository: str, reporter: Reporter, meter: ProgressMeter) -> None:
    stop = threading.Event()
    meter.set_phase("asking the Hub")
    # Without any network the user should hear of it within seconds: fewer tries than for a file.
    options = replace(job.options, max_attempts=min(3, job.options.max_attempts))
    try:
        plan = with_retries(lambda: fetch_listing(job, repository), options=options, meter=meter, stop=stop)
    except Exception as error:
        raise translate(error, job, repository=repository) from error
    writer = CacheWriter(Path(job.cache_dir), repository, plan.commit)
    _report_plan(plan, reporter, meter)
    try:
        with _repo_lock(plan, writer, meter):
            _fetch_files(job, plan, writer, meter, stop)
            writer.write_ref("main" if job.revision is None else job.revision)
    except Exception as error:
        raise translate(error, job, repository=repository, is_gated=plan.is_gated) from error
    reporter.send("progress", **{**meter.snapshot(), "completed_bytes": plan.total_bytes})
    reporter.send("done", folder=str(writer.snapshot), repository=repository, commit=plan.commit)


def _report_plan(plan: DownloadPlan, reporter: Reporter, meter: ProgressMeter) -> None:
    meter.total_bytes = plan.total_bytes
    meter.total_files = len(plan.files)
    files = [vars(f) for f in plan.files]
    total = plan.total_bytes
    reporter.send("plan", repository=plan.repository, commit=plan.commit, total_bytes=total, files=files)


def _repo_lock(plan: DownloadPlan, writer: CacheWriter, meter: ProgressMeter) -> FileLock:
    """The lock of this repository; while another kernel fetches it, its progress is shown as ours."""

    def watch() -> None:
        meter.set_phase("waiting", "another process is downloading it")
        for file in plan.files:
            meter.observe(file.path, _bytes_on_disk(file, writer))

    lock = FileLock(writer.locks / "swiftai-download.lock")
    lock.acquire(on_wait=watch, poll_s=_TICK_S)
    return lock


def _bytes_on_disk(file: ModelFile, writer: CacheWriter) -> int:
    for path in (writer.pointer(file), writer.blob(file), writer.partial(file)):
        try:
            return path.stat().st_size
        except OSError:
            continue
    return 0


def _fetch_files(
    job: DownloadJob, plan: DownloadPlan, writer: CacheWriter, meter: ProgressMeter, stop: threading.Event
) -> None:
    missing = _find_missing(plan, writer, meter)
    _check_disk_space(job, missing, writer)
    httpx = hub_utils().httpx
    limits = httpx.Limits(max_connections=max(4, job.options.connections))
    client = httpx.Client(timeout=job.options.timeout_s, follow_redirects=True, limits=limits)
    context = TransferContext(job, plan, writer, meter, client, stop)
    with client, ThreadPoolExecutor(job.options.connections) as pool:
        # Small files first: a refusal (gated, no room) shows before gigabytes came.
        waiting = [
            pool.submit(_fetch_file, f, context) for f in sorted(missing, key=lambda f: f.size_bytes or 0)
        ]
        try:
            for done in as_completed(waiting):
                done.result()
        except Exception as error:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            if is_disk_full(error):
                for file in missing:
                    writer.partial(file).unlink(missing_ok=True)
            raise


def _find_missing(plan: DownloadPlan, writer: CacheWriter, meter: ProgressMeter) -> list[ModelFile]:
    meter.set_phase("checking", "what is here already")
    missing: list[ModelFile] = []
    for file in plan.files:
        is_finished = writer.is_finished(file)
        meter.set_bytes(file.path, _bytes_on_disk(file, writer), is_finished=is_finished)
        if not is_finished:
            missing.append(file)
    return missing


def _check_disk_space(job: DownloadJob, missing: list[ModelFile], writer: CacheWriter) -> None:
    needed = sum(max(0, (f.size_bytes or 0) - _bytes_on_disk(f, writer)) for f in missing)
    Path(job.cache_dir).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(job.cache_dir).free
    if needed > free:
        raise InsufficientDiskSpaceError(
            f"{job.model_id} needs {format_bytes(needed)} more and the disk has {format_bytes(free)} free",
            hint=f"free {format_bytes(needed - free)} (%imagine_models clean shows what is reclaimable), "
            "or set HF_HOME to a larger disk",
        )


def _fetch_file(file: ModelFile, context: TransferContext) -> None:
    writer, transport = context.writer, context.job.options.transport
    with FileLock(writer.lock_path(file)) as lock:
        if writer.is_finished(file):
            context.meter.set_bytes(file.path, file.size_bytes or 0, is_finished=True)
            return
        writer.drop_foreign_partials(file)
        if transport == "xet" and can_use_xet(file):
            lock.release()
            fetch_with_hub(file, context)
            return
        try:
            FileTransfer(file, context).run()
        except Exception as error:
            if transport != "auto" or not _may_xet_help(error, file, context):
                raise
            lock.release()
            writer.partial(file).unlink(missing_ok=True)
            fetch_with_hub(file, context)


def _may_xet_help(error: Exception, file: ModelFile, context: TransferContext) -> bool:
    """A file that plain HTTP refuses though its repository is open may still come through Xet."""
    refused = status_of(error) in (403, 404, 410, 500, 501, 502)
    return refused and not context.plan.is_gated and can_use_xet(file)


def _exit_with_parent(parent_pid: int) -> None:
    """Ends this process with the kernel: its pipe closes, or (a fork may keep that open) its id is gone."""

    def watch_pipe() -> None:
        while sys.stdin.buffer.read(4096):
            pass
        os._exit(143)

    def watch_parent() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_TICK_S)
        os._exit(143)

    threading.Thread(target=watch_pipe, daemon=True).start()
    if os.name == "posix":
        threading.Thread(target=watch_parent, daemon=True).start()


def _own_standard_output() -> TextIO:
    """Standard output for events alone; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


def main() -> int:
    """Reads one job, does it, says how it went: 0 done, 2 failed."""
    parent_pid = os.getppid()
    out = _own_standard_output()
    job = job_from_line(sys.stdin.buffer.readline().decode())
    _exit_with_parent(parent_pid)
    meter = ProgressMeter()
    reporter = Reporter(out, meter)
    reporter.start_ticking()
    try:
        run_job(job, reporter, meter)
    except StoppedError:
        return 2
    except Exception as error:  # noqa: BLE001 (the process boundary: every failure becomes one event)
        known = translate(error, job, repository=job.repositories[0])
        reporter.send("error", error=_clean(known, job))
        return 2
    return 0


def _clean(error: AIError, job: DownloadJob) -> dict[str, Any]:
    data = error.to_dict()
    data["message"] = redacted(data["message"], job.token)
    return data


if __name__ == "__main__":
    os._exit(main())
