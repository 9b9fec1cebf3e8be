"""`--bg`: the cell returns at once, its output fills in by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any

from swiftai_nb.core.errors import AIError, GenerationTimeoutError
from swiftai_nb.notebook.cell.views import Bundle, CellView
from swiftai_nb.notebook.cell.wait import Work
from swiftai_nb.notebook.output.pictures import Pictures

_log = logging.getLogger(__name__)
WAIT_SLICE_S = 0.2


class BackgroundJob:
    """What `%imagine --bg` returns: `await` it, ask it, or cancel it, from any cell.

    Args:
        work: what is being made.
        view: the output of the cell that began it.
        at_end: called once with the pictures, before anyone is told: binds, saves and gives the bundle.
    """

    def __init__(self, work: Work, view: CellView, *, at_end: Callable[[Pictures], Bundle | None]) -> None:
        self._work = work
        self._view = view
        self._at_end = at_end
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._waiters: list[Callable[[], None]] = []
        self._unsubscribe = work.subscribe(self._changed)
        self._changed()

    @property
    def state(self) -> str:
        """In a word: "queued", "drawing", ..., "done", "failed" or "cancelled"."""
        if not self._work.is_final:
            return self._work.progress().stage
        error = self._work.error
        return "done" if error is None else ("cancelled" if "Cancelled" in type(error).__name__ else "failed")

    @property
    def is_done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    @property
    def images(self) -> Pictures:
        """What has been made so far."""
        return self._work.pictures()

    def cancel(self) -> None:
        """Asks it to stop; returns at once."""
        self._work.cancel()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Blocks until it has ended or `timeout_s` seconds have passed; returns whether it has ended."""
        if timeout_s is not None:
            return self._ended.wait(timeout_s)
        while not self._ended.wait(WAIT_SLICE_S):
            pass
        return True

    def result(self, timeout_s: float | None = None) -> Pictures:
        """Waits for the pictures.

        Raises:
            AIError: it failed or was cancelled.
            GenerationTimeoutError: it has not ended after `timeout_s` seconds.
        """
        if not self.wait(timeout_s):
            raise GenerationTimeoutError("the job has not ended yet", hint="wait longer, or call cancel()")
        if self._work.error is not None:
            raise self._work.error.with_traceback(None)
        return self._work.pictures()

    def __await__(self) -> Generator[Any, None, Pictures]:
        return self._wait_in_loop().__await__()

    async def _wait_in_loop(self) -> Pictures:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # that loop was closed meanwhile
                loop.call_soon_threadsafe(ended.set)

        with self._lock:
            is_over = self._ended.is_set()
            if not is_over:
                self._waiters.append(wake)
        if not is_over:
            await ended.wait()
        return self.result(timeout_s=0)

    def _changed(self) -> None:
        if not self._work.is_final:
            self._view.paint(self._work.progress())
            return
        with self._lock:
            if self._ended.is_set():
                return
            self._finish()
            self._ended.set()
            waiters, self._waiters = self._waiters, []
        self._unsubscribe()
        for wake in waiters:
            wake()

    def _finish(self) -> None:
        error = self._work.error
        try:
            bundle = self._at_end(self._work.pictures())
            self._view.finish(error_bundle(error) if bundle is None and error is not None else bundle)
        except AIError as late:
            self._view.finish(error_bundle(late))
        except Exception:  # noqa: BLE001 - nobody is there to catch it: the job's end must still be told
            _log.exception("the background job's output could not be finished")

    def __repr__(self) -> str:
        made = len(self.images)
        return f"<BackgroundJob {self.state}, {made} of {self.images.wanted} pictures: {self.images.prompt}>"

    def _ipython_display_(self) -> None:
        """Nothing: the cell that began it shows it. `print(job)` tells its state."""


def error_bundle(error: AIError) -> Bundle:
    """An error as a cell's output, where no exception can be raised any more."""
    import html

    lines = error._render_traceback_()
    markup = "<br>".join(html.escape(line) for line in lines)
    return {"text/plain": "\n".join(lines), "text/html": f"<div>{markup}</div>"}, {}
