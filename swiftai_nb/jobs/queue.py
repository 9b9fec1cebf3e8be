"""Runs jobs one after another, off the caller's thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationCancelledError, GenerationFailedError
from swiftai_nb.core.generator import ImageGenerator
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.jobs.fair_slots import FairSlots, Slot
from swiftai_nb.jobs.job import GenerationJob, GenerationRequest, JobState

LOCAL_LANE = "local"
CLOUD_LANE = "cloud"
DEFAULT_CONCURRENCY = {LOCAL_LANE: 1, CLOUD_LANE: 4}
KEPT_FINISHED_JOBS = 100

_Outcome = tuple[JobState, AIError | None]


class JobQueue:
    """Takes requests and works them off in order of arrival.

    Jobs of one lane share one worker thread with an event loop of its own; lanes run side by side, so a
    cloud job need not wait for a local one. A lane runs `widths[lane]` jobs at a time, one by default.

    Foreground jobs go before background ones, picture by picture: a cell need not wait for the rest of a
    long background job. After two foreground pictures a waiting background job gets one.

    A job is cancelled by cancelling the task that awaits `generate_image`, which every
    `ImageGenerator` must bear, third-party ones included.
    """

    def __init__(self, *, widths: Mapping[str, int] = DEFAULT_CONCURRENCY) -> None:
        self._widths = dict(widths)
        self._lock = threading.RLock()
        self._jobs: list[GenerationJob] = []
        self._lanes: dict[str, _Worker] = {}
        self._closed = False

    @property
    def jobs(self) -> tuple[GenerationJob, ...]:
        """All unfinished jobs and the newest finished ones (100), in order of arrival."""
        with self._lock:
            return tuple(self._jobs)

    def submit(
        self,
        request: GenerationRequest,
        generator: ImageGenerator,
        *,
        lane: str = LOCAL_LANE,
        is_background: bool = False,
    ) -> GenerationJob:
        """Queues `request` and returns at once. The caller's context variables go along.

        Args:
            request: what to make.
            generator: makes it.
            lane: which jobs it queues with.
            is_background: whether nobody waits for it.

        Raises:
            GenerationFailedError: the queue is closed.
        """
        with self._lock:
            if self._closed:
                raise GenerationFailedError("the job queue is closed", hint="load the extension again")
            worker = self._lanes.get(lane)
            if worker is None:
                worker = self._lanes[lane] = _Worker(lane, width=self._widths.get(lane, 1))
            job = GenerationJob(request, position=worker.position)
            self._jobs.append(job)
            self._forget_oldest()
            worker.add(job, generator, is_background=is_background)
        return job

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancels every job and ends the worker threads, waiting up to `timeout_s` seconds in all."""
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
            unfinished = [job for job in self._jobs if not job.state.is_final]
        for job in reversed(unfinished):  # last first: no queued job gets a moment to start
            job.cancel()
        deadline = time.monotonic() + timeout_s
        for worker in lanes:
            worker.close(timeout_s=max(0.0, deadline - time.monotonic()))

    def _forget_oldest(self) -> None:
        surplus = sum(job.state.is_final for job in self._jobs) - KEPT_FINISHED_JOBS
        for job in list(self._jobs):
            if surplus <= 0:
                return
            if job.state.is_final:
                self._jobs.remove(job)
                surplus -= 1


