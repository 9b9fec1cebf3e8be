"""Progress of running work as cells and the widget show it, and how often it is sent."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.format import format_elapsed, format_remaining
from swiftai_nb.core.progress import GenerationStage

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob


class ProgressSnapshot(TypedDict):
    """`WorkProgress` without its preview, as it is sent to the page."""

    stage: str
    detail: str
    step: int
    steps: int
    image_index: int
    count: int
    fraction: float
    elapsed_s: float
    remaining_s: float | None
    cancelling: bool


@dataclass(frozen=True)
class WorkProgress:
    """Progress of a job, a grid or a download at one moment.

    Args:
        stage: what is being done.
        detail: more about the stage; may be empty.
        step: completed steps of the current picture.
        steps: steps of each picture; 0 when unknown.
        image_index: the current picture, from 0.
        count: pictures in total.
        current_fraction: of the current picture, 0 to 1, where that is not step / steps.
        elapsed_s: seconds since the work began.
        remaining_s: estimated seconds until the end of the whole work, or None.
        is_cancelling: whether a cancel was requested.
        preview: the picture so far as JPEG, or None.
    """

    stage: str = ""
    detail: str = ""
    step: int = 0
    steps: int = 0
    image_index: int = 0
    count: int = 1
    current_fraction: float | None = None
    elapsed_s: float = 0.0
    remaining_s: float | None = None
    is_cancelling: bool = False
    preview: bytes | None = field(default=None, repr=False)

    @property
    def fraction(self) -> float:
        """Of the whole work, 0 to 1."""
        current = self.current_fraction
        if current is None:
            current = self.step / self.steps if self.steps > 0 else 0.0
        return min(1.0, (self.image_index + current) / max(1, self.count))

    def snapshot(self) -> ProgressSnapshot:
        """All but the preview, as it is sent to the page."""
        return {
            "stage": self.stage,
            "detail": self.detail,
            "step": self.step,
            "steps": self.steps,
            "image_index": self.image_index,
            "count": self.count,
            "fraction": round(self.fraction, 4),
            "elapsed_s": round(self.elapsed_s, 2),
            "remaining_s": None if self.remaining_s is None else round(self.remaining_s, 2),
            "cancelling": self.is_cancelling,
        }

    def __str__(self) -> str:
        """One line: "drawing, step 4 of 20, 3.2 s, about 12 s left"."""
        if self.is_cancelling:
            return "cancelling after this step"
        parts = [self.stage, self.detail]
        if self.count > 1:
            parts.append(f"picture {self.image_index + 1} of {self.count}")
        if self.steps:
            parts.append(f"step {self.step} of {self.steps}")
        parts.append(format_elapsed(self.elapsed_s))
        if self.remaining_s is not None and self.remaining_s > 0:
            parts.append(format_remaining(self.remaining_s))
        return ", ".join(part for part in parts if part)


def job_progress(job: GenerationJob) -> WorkProgress:
    """Progress of a job: of its current picture, with the estimate for all of them."""
    progress, count = job.progress, len(job.request.seeds)
    stage: str = "starting"
    detail, step, steps, remaining_s = "", 0, 0, None
    if job.state.value == "queued":
        stage, position = GenerationStage.QUEUED, job.queue_position or 0
        detail = f"{position} before this one" if position else ""
    elif progress is not None:
        stage, detail = progress.stage, progress.detail
        step, steps = progress.current_step, progress.total_steps
        remaining_s = progress.estimated_time_remaining
        if remaining_s is not None:
            later = count - job.image_index - 1
            remaining_s += later * (progress.elapsed_time + remaining_s)
    if isinstance(job.error, GenerationCancelledError) and job.error.total_steps > 0:
        step, steps = job.error.completed_steps, job.error.total_steps
    return WorkProgress(
        stage=str(stage),
        detail=detail,
        step=step,
        steps=steps,
        image_index=job.image_index,
        count=count,
        elapsed_s=job.elapsed_s,
        remaining_s=remaining_s,
        is_cancelling=job.token.is_cancelled and not job.state.is_final,
        preview=job.last_preview,
    )


class Throttle:
    """Limits the rate of `action`; the last request is never dropped. Thread-safe.

    Args:
        action: called by the first request, or by a timer thread.
        interval_s: seconds between two calls.
        first_after_s: seconds from now to the first call.
    """

    def __init__(self, action: Callable[[], None], *, interval_s: float, first_after_s: float = 0.0) -> None:
        self._action = action
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._next_s = time.monotonic() + first_after_s
        self._closed = False
        # Comm messages must be sent in the context in which the comm was opened (ipykernel 7).
        self._context = contextvars.copy_context()

    def __call__(self, *, now: bool = False) -> None:
        """Requests a call; `now` makes it immediately."""
        with self._lock:
            wait_s = 0.0 if now else self._next_s - time.monotonic()
            if self._closed or (wait_s > 0 and self._timer is not None):
                return
            if wait_s > 0:
                self._timer = threading.Timer(wait_s, self._context.copy().run, (self._fire,))
                self._timer.daemon = True
                self._timer.start()
                return
        self._fire()

    def close(self) -> None:
        """Drops the pending call."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _fire(self) -> None:
        with self._lock:
            if self._closed:
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._next_s = time.monotonic() + self._interval_s
        self._action()
