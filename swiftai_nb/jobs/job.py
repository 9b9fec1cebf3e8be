"""One request on its way to pictures: its state, its progress, what it has made, how to stop it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError, GenerationTimeoutError, InvalidInputError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.task import CancellationToken

_log = logging.getLogger(__name__)
_WAIT_SLICE_S = 0.2  # on Windows a signal is only seen between two waits


class JobState(str, Enum):
    """Where a job is; DONE, FAILED and CANCELLED are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True)
class GenerationRequest:
    """What one job makes.

    Args:
        prompt: what to draw.
        negative_prompt: what to avoid, or None.
        config: the settings; its `seed` gives way to `seeds`.
        seeds: one concrete seed per picture; picture k is made with `seeds[k]` and can be remade alone.

    Raises:
        InvalidInputError: there are no seeds, or one is not a seed.
    """

    prompt: str
    negative_prompt: str | None
    config: ImageGenerationConfig
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.seeds:
            raise InvalidInputError("a request without seeds", hint="give one seed per picture")
        for index in range(len(self.seeds)):
            self.config_of(index)

    def config_of(self, index: int) -> ImageGenerationConfig:
        """The settings of picture `index`, with its seed."""
        return self.config.replace(seed=self.seeds[index])


@dataclass(frozen=True)
class _Snapshot:
    """All that changes in a job's life, replaced as a whole so that readers never see half a change."""

    state: JobState = JobState.QUEUED
    progress: ImageGenerationProgress | None = None
    image_index: int = 0
    images: tuple[GeneratedImage, ...] = ()
    last_preview: bytes | None = None
    error: AIError | None = None
    started_at: float | None = None
    ended_at: float | None = None


class GenerationJob:
    """A submitted request. Made by `JobQueue.submit`; every member may be used from any thread.

    `await job` waits for it from any event loop and gives `result()`; a cancelled awaiter leaves the
    job running, `cancel()` ends it.

    Attributes:
        id: short text, unique within this machine.
        request: what was asked.
        token: the stop request; the queue listens to it.
        context: the submitter's context variables.
    """

    def __init__(self, request: GenerationRequest, *, position: Callable[[Any], int | None]) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.request = request
        self.token = CancellationToken()
        self._position = position
        self.context = contextvars.copy_context()
        self._now = _Snapshot()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._subscribers: dict[int, Callable[[GenerationJob], None]] = {}
        self._next_subscriber = 0

    @property
    def state(self) -> JobState:
        """Where the job is."""
        return self._now.state

    @property
    def progress(self) -> ImageGenerationProgress | None:
        """Progress of the current picture; None before its first report."""
        return self._now.progress

    @property
    def image_index(self) -> int:
        """Which picture is being made, from 0."""
        return self._now.image_index

    @property
    def images(self) -> tuple[GeneratedImage, ...]:
        """The finished pictures in order; kept when the job is cancelled or fails."""
        return self._now.images

    @property
    def last_preview(self) -> bytes | None:
        """The newest preview as JPEG bytes; kept to the end."""
        return self._now.last_preview

    @property
    def error(self) -> AIError | None:
        """Why it failed or was cancelled; None otherwise."""
        return self._now.error

    @property
    def queue_position(self) -> int | None:
        """Unfinished jobs before this one in its lane: 0 when running or next; None when it has ended."""
        return None if self.state.is_final else self._position(self)

    @property
    def elapsed_s(self) -> float:
        """Seconds it has been running; 0.0 while queued, fixed once it has ended."""
        now = self._now
        if now.started_at is None:
            return 0.0
        return (time.monotonic() if now.ended_at is None else now.ended_at) - now.started_at

    def cancel(self) -> None:
        """Asks the job to stop; returns at once. Further calls, and calls after the end, do nothing."""
        if not self.state.is_final:
            self.token.cancel()

    def subscribe(self, callback: Callable[[GenerationJob], None]) -> Callable[[], None]:
        """Calls `callback(job)` on every change, from a worker thread, in the submitter's context.

        What the callback raises is logged and never hurts the job. A job that has ended already calls
        once, at once: however quick a job is, its subscriber hears of its end.

        Returns:
            A function that ends the subscription; may be called twice.
        """
        with self._lock:
            key = self._next_subscriber
            self._next_subscriber += 1
            self._subscribers[key] = callback
            has_ended = self._now.state.is_final

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers.pop(key, None)

        if has_ended:
            self._call(callback)
        return unsubscribe

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the job has ended or `timeout_s` seconds have passed; returns whether it has ended.

        An interrupt (KeyboardInterrupt) ends the wait, not the job.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.is_set():
            left_s = _WAIT_SLICE_S if deadline is None else min(_WAIT_SLICE_S, deadline - time.monotonic())
            if left_s <= 0:
                break
            self._ended.wait(left_s)
        return self._ended.is_set()

    def result(self, timeout_s: float | None = None) -> tuple[GeneratedImage, ...]:
        """Waits for the end and returns the pictures.

        Raises:
            AIError: the job's own error; GenerationCancelledError when it was cancelled.
            GenerationTimeoutError: it has not ended after `timeout_s` seconds.
        """
        if not self.wait(timeout_s):
            raise GenerationTimeoutError(
                f"the job has not ended after {timeout_s:g} s", hint="wait longer, or call job.cancel()"
            )
        error = self.error
        if error is not None:
            raise error.with_traceback(None)
        return self.images

    def __await__(self) -> Generator[Any, None, tuple[GeneratedImage, ...]]:
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> tuple[GeneratedImage, ...]:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(job: GenerationJob) -> None:
            if job.state.is_final:
                with contextlib.suppress(RuntimeError):  # that loop was closed meanwhile
                    loop.call_soon_threadsafe(ended.set)

        unsubscribe = self.subscribe(wake)
        try:
            if not self._ended.is_set():
                await ended.wait()
        finally:
            unsubscribe()
        return self.result(timeout_s=_WAIT_SLICE_S)

    def change(self, **changes: Any) -> bool:
        """For the queue alone: replaces fields and tells the subscribers; False when the job has ended."""
        with self._lock:
            if self._now.state.is_final:
                return False
            self._now = replace(self._now, **changes)
            ended = self._now.state.is_final
        if ended:
            self._ended.set()
        self.notify()
        return True

    def notify(self) -> None:
        """For the queue alone: calls every subscriber."""
        with self._lock:
            callbacks = list(self._subscribers.values())
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[GenerationJob], None]) -> None:
        try:
            self.context.copy().run(callback, self)
        except Exception:  # noqa: BLE001 - a subscriber's fault is not the job's
            _log.exception("a subscriber of job %s failed", self.id)

    def __repr__(self) -> str:
        made = f"{len(self.images)} of {len(self.request.seeds)}"
        return f"<GenerationJob {self.id} {self.state}, {made} pictures: {self.request.prompt[:60]}>"
