"""The end of a cell's work: waited for by a blocking cell, or in the background (`--bg`)."""

from __future__ import annotations

import base64
import html
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from swiftai_nb.core.errors import AIError, GenerationCancelledError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.task import Task
from swiftai_nb.notebook.cell import cancel
from swiftai_nb.notebook.cell.display import Bundle, CellView
from swiftai_nb.notebook.cell.work import Work
from swiftai_nb.notebook.output.host import is_kernel_ending
from swiftai_nb.notebook.output.pictures import Pictures, embed
from swiftai_nb.notebook.progress import WorkProgress

_log = logging.getLogger(__name__)
POLL_S = 0.03
REPAINT_S = 0.2  # a terminal's clock has no other source
CANCEL_TIMEOUT_S = 15.0  # from an interrupt until the cell no longer waits for the engine


class GenerationInterrupted(KeyboardInterrupt):
    """The stop button or Ctrl-C ended the work; one line, and Run All stops.

    A KeyboardInterrupt, so that a loop with `except Exception` does not swallow it.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def wait(
    work: Work, view: CellView, *, kernel: Any = None, route: cancel.SubshellRoute | None = None
) -> bool:
    """Blocks until `work` has ended, painting it; returns whether an interrupt requested the end.

    It waits for an Event, never for a thread: CPython up to 3.12 considers a running thread ended when
    KeyboardInterrupt interrupts `Thread.join`. A second interrupt ends the wait at once.
    """
    changed = threading.Event()
    unsubscribe = work.subscribe(changed.set)
    interrupted = False
    handler = getattr(view, "handle", lambda _content: None)
    try:
        with cancel.listening(view.comm, kernel=kernel, route=route, handler=handler) as poll:
            deadline: float | None = None
            next_paint_s = 0.0
            while not work.is_final and (deadline is None or time.monotonic() < deadline):
                try:
                    has_changed = changed.wait(POLL_S)
                    changed.clear()
                    poll()
                    if has_changed or time.monotonic() >= next_paint_s:
                        view.paint(work.progress())
                        next_paint_s = time.monotonic() + REPAINT_S
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted, deadline = True, time.monotonic() + CANCEL_TIMEOUT_S
                    work.cancel()
    finally:
        unsubscribe()
        if not work.is_final:
            work.cancel()
    return interrupted


def outcome(work: Work, *, interrupted: bool) -> None:
    """Raises the error of the work, if any.

    Raises:
        GenerationInterrupted: the stop button ended it.
        AIError: it failed, or was cancelled.
    """
    error = work.error
    if isinstance(error, GenerationCancelledError) and interrupted:
        raise GenerationInterrupted(error.message) from None
    if error is not None:
        raise error.with_traceback(None) from None
    if interrupted:
        raise GenerationInterrupted("Interrupted")


def final_bundle(work: Work, *, largest_bytes: int | None = None) -> Bundle | None:
    """The output that remains: the pictures, else the preview of a cancelled one, else nothing."""
    pictures = work.pictures()
    if pictures:
        return embed(pictures, largest_bytes=largest_bytes)
    preview = work.last_preview
    if preview is None or not isinstance(work.error, GenerationCancelledError):
        return None
    return _unfinished(preview, pictures)


def _unfinished(preview: bytes, pictures: Pictures) -> Bundle:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.image_input import to_pil

    width, height = GeneratedImage(b"", *to_pil(preview).size).display_size
    text = f"Unfinished picture: {shorten(pictures.prompt)}"
    data = {"image/jpeg": base64.b64encode(preview).decode("ascii"), "text/plain": text}
    return data, {"image/jpeg": {"alt": text, "width": width, "height": height}}


class BackgroundJob(Task[Pictures, WorkProgress]):
    """The result of `%imagine --bg`: a task that can be awaited or cancelled from any cell.

    Args:
        work: started already.
        view: the output of the cell that started it.
        at_end: called once with the pictures, before the task ends: binds, saves, returns the output.
    """

    def __init__(self, work: Work, view: CellView, *, at_end: Callable[[Pictures], Bundle | None]) -> None:
        super().__init__(name="the job")
        self._work = work
        self._view = view
        self._at_end = at_end
        self._finishing = threading.Lock()
        self.token.on_cancel(work.cancel)
        self._unsubscribe = work.subscribe(self._on_change)
        self._on_change()

    @property
    def is_done(self) -> bool:
        """Whether it has ended, successfully or not."""
        return self.done

    @property
    def images(self) -> Pictures:
        """The pictures so far."""
        return self._work.pictures()

    def _on_change(self) -> None:
        if not self._work.is_final:
            progress = self._work.progress()
            self._view.paint(progress)
            self.start()
            self.report(progress)
        elif self._finishing.acquire(blocking=False):  # once, and never released
            self._show_end()
            if self._work.error is None:
                self.set_result(self._work.pictures())
            else:
                self.set_error(self._work.error)
            # A work that ended within `subscribe` has not returned it yet.
            getattr(self, "_unsubscribe", lambda: None)()

    def _show_end(self) -> None:
        error = self._work.error
        if error is not None and is_kernel_ending():
            return  # the output stays "(not finished)", and the page sees that the kernel is gone
        try:
            bundle = self._at_end(self._work.pictures())
            self._view.finish(error_bundle(error) if bundle is None and error is not None else bundle)
        except AIError as late:
            self._view.finish(error_bundle(late))
        except Exception:  # noqa: BLE001 - no caller could catch it, and the job must end
            _log.exception("the background job's output could not be finished")

    def __repr__(self) -> str:
        images = self.images
        return f"<BackgroundJob {self.state}, {len(images)} of {images.wanted} pictures: {images.prompt}>"

    def _ipython_display_(self) -> None:
        """Nothing: the cell that started it shows it. `print(job)` shows its state."""


def error_bundle(error: AIError) -> Bundle:
    """An error as a cell's output, where it can no longer be raised."""
    lines = error._render_traceback_()
    markup = "<br>".join(html.escape(line) for line in lines)
    return {"text/plain": "\n".join(lines), "text/html": f"<div>{markup}</div>"}, {}