class _Worker:
    """One worker thread and the jobs that wait for it."""

    def __init__(self, name: str, *, width: int) -> None:
        self._width = width
        self._lock = threading.Lock()
        self._unfinished: list[GenerationJob] = []
        self._loop = asyncio.new_event_loop()
        self._turns = FairSlots(width)  # of the loop's thread, as the tasks
        self._tasks: dict[GenerationJob, asyncio.Task[None]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, name=f"swiftai-jobs-{name}", daemon=True)
        self._thread.start()

    def position(self, job: GenerationJob) -> int | None:
        with self._lock:
            if job not in self._unfinished:
                return None
            index = self._unfinished.index(job)
            return 0 if job.state is JobState.RUNNING else max(0, index - self._width + 1)

    def add(self, job: GenerationJob, generator: ImageGenerator, *, is_background: bool) -> None:
        with self._lock:
            self._unfinished.append(job)
        self._call(self._start, job, generator, is_background)
        job.token.on_cancel(lambda: self._call(self._cancel, job))

    def close(self, *, timeout_s: float) -> None:
        self._call(self._stop_when_idle)
        if threading.current_thread() is not self._thread:
            self._ended.wait(timeout_s)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to do
            self._loop.call_soon_threadsafe(function, *arguments)

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()
            self._ended.set()

    def _stop_when_idle(self) -> None:
        if self._unfinished:
            self._loop.call_later(0.02, self._stop_when_idle)
        else:
            self._loop.stop()

    def _start(self, job: GenerationJob, generator: ImageGenerator, is_background: bool) -> None:
        work = self._run(job, generator, is_background=is_background)
        # A task copies the context it is made in: the submitter's, not this thread's.
        task = self._tasks[job] = job.context.copy().run(self._loop.create_task, work)
        task.add_done_callback(partial(self._finish, job))

    def _cancel(self, job: GenerationJob) -> None:
        if job in self._tasks:
            self._tasks[job].cancel()

    async def _run(self, job: GenerationJob, generator: ImageGenerator, *, is_background: bool) -> None:
        async with self._turns.of(is_background=is_background) as turn:
            state, error = await _make_pictures(job, generator, turn)
            self._end(job, state, error)  # before the next one's turn: never two of them running

    def _finish(self, job: GenerationJob, task: asyncio.Task[None]) -> None:
        del self._tasks[job]
        # It was cancelled while it waited; before its first step a task never even enters its coroutine.
        if task.cancelled() or not job.state.is_final:
            self._end(job, *_outcome_of(asyncio.CancelledError(), job))

    def _end(self, job: GenerationJob, state: JobState, error: AIError | None) -> None:
        with self._lock:
            if job not in self._unfinished:
                return
            self._unfinished.remove(job)
            waiting = [other for other in self._unfinished if other.state is JobState.QUEUED]
        job.change(state=state, error=error, ended_at=time.monotonic())
        for other in waiting:
            other.notify()


async def _make_pictures(job: GenerationJob, generator: ImageGenerator, turn: Slot) -> _Outcome:
    try:
        job.change(state=JobState.RUNNING, started_at=time.monotonic())
        for index in range(len(job.request.seeds)):
            if index > 0:
                await turn.yield_slot()
            await _make_picture(job, generator, index)
    except BaseException as error:  # noqa: BLE001 - the boundary: whatever happens ends this job alone
        return _outcome_of(error, job)
    return JobState.DONE, None


async def _make_picture(job: GenerationJob, generator: ImageGenerator, index: int) -> GeneratedImage:
    request = job.request
    job.change(image_index=index, progress=None)

    def report(progress: ImageGenerationProgress) -> None:
        preview = job.last_preview if progress.preview is None else progress.preview
        if job.image_index == index:
            job.change(progress=progress, last_preview=preview)

    config: ImageGenerationConfig = request.config_of(index)
    image = await generator.generate_image(
        request.prompt, negative_prompt=request.negative_prompt, config=config, on_progress=report
    )
    job.change(images=(*job.images, image))
    job.token.raise_if_cancelled()  # a generator that swallowed the task's cancel is stopped here
    return image


def _outcome_of(error: BaseException, job: GenerationJob) -> _Outcome:
    if isinstance(error, (asyncio.CancelledError, GenerationCancelledError)):
        return JobState.CANCELLED, _cancelled(job)
    if isinstance(error, AIError):
        return JobState.FAILED, error
    words = str(error) or "no message"
    words = f"{type(error).__name__}: {words}"
    failure = GenerationFailedError(words, hint="report this with the job's prompt")
    failure.__cause__ = error
    return JobState.FAILED, failure


def _cancelled(job: GenerationJob) -> GenerationCancelledError:
    progress, made, wanted = job.progress, len(job.images), len(job.request.seeds)
    done, total = (0, 0) if progress is None else (progress.current_step, progress.total_steps)
    words = "Cancelled" if total == 0 else f"Cancelled at step {done} of {total}"
    if wanted > 1:
        words += f"; {made} of {wanted} pictures are finished and kept"
    return GenerationCancelledError(words, completed_steps=done, total_steps=total)
