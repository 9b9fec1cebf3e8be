"""A submitted request: its state, progress, finished pictures and cancellation."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from swiftai_nb.core.errors import GenerationCancelledError
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import ImageGenerationProgress
from swiftai_nb.core.request import GenerationPlan, GenerationRequest
from swiftai_nb.core.task import Task, TaskState

JobState = TaskState


class GenerationJob(Task[tuple[GeneratedImage, ...], ImageGenerationProgress]):
    """A submitted request, made by `JobQueue.submit`: a task whose result is its pictures.

    `progress` is that of the current picture; None before its first report. `result()` and `await job`
    give all pictures in order.

    Attributes:
        id: short text, unique within this machine.
        plan: the provider's decisions about the request.
    """

    def __init__(self, plan: GenerationPlan, *, position: Callable[[GenerationJob], int | None]) -> None:
        super().__init__(name="the job")
        self.id = uuid.uuid4().hex[:12]
        self.plan = plan
        self._position = position
        self._image_index = 0
        self._images: tuple[GeneratedImage, ...] = ()
        self._last_preview: bytes | None = None

    @property
    def request(self) -> GenerationRequest:
        """What was submitted."""
        return self.plan.request

    @property
    def image_index(self) -> int:
        """Which picture is being made, from 0."""
        return self._image_index

    @property
    def images(self) -> tuple[GeneratedImage, ...]:
        """The finished pictures in order; kept when the job is cancelled or fails."""
        return self._images

    @property
    def last_preview(self) -> bytes | None:
        """The newest preview as JPEG bytes; kept after the end."""
        return self._last_preview

    @property
    def queue_position(self) -> int | None:
        """Unfinished jobs before this one in its lane: 0 when running or next; None after the end."""
        return None if self.state.is_final else self._position(self)

    def begin_image(self, index: int) -> None:
        """For the queue: picture `index` is next, without progress so far."""
        self._image_index = index
        self.report(None)

    def report_image(self, index: int, progress: ImageGenerationProgress) -> None:
        """For the queue: progress of picture `index`; ignored when another one is being made."""
        if index != self._image_index or self.done:
            return
        if progress.preview is not None:
            self._last_preview = progress.preview
        self.report(progress)

    def add_image(self, image: GeneratedImage) -> None:
        """For the queue: the current picture is finished."""
        self._images = (*self._images, image)
        self.notify()

    def cancelled_error(self) -> GenerationCancelledError:
        """The error of a job that is cancelled now: at which step, and how many pictures are kept."""
        progress = self.progress
        return cancelled_error(
            finished=len(self.images),
            wanted=len(self.request.seeds),
            step=0 if progress is None else progress.current_step,
            steps=0 if progress is None else progress.total_steps,
        )

    def __repr__(self) -> str:
        made = f"{len(self.images)} of {len(self.request.seeds)}"
        return f"<GenerationJob {self.id} {self.state}, {made} pictures: {self.request.prompt[:60]}>"


def cancelled_error(*, finished: int, wanted: int, step: int = 0, steps: int = 0) -> GenerationCancelledError:
    """The error after a cancel, such as "Cancelled at step 3 of 20. Kept 1 of 6 pictures".

    Args:
        finished: pictures that are kept.
        wanted: pictures requested; with one, there is nothing to say about others.
        step: of the unfinished picture.
        steps: of the unfinished picture in all; 0 when it had not begun.
    """
    message = f"Cancelled at step {step} of {steps}" if steps else "Cancelled"
    if wanted > 1:
        message += f". Kept {finished} of {wanted} pictures." if finished else ". No pictures were finished."
    return GenerationCancelledError(message, completed_steps=step, total_steps=steps)
