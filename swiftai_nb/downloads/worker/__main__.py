"""The process that fetches one model: `python -m swiftai_nb.downloads.worker`.

A process, because ending it is the only thing that stops a download at once, whatever it is doing: plain
HTTP, a server that does not answer, or hf_xet's native code. `downloads.protocol` describes its input and
output.
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from swiftai_nb.core.child import claim_standard_streams, exit_with_parent
from swiftai_nb.core.errors import (
    AIError,
    InsufficientDiskSpaceError,
    InvalidModelFilesError,
    ModelNotFoundError,
)
from swiftai_nb.core.format import format_bytes
from swiftai_nb.downloads.cache_files import hold_lock
from swiftai_nb.downloads.protocol import DownloadJob, job_from_line, redact
from swiftai_nb.downloads.worker.cache_writer import CacheWriter
from swiftai_nb.downloads.worker.errors import is_disk_full, translate, with_retries
from swiftai_nb.downloads.worker.hub_listing import DownloadPlan, fetch_listing, open_client
from swiftai_nb.downloads.worker.reporter import ProgressMeter, Reporter
from swiftai_nb.downloads.worker.transfer import TransferContext, fetch_file
from swiftai_nb.registry.model_info import ModelFile

_STOP_GRACE_S = 2.0


def run_job(job: DownloadJob, reporter: Reporter, meter: ProgressMeter) -> None:
    """Fetches a model and reports it; tries the fallbacks of a repository that no longer exists.

    Raises:
        AIError: one error, with a remedy.
    """
    first_error: AIError | None = None
    with open_client(job) as client:
        for repository in job.repositories:
            try:
                _fetch_model(job, repository, client, reporter, meter)
                return
            except (ModelNotFoundError, InvalidModelFilesError) as error:
                first_error = error if first_error is None else first_error
    if first_error is not None:
        raise first_error


def _fetch_model(
    job: DownloadJob, repository: str, client: Any, reporter: Reporter, meter: ProgressMeter
) -> None:
    stop = threading.Event()
    meter.set_phase("asking the Hub")
    # Without a network the user should learn it within seconds: fewer attempts than for a file.
    options = replace(job.options, max_attempts=min(3, job.options.max_attempts))
    try:
        plan = with_retries(
            lambda: fetch_listing(job, repository, client, on_answer=meter.note_answer),
            options=options,
            meter=meter,
            stop=stop,
        )
    except Exception as error:
        raise translate(error, replace(job, options=options), repository=repository) from error
    writer = CacheWriter(Path(job.cache_dir), repository, plan.commit)
    _report_plan(plan, reporter, meter)
    context = TransferContext(job, plan, writer, meter, client, stop)
    waiting = meter.local_work("waiting", "another process is downloading it")
    try:
        with hold_lock(writer.lock_path, busy=waiting, on_wait=lambda: _observe(context)):
            _fetch_files(context)
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


def _observe(context: TransferContext) -> None:
    """Shows the progress of another process that downloads the same repository."""
    for file in context.plan.files:
        context.meter.observe(file.path, context.writer.bytes_on_disk(file))


def _fetch_files(context: TransferContext) -> None:
    missing = _find_missing(context)
    _check_disk_space(missing, context)
    context.meter.set_phase("downloading")
    pool = ThreadPoolExecutor(context.job.options.connections)
    # Small files first: a refusal (gated, disk full) shows before gigabytes were fetched.
    ordered = sorted(missing, key=lambda f: f.size_bytes or 0)
    transfers = [pool.submit(fetch_file, file, context) for file in ordered]
    try:
        for done in as_completed(transfers):
            done.result()
    except Exception as error:
        context.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        # The others stop at their next chunk; one that waits for its server ends with this process.
        wait([t for t in transfers if t.running()], timeout=_STOP_GRACE_S)
        if is_disk_full(error):
            for file in missing:
                context.writer.partial(file).unlink(missing_ok=True)
        raise
    pool.shutdown()


def _find_missing(context: TransferContext) -> list[ModelFile]:
    meter, writer = context.meter, context.writer
    missing: list[ModelFile] = []
    with meter.local_work("checking", "the files on this disk"):
        for file in context.plan.files:
            is_finished = writer.is_finished(file)
            meter.set_bytes(file.path, writer.bytes_on_disk(file), is_finished=is_finished)
            if not is_finished:
                missing.append(file)
    return missing


def _check_disk_space(missing: list[ModelFile], context: TransferContext) -> None:
    job, writer = context.job, context.writer
    needed = sum(max(0, (f.size_bytes or 0) - writer.bytes_on_disk(f)) for f in missing)
    Path(job.cache_dir).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(job.cache_dir).free
    if needed > free:
        raise InsufficientDiskSpaceError(
            f"{job.model_id} needs {format_bytes(needed)} more and the disk has {format_bytes(free)} free",
            hint=f"free {format_bytes(needed - free)} (%imagine_models clean shows what can be removed), "
            "or set HF_HOME to a larger disk",
        )


def main() -> NoReturn:
    """Reads one job from standard input, does it, reports the outcome and exits: 0 done, 2 failed."""
    reader, writer = claim_standard_streams()
    with os.fdopen(reader, "rb", closefd=False) as lines:
        job = job_from_line(lines.readline().decode())
    exit_with_parent(watched_pipe=reader, status=143)
    meter = ProgressMeter()
    out = os.fdopen(writer, "w", encoding="utf-8")
    reporter = Reporter(out, meter, job.options, on_too_slow=lambda: os._exit(2))
    reporter.start()
    status = 2
    try:
        run_job(job, reporter, meter)
        status = 0
    except Exception as error:  # noqa: BLE001 (the process boundary: every failure becomes one event)
        data = translate(error, job, repository=job.repositories[0]).to_dict()
        reporter.send("error", error={**data, "message": redact(data["message"], job.token)})
    os._exit(status)  # no interpreter shutdown: it would wait for native threads of hf_xet


if __name__ == "__main__":
    main()
