"""One request to the cloud, on a thread and an event loop of its own.

The library looks providers up synchronously inside its coroutine, without a timeout. On the
kernel's loop that would freeze the notebook; on a shared loop it would freeze the other calls
and their Cancel. A loop per call keeps a slow look-up where it belongs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class CloudCall:
    """Runs a blocking preparation and then a coroutine, away from the caller's loop.

    Cancelling ends the coroutine at its current await, which closes its connection. While the
    preparation blocks there is nothing to close: the caller is let go at once and the thread's
    late result is dropped.
    """

    def __init__(self) -> None:
        self.is_cancelled = False
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._future: concurrent.futures.Future[object] = concurrent.futures.Future()

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Awaits `work()`'s result; `work` itself is called on the call's own thread.

        Raises:
            asyncio.CancelledError: the awaiting task or this call was cancelled.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._future = future  # type: ignore[assignment]
        thread = threading.Thread(target=self._run, args=(work, future), name="swiftai-cloud", daemon=True)
        thread.start()
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ends the call; from any thread, any number of times."""
        with self._lock:
            self.is_cancelled = True
            if self._loop is not None and self._task is not None:
                # A loop that has just finished and closed has nothing left to cancel.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._task.cancel)
        self._future.cancel()

    def _run(self, work: Callable[[], Awaitable[T]], future: concurrent.futures.Future[T]) -> None:
        try:
            result = asyncio.run(self._main(work))
        except asyncio.CancelledError:
            future.cancel()
        except BaseException as error:  # noqa: BLE001 (handed to the awaiting caller)
            with _settling():
                future.set_exception(error)
        else:
            with _settling():
                future.set_result(result)

    async def _main(self, work: Callable[[], Awaitable[T]]) -> T:
        with self._lock:
            if self.is_cancelled:
                raise asyncio.CancelledError
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await work()


def _settling() -> contextlib.AbstractContextManager[None]:
    # The caller may have cancelled the future while the answer was on its way.
    return contextlib.suppress(concurrent.futures.InvalidStateError)
