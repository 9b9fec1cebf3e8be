"""A model's download as something a cell waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from swiftai_nb.core.errors import AIError
from swiftai_nb.notebook.output.pictures import Pictures
from swiftai_nb.notebook.progress import WorkProgress

if TYPE_CHECKING:
    from swiftai_nb.downloads.download import Download


class DownloadWork:
    """A running download, seen as a cell sees a job.

    Args:
        download: the shared download.
    """

    def __init__(self, download: Download) -> None:
        self._download = download
        self._started_at = time.monotonic()
        self._cancelling = False
        self.id = f"download-{download.progress.model_id}"

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self._download.done

    @property
    def error(self) -> AIError | None:
        """Why it ended without the model."""
        return self._download.error

    def progress(self) -> WorkProgress:
        """How far it is; the bar counts bytes."""
        progress = self._download.progress
        words = str(progress).partition(": ")[2] or progress.phase
        return WorkProgress(
            stage=f"downloading {progress.model_id}",
            elapsed_s=time.monotonic() - self._started_at,
            remaining_s=progress.eta_s,
            detail=words,
            current_fraction=progress.fraction_completed,
            is_cancelling=self._cancelling,
        )

    def pictures(self) -> Pictures:
        """None."""
        return Pictures([])

    def cancel(self) -> None:
        """Ends it, for all who wait; what came is kept."""
        self._cancelling = True
        self._download.cancel()

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls `callback` on every report and at the end."""
        return self._download.subscribe(lambda _download: callback())
