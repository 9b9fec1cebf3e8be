"""Follows the kernel's jobs for one widget and tells the page, a few times a second at most."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swiftai_nb.notebook.progress import Throttle

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob

PUBLISH_INTERVAL_S = 0.2


class JobTracker:
    """The unfinished jobs of a session, and the last one that ended after it had begun.

    Args:
        session: the kernel's session.
        publish: called with nothing when the page should be told anew, from any thread.
        on_preview: called with (job, JPEG bytes) when a job has a new preview to show.
        on_images: called with a job when it has finished pictures that were not told yet.
    """

    def __init__(
        self,
        session: Any,
        *,
        publish: Callable[[], None],
        on_preview: Callable[[GenerationJob, bytes], None],
        on_images: Callable[[GenerationJob], None],
    ) -> None:
        self._session = session
        self._publish = publish
        self._on_preview = on_preview
        self._on_images = on_images
        self._lock = threading.RLock()
        self._jobs: dict[str, _Followed] = {}
        self._last_ended: GenerationJob | None = None
        self._ended_request_id = ""
        self._asking = threading.local()
        self._throttle = Throttle(self._tell, interval_s=PUBLISH_INTERVAL_S)
        self._stop_listening: Callable[[], None] = _nothing

    def start(self) -> None:
        """Follows what is unfinished, and all that comes."""
        self._stop_listening = self._session.on_submit(self._follow)
        for job in self._session.queue.jobs:
            if not job.state.is_final:
                self._follow(job)

    @property
    def jobs(self) -> list[tuple[GenerationJob, str]]:
        """(job, request id) of those to show, the ended one first, then in order of arrival."""
        with self._lock:
            open_jobs = [(f.job, f.request_id) for f in self._jobs.values() if f.job is not self._last_ended]
            last = self._last_ended
        return open_jobs if last is None else [(last, self._ended_request_id), *open_jobs]

    def submit(self, request_id: str, submit: Callable[[], GenerationJob]) -> GenerationJob:
        """Calls `submit` and remembers the page's name for the job it makes."""
        self._asking.request_id = request_id
        try:
            return submit()
        finally:
            self._asking.request_id = ""

    def find(self, *, job_id: str = "", request_id: str = "") -> GenerationJob | None:
        """The unfinished job of that id, or of that request."""
        with self._lock:
            for followed in self._jobs.values():
                if followed.job.id == job_id or (request_id and followed.request_id == request_id):
                    return followed.job
        return None

    def close(self) -> None:
        """Stops following; the jobs go on."""
        self._stop_listening()
        self._throttle.close()
        with self._lock:
            followed, self._jobs = list(self._jobs.values()), {}
        for one in followed:
            one.unsubscribe()

    def _follow(self, job: GenerationJob) -> None:
        with self._lock:
            if job.id in self._jobs:
                return
            followed = _Followed(job, getattr(self._asking, "request_id", ""))
            self._jobs[job.id] = followed
        self._throttle(now=True)
        followed.unsubscribe = job.subscribe(self._on_change)
        job.token.on_cancel(lambda: self._throttle(now=True))

    def _on_change(self, job: GenerationJob) -> None:
        with self._lock:
            followed = self._jobs.get(job.id)
            if followed is None:
                return
            has_images = len(job.images) > followed.images_told
            followed.images_told = len(job.images)
            has_new_state = job.state is not followed.state_told
            followed.state_told = job.state
        if has_images:
            self._on_images(job)
        if job.state.is_final:
            self._end(followed)
        self._throttle(now=has_new_state)

    def _end(self, followed: _Followed) -> None:
        self._send_preview(followed)
        job = followed.job
        with self._lock:
            self._jobs.pop(job.id, None)
            if job.elapsed_s > 0 or job.state.value == "failed":
                self._last_ended, self._ended_request_id = job, followed.request_id
        followed.unsubscribe()

    def _tell(self) -> None:
        with self._lock:
            running = list(self._jobs.values())
        for followed in running:
            self._send_preview(followed)
        self._publish()

    def _send_preview(self, followed: _Followed) -> None:
        preview = followed.job.last_preview
        with self._lock:
            is_new = preview is not None and preview is not followed.preview_told
            followed.preview_told = preview
        if is_new and preview is not None:
            self._on_preview(followed.job, preview)


class _Followed:
    """A job and what of it the page knows already."""

    def __init__(self, job: GenerationJob, request_id: str) -> None:
        self.job = job
        self.request_id = request_id
        self.images_told = 0
        self.state_told: Any = None
        self.preview_told: bytes | None = None
        self.unsubscribe: Callable[[], None] = _nothing


def _nothing() -> None:
    """Nothing to end yet."""
