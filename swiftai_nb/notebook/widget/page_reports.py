"""What `ImagineWidget` tells its page: jobs, pictures, models and lists as traits, and messages."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from swiftai_nb.notebook import wire
from swiftai_nb.notebook.output.host import is_kernel_ending
from swiftai_nb.notebook.progress import Throttle
from swiftai_nb.notebook.session import get_session
from swiftai_nb.notebook.widget.form import choices, error_report
from swiftai_nb.notebook.widget.input_pictures import InputPictures
from swiftai_nb.notebook.widget.job_tracker import JobTracker
from swiftai_nb.notebook.widget.model_picker import ModelPicker
from swiftai_nb.notebook.widget.static_output import StaticOutput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from swiftai_nb.core.errors import AIError
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.jobs.job import GenerationJob

SHOWN_PICTURES = 60
SHOWN_JOBS = 100
MODELS_INTERVAL_S = 0.4


class PageReports(InputPictures, anywidget.AnyWidget):  # type: ignore[misc]
    """The traits that only the kernel writes, and what keeps them up to date.

    Args:
        session: the kernel's session; None is the shared one.
        traits: values of traits.

    Attributes:
        jobs, pictures, models, controlnets, inputs, choices: what the page shows, in the shapes of `wire`.
        images: the pictures made by this widget, oldest first.
    """

    models = traitlets.List(traitlets.Dict()).tag(sync=True)
    controlnets = traitlets.List(traitlets.Dict()).tag(sync=True)
    jobs = traitlets.List(traitlets.Dict()).tag(sync=True)
    pictures = traitlets.List(traitlets.Dict()).tag(sync=True)
    picture_count = traitlets.Int(0).tag(sync=True)
    inputs = traitlets.List(traitlets.Dict()).tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    static_output_tail = traitlets.Unicode("").tag(sync=True)

    images = traitlets.Tuple()

    def __init__(self, *, session: Any = None, **traits: Any) -> None:
        # Traits are set from the job's thread, the page's subshell and the user's cell alike.
        self._traits_lock = threading.RLock()
        super().__init__(**traits)
        self._session = get_session() if session is None else session
        self._static_output = StaticOutput()
        self._own_jobs: dict[str, int] = {}  # how many pictures of each are in `images`
        self._shown_pictures = SHOWN_PICTURES
        self._picker = ModelPicker(self._session, changed=self._on_models, on_error=self._send_error)
        self._models_throttle = Throttle(self._publish_models, interval_s=MODELS_INTERVAL_S)
        self._tracker = JobTracker(
            self._session,
            publish=self._publish_jobs,
            on_preview=self._send_preview,
            on_images=self._on_images,
        )

    def close(self) -> None:
        """Removes the widget; its jobs continue."""
        tracker = getattr(self, "_tracker", None)
        if tracker is not None:
            tracker.close()
            self._models_throttle.close()
        super().close()

    def _publish_choices(self) -> None:
        self.choices = choices(self._session)

    def _publish_jobs(self) -> None:
        if is_kernel_ending():
            return
        snapshots = [
            wire.job_snapshot(job, request_id=request_id, picture_ids=self._session.history_ids(job))
            for job, request_id in self._tracker.jobs[:SHOWN_JOBS]
        ]
        with self._traits_lock:
            self.jobs = snapshots

    def _publish_pictures(self) -> None:
        entries = self._session.history.newest(self._shown_pictures)
        known = {(picture["id"], picture["favorite"]): picture for picture in self.pictures}
        origins = self._session.picture_origins
        with self._traits_lock:
            self.picture_count = len(self._session.history)
            self.pictures = [
                known.get((entry.id, entry.is_favorite)) or wire.picture_snapshot(entry, origins=origins)
                for entry in reversed(entries)
            ]

    def _publish_inputs(self) -> None:
        snapshots = self.input_snapshots(self._session.picture_origins)
        with self._traits_lock:
            self.inputs = snapshots

    def _on_models(self) -> None:
        self._models_throttle()

    def _publish_models(self) -> None:
        rows = self._picker.entries()
        with self._traits_lock:
            self.models, self.controlnets = rows, self._picker.controlnets(self.model)

    def _on_images(self, job: GenerationJob) -> None:
        with self._traits_lock:
            if job.id in self._own_jobs:
                new = job.images[self._own_jobs[job.id] :]
                self._own_jobs[job.id] = len(job.images)
                if new:
                    self.images = (*self.images, *new)
                    self._update_static_output(new[-1])
        self._publish_pictures()

    def _update_static_output(self, image: GeneratedImage) -> None:
        # The page must be able to identify the output before it appears, so that it is never visible.
        self.static_output_tail = self._static_output.tail(image)
        self._static_output.update(image)

    def _send_preview(self, job: GenerationJob, preview: bytes) -> None:
        progress = job.progress
        step = 0 if progress is None else progress.current_step
        self.send(*wire.preview_message(job.id, preview, step=step))

    def _send_error(self, error: AIError, *, request_id: str = "", model: str = "") -> None:
        self.send(error_report(error, request_id=request_id, model=model))

    # traitlets is not made for threads: while a message from the page is applied, an assignment in
    # another thread would land in the page's transaction and could be lost.

    @contextlib.contextmanager
    def hold_trait_notifications(self) -> Iterator[Any]:
        """See traitlets; one thread at a time."""
        with self._traits_lock, super().hold_trait_notifications():
            yield

    def _notify_trait(self, name: str, old_value: Any, new_value: Any) -> None:
        with self._traits_lock:
            super()._notify_trait(name, old_value, new_value)
