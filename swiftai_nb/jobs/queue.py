"""Runs jobs in order of arrival, off the caller's thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from swiftai_nb.core.errors import GenerationCancelledError, GenerationFailedError
from swiftai_nb.core.generator import ImageGenerator, generate_planned, plan_request
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.jobs.fair_slots import FairSlots
from swiftai_nb.jobs.job import GenerationJob, JobState

LOCAL_LANE = "local"
CLOUD_LANE = "cloud"
DEFAULT_CONCURRENCY = {LOCAL_LANE: 1, CLOUD_LANE: 4}
KEPT_FINISHED_JOBS = 100


class JobQueue:
    """Runs submitted requests in order of arrival.

    Jobs of one lane share one worker thread with an event loop of its own; lanes run side by side, so a
    cloud job need not wait for a local one. A lane runs `concurrency[lane]` jobs at a time, one by default.

    Foreground jobs go before background ones, picture by picture: a cell need not wait for the rest of a
    long background job. After two foreground pictures a waiting background job gets one.

    A job is cancelled by cancelling the task that awaits `generate_image`, which every
    `ImageGenerator` must support, including third-party ones.
    """

    def __init__(self, *, concurrency: Mapping[str, int] = DEFAULT_CONCURRENCY) -> None:
        self._concurrency = dict(concurrency)
        self._lock = threading.RLock()
        self._jobs: list[GenerationJob] = []
        self._lanes: dict[str, _Worker] = {}
        self._inherited: dict[str, _Worker] = {}
        self._closed = False
        self._owner_pid = os.getpid()

    @property
    def jobs(self) -> tuple[GenerationJob, ...]:
        """All unfinished jobs and the newest finished ones (100), in order of arrival."""
        with self._lock:
            return tuple(self._jobs)

    def submit(
        self,
        asked: GenerationPlan | GenerationRequest,
        generator: ImageGenerator,
        *,
        lane: str = LOCAL_LANE,
        is_background: bool | None = None,
    ) -> GenerationJob:
        """Queues a plan and returns immediately. The job runs in the caller's context (`contextvars`).

        Args:
            asked: a plan that this generator made, or a request to plan now.
            generator: what makes the pictures.
            lane: the lane to queue it in.
            is_background: whether no cell waits for it; None takes the request's value.

        Raises:
            GenerationFailedError: the queue is closed.
            AIError: the generator cannot fulfill the request.
        """
        plan = asked if isinstance(asked, GenerationPlan) else plan_request(generator, asked)
        if is_background is None:
            is_background = plan.request.is_background
        if os.getpid() != self._owner_pid:
            self._start_over_in_fork()
        with self._lock:
            if self._closed:
                raise GenerationFailedError("the job queue is closed", hint="load the extension again")
            worker = self._lanes.get(lane)
            if worker is None:
                worker = self._lanes[lane] = _Worker(lane, concurrency=self._concurrency.get(lane, 1))
            job = GenerationJob(plan, position=worker.position)
            self._jobs.append(job)
            self._drop_oldest()
            worker.add(job, generator, is_background=is_background)
        return job

    def close(self, timeout_s: float = 10.0) -> None:
        """Cancels every job and ends the worker threads, waiting up to `timeout_s` seconds in all."""
        if os.getpid() != self._owner_pid:
            self._start_over_in_fork()  # jobs and threads belong to the parent process
        with self._lock:
            self._closed = True
            lanes = list(self._lanes.values())
            unfinished = [job for job in self._jobs if not job.done]
        for job in reversed(unfinished):  # last first, so that no queued job starts meanwhile
            job.cancel()
        deadline = time.monotonic() + timeout_s
        for worker in lanes:
            worker.close(timeout_s=max(0.0, deadline - time.monotonic()))

    def _start_over_in_fork(self) -> None:
        """In a forked process: the parent's worker threads do not exist here, and its jobs never end."""
        self._owner_pid = os.getpid()
        self._lock = threading.RLock()
        self._inherited = self._lanes  # kept, because closing the parent's event loops would disturb it
        self._jobs, self._lanes = [], {}

    def _drop_oldest(self) -> None:
        surplus = sum(job.done for job in self._jobs) - KEPT_FINISHED_JOBS
        for job in list(self._jobs):
            if surplus <= 0:
                return
            if job.done:
                self._jobs.remove(job)
                surplus -= 1


class _Worker:
    """One worker thread and the jobs that wait for it."""

    def __init__(self, name: str, *, concurrency: int) -> None:
        self._concurrency = concurrency
        self._lock = threading.Lock()
        self._unfinished: list[GenerationJob] = []
        self._loop = asyncio.new_event_loop()
        self._slots = FairSlots(concurrency)  # used in the loop's thread only, as `_tasks`
        self._tasks: dict[GenerationJob, asyncio.Task[None]] = {}
        self._is_moving_up = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, name=f"swiftai-jobs-{name}", daemon=True)
        self._thread.start()

    def position(self, job: GenerationJob) -> int | None:
        with self._lock:
            if job not in self._unfinished:
                return None
            index = self._unfinished.index(job)
            return 0 if job.state is JobState.RUNNING else max(0, index - self._concurrency + 1)

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
        # An asyncio task copies the context it is made in: the submitter's, not this thread's.
        task = self._tasks[job] = job.context.copy().run(self._loop.create_task, work)
        task.add_done_callback(partial(self._finish, job))

    def _cancel(self, job: GenerationJob) -> None:
        if job in self._tasks:
            self._tasks[job].cancel()

    async def _run(self, job: GenerationJob, generator: ImageGenerator, *, is_background: bool) -> None:
        async with self._slots.acquire(is_background=is_background) as slot:
            job.start()
            try:
                for index in range(len(job.request.seeds)):
                    if index > 0:
                        await slot.yield_slot()
                    await _make_picture(job, generator, index)
            except BaseException as error:  # noqa: BLE001 - the boundary: any failure ends this job only
                self._end(job, error)
            else:
                self._end(job)  # before the next one gets the slot: never two of them running

    def _finish(self, job: GenerationJob, task: asyncio.Task[None]) -> None:
        del self._tasks[job]
        # It was cancelled while it waited; before its first step a task never even enters its coroutine.
        if task.cancelled() or not job.done:
            self._end(job, asyncio.CancelledError())

    def _end(self, job: GenerationJob, error: BaseException | None = None) -> None:
        with self._lock:
            if job not in self._unfinished:
                return
            self._unfinished.remove(job)
        if error is None:
            job.set_result(job.images)
        elif isinstance(error, (asyncio.CancelledError, GenerationCancelledError)):
            job.set_error(job.cancelled_error())
        else:
            job.set_error(error)
        if not self._is_moving_up:  # once for many jobs that end together, as when all are cancelled
            self._is_moving_up = True
            self._call(self._move_up)

    def _move_up(self) -> None:
        """Tells the waiting jobs that their queue positions have changed."""
        self._is_moving_up = False
        with self._lock:
            waiting = [job for job in self._unfinished if job.state is JobState.QUEUED]
        for job in waiting:
            job.notify()


async def _make_picture(job: GenerationJob, generator: ImageGenerator, index: int) -> None:
    job.begin_image(index)
    report = partial(job.report_image, index)
    image = await generate_planned(generator, job.plan, index=index, on_progress=report)
    job.add_image(image)
    job.token.raise_if_cancelled()  # a generator that swallowed the task's cancel is stopped here
