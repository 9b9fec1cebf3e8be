"""A cell that waits for its pictures: shows them forming, hears Cancel, ends as a plain picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swiftai_nb.core.errors import AIError, GenerationCancelledError
from swiftai_nb.core.format import shorten
from swiftai_nb.notebook.cell import cancel
from swiftai_nb.notebook.cell.views import Bundle, CellView
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import WorkProgress, job_progress

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.jobs.job import GenerationJob

POLL_S = 0.03
REPAINT_S = 0.2  # a terminal's clock has no other source
PATIENCE_S = 15.0  # after a stop request, before the cell gives up waiting for the engine


class GenerationInterrupted(KeyboardInterrupt):
    """The stop button or Ctrl-C ended the work; one line, and Run All stops.

    A KeyboardInterrupt, so that a loop with `except Exception` does not swallow it.
    """

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Work(Protocol):
    """What a cell waits for: a job, or a grid of them."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def error(self) -> AIError | None:
        """Why it failed or was cancelled."""
        ...

    def progress(self) -> WorkProgress:
        """What to show now."""
        ...

    def pictures(self) -> Pictures:
        """What has been made."""
        ...

    def cancel(self) -> None:
        """Asks it to stop."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change; returns a function that ends this."""
        ...


@dataclass(frozen=True)
class JobWork:
    """A job as a cell sees it.

    Args:
        job: the job.
        prompt: the words as the user typed them, for the result's text.
        earlier: pictures that precede the job's own.
    """

    job: GenerationJob
    prompt: str
    earlier: Sequence[GeneratedImage] = ()

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.job.state.is_final

    @property
    def error(self) -> AIError | None:
        """The job's error."""
        return self.job.error

    def progress(self) -> WorkProgress:
        """What to show of the job now."""
        return job_progress(self.job)

    def pictures(self) -> Pictures:
        """The pictures so far."""
        wanted = len(self.earlier) + len(self.job.request.seeds)
        return Pictures([*self.earlier, *self.job.images], prompt=self.prompt, wanted=wanted)

    def cancel(self) -> None:
        """Cancels the job."""
        self.job.cancel()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change of the job."""
        return self.job.subscribe(lambda _job: callback())


def wait(
    work: Work, view: CellView, *, kernel: Any = None, route: cancel.SubshellRoute | None = None
) -> bool:
    """Blocks until `work` has ended, painting it; returns whether an interrupt asked for the end.

    The waiting is on an Event, never on a thread: CPython up to 3.12 takes a running thread for ended
    when KeyboardInterrupt hits `Thread.join`. A second interrupt is not waited out.
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
                    interrupted, deadline = True, time.monotonic() + PATIENCE_S
                    work.cancel()
    finally:
        unsubscribe()
        if not work.is_final:
            work.cancel()
    return interrupted


def outcome(work: Work, *, interrupted: bool) -> None:
    """Raises what the work ended with, if it did not end well.

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
        from swiftai_nb.notebook.output.embedding import embed

        return embed(pictures, largest_bytes=largest_bytes)
    preview = work.progress().preview
    if preview is None or not isinstance(work.error, GenerationCancelledError):
        return None
    return _unfinished(preview, pictures)


def _unfinished(preview: bytes, pictures: Pictures) -> Bundle:
    import base64

    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.image_input import to_pil

    width, height = GeneratedImage(b"", *to_pil(preview).size).display_size
    text = f"Unfinished picture: {shorten(pictures.prompt)}"
    data = {"image/jpeg": base64.b64encode(preview).decode("ascii"), "text/plain": text}
    return data, {"image/jpeg": {"width": width, "height": height}}
