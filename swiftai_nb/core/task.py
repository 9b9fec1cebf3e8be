"""`Task`: a future with progress, callbacks and cancellation.

All long-running work is a `Task`: generation jobs, downloads, engine commands, cloud requests and
batches. Unlike `concurrent.futures.Future` it reports progress,
distinguishes a request to cancel from the end, and may be awaited from any event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError as FutureCancelledError
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from swiftai_nb.core.cancellation import CallbackList, CancellationToken
from swiftai_nb.core.errors import (
    AIError,
    DownloadCancelledError,
    GenerationCancelledError,
    GenerationFailedError,
    GenerationTimeoutError,
)

if TYPE_CHECKING:
    from typing_extensions import Self

ResultT = TypeVar("ResultT")
ProgressT = TypeVar("ProgressT")

_WAIT_SLICE_S = 0.2  # on Windows a signal is only handled between two waits
_CANCELLATIONS = (GenerationCancelledError, DownloadCancelledError)


class TaskState(str, Enum):
    """Where a task is; DONE, FAILED and CANCELLED are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value

    @property
    def is_final(self) -> bool:
        """Whether a task in this state has ended."""
        return self not in (TaskState.QUEUED, TaskState.RUNNING)


class Task(Generic[ResultT, ProgressT]):
    """A future with progress and cancellation; every member may be used from any thread.

    `await task` waits from any event loop and gives `result()`; cancelling the awaiting coroutine leaves
    the task running. The consumer's half is `state`, `progress`, `wait`, `result`, `cancel`, `subscribe`
    and `add_done_callback`. The producer's half is `start`, `report`, `set_result`, `set_error`, and
    `run` or `run_in_thread`, which end the task whether its work returns or raises.

    Callbacks receive the task and run in a copy of the context (`contextvars`) in which the task was
    created. Their exceptions are logged. They may be called from several threads.

    Args:
        name: used in messages, such as "the download of sd-1.5".
        progress: the first value of `progress`.

    Attributes:
        token: the request to stop; producers check it or register `token.on_cancel`.
        context: the creator's context variables.
    """

    def __init__(self, *, name: str = "the task", progress: ProgressT | None = None) -> None:
        self.token = CancellationToken()
        self._name = name
        self._progress = progress
        self.context = contextvars.copy_context()
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._final_event = threading.Event()
        self._state = TaskState.QUEUED
        self._result: ResultT | None = None
        self._error: AIError | None = None
        self._started_at: float | None = None
        self._ended_at: float | None = None
        self._subscribers: CallbackList[[Any]] = CallbackList()
        self._done_callbacks: CallbackList[[Any]] = CallbackList()

    @property
    def state(self) -> TaskState:
        """Where the task is."""
        return self._state

    @property
    def done(self) -> bool:
        """Whether the task has ended: completed, failed or cancelled."""
        return self._final_event.is_set()

    @property
    def progress(self) -> ProgressT | None:
        """The latest progress; kept after the end."""
        return self._progress

    @property
    def error(self) -> AIError | None:
        """Why the task failed or was cancelled; None otherwise."""
        return self._error

    @property
    def elapsed_s(self) -> float:
        """Seconds since `start`; 0.0 while queued, fixed after the end."""
        if self._started_at is None:
            return 0.0
        return (time.monotonic() if self._ended_at is None else self._ended_at) - self._started_at

    def cancel(self) -> None:
        """Requests the end and returns immediately; does nothing after the end."""
        if not self.done:
            self.token.cancel()

    def subscribe(self, callback: Callable[[Self], object]) -> Callable[[], None]:
        """Calls `callback(task)` on every change, including the end.

        A task that has already ended calls it once, immediately.

        Returns:
            A function that ends the subscription; may be called twice.
        """
        return self._add(self._subscribers, callback)

    def add_done_callback(self, callback: Callable[[Self], object]) -> Callable[[], None]:
        """Calls `callback(task)` once, after the end; immediately if the task has already ended.

        Returns:
            A function that removes the callback; may be called twice.
        """
        return self._add(self._done_callbacks, callback)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until the end or for `timeout_s` seconds; returns `done`.

        KeyboardInterrupt ends the wait, not the task. In a forked process a task of the parent never
        ends: False is returned immediately.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self.done and os.getpid() == self._owner_pid:
            left_s = _WAIT_SLICE_S if deadline is None else min(_WAIT_SLICE_S, deadline - time.monotonic())
            if left_s <= 0:
                break
            self._final_event.wait(left_s)
        return self.done

    def result(self, timeout_s: float | None = None) -> ResultT:
        """Waits for the end and returns the result.

        Raises:
            AIError: `error`; a cancellation error when the task was cancelled.
            GenerationTimeoutError: (a TimeoutError) not ended after `timeout_s` seconds.
            GenerationFailedError: the task belongs to the process that this one was forked from.
        """
        if not self.wait(timeout_s):
            if os.getpid() != self._owner_pid:
                raise GenerationFailedError(
                    f"{self._name} belongs to the process that this one was forked from",
                    hint="start it again in this process",
                )
            raise GenerationTimeoutError(
                f"{self._name} has not finished after {timeout_s:g} s", hint="wait longer, or call cancel()"
            )
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._result  # type: ignore[return-value]  # set before the state became DONE

    def __await__(self) -> Generator[Any, None, ResultT]:
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> ResultT:
        if os.getpid() == self._owner_pid:
            with self._asyncio_event() as ended:
                await ended.wait()
        return self.result(timeout_s=0)

    @contextlib.contextmanager
    def _asyncio_event(self) -> Iterator[asyncio.Event]:
        """An event of the running loop that is set when the task has ended."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(_: Self) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed in the meantime
                loop.call_soon_threadsafe(ended.set)

        remove = self.add_done_callback(wake)
        try:
            yield ended
        finally:
            remove()

    async def wait_or_cancel(self, *, grace_s: float) -> ResultT:
        """As `await task`, but cancelling the awaiting coroutine cancels the task as well.

        It then waits up to `grace_s` seconds for the end, even if it is cancelled again.

        Raises:
            AIError: see `result`.
            asyncio.CancelledError: the awaiting coroutine was cancelled.
        """
        try:
            return await self
        except asyncio.CancelledError:
            self.cancel()
            deadline = time.monotonic() + grace_s
            with self._asyncio_event() as ended:
                while not self.done and (left_s := deadline - time.monotonic()) > 0:
                    with contextlib.suppress(asyncio.CancelledError, asyncio.TimeoutError):
                        await asyncio.wait_for(ended.wait(), left_s)
            raise

    def start(self) -> bool:
        """Marks the task as running; False when it already runs or has ended."""
        with self._lock:
            if self._state is not TaskState.QUEUED:
                return False
            self._state, self._started_at = TaskState.RUNNING, time.monotonic()
        self.notify()
        return True

    def report(self, progress: ProgressT | None) -> None:
        """Replaces `progress` and notifies the subscribers; ignored after the end."""
        with self._lock:
            if self._state.is_final:
                return
            self._progress = progress
        self.notify()

    def notify(self) -> None:
        """Calls the subscribers: for producers whose subclass has changed a property of its own."""
        self.context.copy().run(self._subscribers.notify, self)

    def set_result(self, result: ResultT) -> bool:
        """Ends the task with a result; the first end counts. False when it had ended already."""
        return self._finish(TaskState.DONE, result=result)

    def set_error(self, error: BaseException) -> bool:
        """Ends the task with an error; the first end counts. False when it had ended already.

        Args:
            error: a cancellation (an AIError, asyncio's or `concurrent.futures`'s) makes the state CANCELLED,
                all others FAILED; what is not an AIError becomes the cause of a GenerationFailedError.
        """
        known = as_ai_error(error)
        state = TaskState.CANCELLED if isinstance(known, _CANCELLATIONS) else TaskState.FAILED
        return self._finish(state, error=known)

    def run(self, work: Callable[[], ResultT]) -> None:
        """Calls `work` in this thread and ends the task with what it returns or raises."""
        self.start()
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - every outcome must end the task
            self.set_error(error)
        else:
            self.set_result(result)

    def run_in_thread(self, work: Callable[[], ResultT], *, thread_name: str) -> Self:
        """`run` in a daemon thread of its own; returns the task."""
        threading.Thread(target=self.run, args=(work,), name=thread_name, daemon=True).start()
        return self

    def _finish(
        self, state: TaskState, *, result: ResultT | None = None, error: AIError | None = None
    ) -> bool:
        with self._lock:
            if self._state.is_final:
                return False
            self._result, self._error = result, error
            self._ended_at = time.monotonic()
            self._state = state
        self._final_event.set()
        self.notify()
        self.context.copy().run(self._done_callbacks.notify, self)
        self._done_callbacks.clear()
        # They refer to the task: without this, its pictures would wait for the garbage collector.
        self.token.forget_callbacks()
        return True

    def _add(self, callbacks: CallbackList[[Any]], callback: Callable[[Any], object]) -> Callable[[], None]:
        with self._lock:
            if not self._state.is_final:
                return callbacks.add(callback)
        late: CallbackList[[Any]] = CallbackList()
        remove = late.add(callback)
        self.context.copy().run(late.notify, self)
        return remove

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}: {self.state}>"


def as_ai_error(error: BaseException) -> AIError:
    """`error` if it is an AIError, otherwise an AIError whose cause it is."""
    if isinstance(error, AIError):
        return error
    known: AIError
    if isinstance(error, (asyncio.CancelledError, FutureCancelledError)):
        known = GenerationCancelledError()
    else:
        known = GenerationFailedError(
            f"unexpected {type(error).__name__}: {str(error) or 'no message'}",
            hint="report this with the steps that led to it",
        )
    known.__cause__ = error
    return known
