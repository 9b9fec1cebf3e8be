"""The jobs of the kernel as one widget follows them: which ones it shows, and what the page has of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from swiftai_nb.notebook.progress import Throttle

if TYPE_CHECKING:
    from swiftai_nb.jobs.job import GenerationJob

PUBLISH_INTERVAL_S = 0.2


class JobTracker:
    """The unfinished jobs of a session, and the last one that has ended after its start.

    Args:
        session: the kernel's session.
        publish: called, from any thread and at a limited rate, when the jobs have changed.
        on_preview: called with (job, JPEG bytes) for each new preview.
        on_images: called with a job when it has finished more pictures.
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
        self._jobs: dict[str, _TrackedJob] = {}
        self._last_ended: GenerationJob | None = None
        self._ended_request_id = ""
        self._submitting = threading.local()
        self._throttle = Throttle(self._publish_all, interval_s=PUBLISH_INTERVAL_S)
        self._stop_listening: Callable[[], None] = _nothing

    def start(self) -> None:
        """Follows the unfinished jobs and all that are submitted from now on."""
        self._stop_listening = self._session.on_submit(self._track)
        for job in self._session.queue.jobs:
            if not job.state.is_final:
                self._track(job)

    @property
    def jobs(self) -> list[tuple[GenerationJob, str]]:
        """(job, request id) of those to show: the ended one first, then in the order of submission."""
        with self._lock:
            open_jobs = [(f.job, f.request_id) for f in self._jobs.values() if f.job is not self._last_ended]
            last = self._last_ended
        return open_jobs if last is None else [(last, self._ended_request_id), *open_jobs]

    def submit(self, request_id: str, submit: Callable[[], GenerationJob]) -> GenerationJob:
        """Calls `submit` and records the page's id of the request for the job it creates."""
        self._submitting.request_id = request_id
        try:
            return submit()
        finally:
            self._submitting.request_id = ""

    def find(self, *, job_id: str = "", request_id: str = "") -> GenerationJob | None:
        """The unfinished job of that id, or of that request."""
        with self._lock:
            for tracked in self._jobs.values():
                if tracked.job.id == job_id or (request_id and tracked.request_id == request_id):
                    return tracked.job
        return None

    def close(self) -> None:
        """Stops following; the jobs continue."""
        self._stop_listening()
        self._throttle.close()
        with self._lock:
            tracked, self._jobs = list(self._jobs.values()), {}
        for one in tracked:
            one.unsubscribe()

    def _track(self, job: GenerationJob) -> None:
        with self._lock:
            if job.id in self._jobs:
                return
            tracked = _TrackedJob(job, getattr(self._submitting, "request_id", ""))
            self._jobs[job.id] = tracked
        self._throttle(now=True)
        tracked.unsubscribe = job.subscribe(self._on_change)
        job.token.on_cancel(lambda: self._throttle(now=True))

    def _on_change(self, job: GenerationJob) -> None:
        with self._lock:
            tracked = self._jobs.get(job.id)
            if tracked is None:
                return
            has_images = len(job.images) > tracked.image_count_sent
            tracked.image_count_sent = len(job.images)
            has_new_state = job.state is not tracked.state_sent
            tracked.state_sent = job.state
        if has_images:
            self._on_images(job)
        if job.state.is_final:
            self._end(tracked)
        self._throttle(now=has_new_state)

    def _end(self, tracked: _TrackedJob) -> None:
        self._send_preview(tracked)
        job = tracked.job
        with self._lock:
            self._jobs.pop(job.id, None)
            if job.elapsed_s > 0 or job.state.value == "failed":
                self._last_ended, self._ended_request_id = job, tracked.request_id
        tracked.unsubscribe()

    def _publish_all(self) -> None:
        with self._lock:
            running = list(self._jobs.values())
        for tracked in running:
            self._send_preview(tracked)
        self._publish()

    def _send_preview(self, tracked: _TrackedJob) -> None:
        preview = tracked.job.last_preview
        with self._lock:
            is_new = preview is not None and preview is not tracked.preview_sent
            tracked.preview_sent = preview
        if is_new and preview is not None:
            self._on_preview(tracked.job, preview)


class _TrackedJob:
    """A job, and what of it has been sent to the page."""

    def __init__(self, job: GenerationJob, request_id: str) -> None:
        self.job = job
        self.request_id = request_id
        self.image_count_sent = 0
        self.state_sent: Any = None
        self.preview_sent: bytes | None = None
        self.unsubscribe: Callable[[], None] = _nothing


def _nothing() -> None:
    """No subscription yet."""
