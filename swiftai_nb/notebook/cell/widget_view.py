"""The widget in the output of a running cell: preview, progress and Cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from swiftai_nb.notebook.cell.display import Bundle, DisplayView
from swiftai_nb.notebook.progress import WorkProgress
from swiftai_nb.notebook.wire import STATIC, preview_message

WIDGET_INTERVAL_S = 0.08


class CellWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """The kernel's half of js/src/cell; the traits are `wire.CELL_TRAITS`.

    Args:
        job_id: sent with every click, so that a late one cannot cancel another job.
        prompt: shown, and the preview's alternative text.
        width: of the stage, CSS pixels.
        height: of the stage, CSS pixels.
        blocking: the cell waits for the job, so the page may interrupt the kernel as a last resort.
    """

    _esm = STATIC / "cell.js"
    _css = STATIC / "cell.css"

    job_id = traitlets.Unicode("").tag(sync=True)
    prompt = traitlets.Unicode("").tag(sync=True)
    width = traitlets.Int(256).tag(sync=True)
    height = traitlets.Int(256).tag(sync=True)
    blocking = traitlets.Bool(True).tag(sync=True)
    status = traitlets.Dict({}).tag(sync=True)


class WidgetView(DisplayView):
    """The widget as the output of a cell.

    Args:
        job_id: the work that a click may cancel.
        prompt: shown.
        size: of the stage, CSS pixels (width, height).
        blocking: the cell waits for the work.
        on_cancel: called on a click, from any thread.
        preview_every: a preview every so many steps.
    """

    def __init__(
        self,
        *,
        job_id: str,
        prompt: str,
        size: tuple[int, int],
        blocking: bool,
        on_cancel: Callable[[], None],
        preview_every: int = 1,
    ) -> None:
        super().__init__(interval_s=WIDGET_INTERVAL_S)
        width, height = size
        self._widget = CellWidget(job_id=job_id, prompt=prompt, width=width, height=height, blocking=blocking)
        self._preview_every = preview_every
        self._preview: bytes | None = None
        self._handlers = {"init": self._on_init, "cancel": on_cancel}
        self._widget.on_msg(lambda _widget, content, _buffers: self.handle(content))

    @property
    def comm(self) -> Any:
        """The widget's comm."""
        return self._widget.comm

    def handle(self, content: dict[str, Any]) -> None:
        """Handles a message from the page; one that names another job is ignored."""
        handler = self._handlers.get(str(content.get("kind")))
        if handler is not None and content.get("job_id") == self._widget.job_id:
            handler()

    def finish(self, bundle: Bundle | None) -> None:
        """Replaces the widget and closes it."""
        super().finish(bundle)
        self._widget.close()

    def _on_init(self) -> None:
        with self._lock:
            if self._is_open:
                self._widget.send({"kind": "ready"})
                if self._preview is not None:
                    self._send_preview(self._preview, step=self._widget.status.get("step", 0))

    def _data(self) -> dict[str, Any]:
        data = self._widget._repr_mimebundle_()
        return dict(data[0] if isinstance(data, tuple) else data)

    def _show(self, progress: WorkProgress) -> None:
        self._widget.status = progress.snapshot()
        preview = progress.preview
        if preview is not None and preview is not self._preview and progress.step % self._preview_every == 0:
            self._preview = preview
            self._send_preview(preview, step=progress.step)

    def _send_preview(self, jpeg: bytes, *, step: int) -> None:
        self._widget.send(*preview_message(self._widget.job_id, jpeg, step=step))
