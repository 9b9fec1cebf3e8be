"""What a cell waits for: a job, a download, or the pictures of a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from swiftai_nb.core.cancellation import CallbackList
from swiftai_nb.core.errors import AIError, GenerationCancelledError
from swiftai_nb.core.format import format_bytes
from swiftai_nb.core.task import Task
from swiftai_nb.jobs.job import cancelled_error
from swiftai_nb.notebook.output.pictures import GridPictures, Pictures, axis_labels
from swiftai_nb.notebook.progress import WorkProgress, job_progress

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.downloads.download import Download
    from swiftai_nb.downloads.progress import DownloadProgress
    from swiftai_nb.jobs.job import GenerationJob
    from swiftai_nb.notebook.magic.options import Axis
    from swiftai_nb.notebook.output.contact_sheet import SheetPreview


class Work(Protocol):
    """What a cell waits for."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def error(self) -> AIError | None:
        """Why it failed or was cancelled."""
        ...

    @property
    def last_preview(self) -> bytes | None:
        """The preview (JPEG) of an unfinished picture, shown when it was cancelled before the first one."""
        ...

    def progress(self) -> WorkProgress:
        """Progress now."""
        ...

    def pictures(self) -> Pictures:
        """The finished pictures."""
        ...

    def cancel(self) -> None:
        """Requests the end; returns at once."""
        ...

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change; returns a function that ends this."""
        ...


class TaskWork:
    """The common half of works that are one task.

    Args:
        task: a job or a download.
    """

    def __init__(self, task: Task[Any, Any]) -> None:
        self._task = task

    @property
    def is_final(self) -> bool:
        """Whether the task has ended."""
        return self._task.done

    @property
    def error(self) -> AIError | None:
        """The task's error."""
        return self._task.error

    def cancel(self) -> None:
        """Cancels the task."""
        self._task.cancel()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change of the task; returns a function that ends this."""
        return self._task.subscribe(lambda _task: callback())


class JobWork(TaskWork):
    """A job; several pictures are previewed as a sheet that fills in.

    Args:
        job: the job.
        prompt: as the user typed it, for the text of the result.
    """

    def __init__(self, job: GenerationJob, *, prompt: str) -> None:
        super().__init__(job)
        self._job = job
        self._prompt = prompt
        self._sheet = None if len(job.request.seeds) == 1 else _sheet_preview(len(job.request.seeds))

    @property
    def last_preview(self) -> bytes | None:
        """The job's."""
        return self._job.last_preview

    def progress(self) -> WorkProgress:
        """The job's progress."""
        progress, images = job_progress(self._job), self._job.images
        if self._sheet is None:
            return progress
        cells = [*images, *[None] * (progress.count - len(images))]
        # The last preview of a finished picture must not appear in the next one's cell.
        is_current = progress.step > 0 and progress.image_index == len(images) < progress.count
        index = len(images) if is_current else None
        return replace(progress, preview=self._sheet.jpeg(cells, index=index, preview=progress.preview))

    def pictures(self) -> Pictures:
        """The finished pictures."""
        return Pictures(self._job.images, prompt=self._prompt, wanted=len(self._job.request.seeds))


class DownloadWork(TaskWork):
    """A running download; the bar counts bytes.

    Args:
        download: the shared download.
    """

    last_preview = None

    def __init__(self, download: Download) -> None:
        super().__init__(download)
        self._download = download
        self.id = f"download-{download.progress.model_id}"

    def progress(self) -> WorkProgress:
        """Progress in bytes."""
        progress = self._download.progress
        return WorkProgress(
            stage=f"downloading {progress.model_id}",
            detail=_download_detail(progress),
            current_fraction=progress.fraction_completed,
            elapsed_s=self._download.elapsed_s,
            remaining_s=progress.eta_s,
            is_cancelling=self._download.token.is_cancelled,
        )

    def pictures(self) -> Pictures:
        """None."""
        return Pictures([])


def _download_detail(progress: DownloadProgress) -> str:
    if not progress.total_bytes or progress.phase != "downloading":
        return progress.detail or progress.phase
    amount = f"{format_bytes(progress.completed_bytes)} of {format_bytes(progress.total_bytes)}"
    speed = f", {format_bytes(progress.bytes_per_s)}/s" if progress.bytes_per_s > 0 else ""
    return f"{progress.percent_completed} % ({amount}{speed})"


@dataclass(frozen=True)
class Sheet:
    """The cells of a sheet, filled in while the work runs.

    Args:
        cells: row by row; None where there is no picture yet.
        axes: of a grid; empty for plain pictures.
        prompt: for the text of the result.
    """

    cells: list[GeneratedImage | None]
    axes: tuple[Axis, ...]
    prompt: str

    @property
    def made(self) -> int:
        """How many pictures there are."""
        return sum(cell is not None for cell in self.cells)

    @property
    def missing(self) -> list[int]:
        """The cells without a picture."""
        return [index for index, cell in enumerate(self.cells) if cell is None]

    def pictures(self) -> Pictures:
        """The pictures so far."""
        if self.axes:
            return GridPictures(self.cells, axes=self.axes, prompt=self.prompt)
        made = [cell for cell in self.cells if cell is not None]
        return Pictures(made, prompt=self.prompt, wanted=len(self.cells))


class SheetWork:
    """The common half of works that fill a sheet: its pictures, its preview, its subscribers.

    Args:
        sheet: the cells; those that are filled already are not made again.
    """

    last_preview = None

    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet
        self._error: AIError | None = None
        self._callbacks: CallbackList[[]] = CallbackList()
        self._preview = _sheet_preview(len(sheet.cells), sheet.axes)

    def pictures(self) -> Pictures:
        """The pictures so far."""
        return self._sheet.pictures()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every change; returns a function that ends this."""
        return self._callbacks.add(callback)

    def _over_sheet(
        self,
        progress: WorkProgress,
        *,
        elapsed_s: float,
        remaining_s: float | None,
        is_cancelling: bool,
        current: int | None = None,
    ) -> WorkProgress:
        """Progress of one cell as that of the whole sheet; `current` is the cell of its preview."""
        cells = list(self._sheet.cells)
        preview = progress.preview if progress.step > 0 else None
        return replace(
            progress,
            image_index=min(self._sheet.made, len(cells) - 1),
            count=len(cells),
            elapsed_s=elapsed_s,
            remaining_s=remaining_s,
            is_cancelling=is_cancelling,
            preview=self._preview.jpeg(cells, index=current, preview=preview),
        )

    def _cancelled_error(self, *, advice: str = "") -> GenerationCancelledError:
        error = cancelled_error(finished=self._sheet.made, wanted=len(self._sheet.cells))
        return GenerationCancelledError(f"{error.message}{advice}")


def _sheet_preview(count: int, axes: tuple[Axis, ...] = ()) -> SheetPreview:
    from swiftai_nb.notebook.output.contact_sheet import SheetPreview

    return SheetPreview(count, labels=axis_labels(axes) if axes else None)
