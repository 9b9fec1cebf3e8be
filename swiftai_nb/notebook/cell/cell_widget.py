"""The little widget that stands in a cell while its picture is being made."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

STATIC = Path(__file__).parents[2] / "static"


class CellWidget(anywidget.AnyWidget):  # type: ignore[misc]
    """Progress, preview and a Cancel button; replaced by the plain picture at the end.

    Args:
        job_id: goes along with every click, so that a late one cannot cancel another job.
        prompt: shown, and the preview's alt text.
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

    def on_message(self, handler: Callable[[dict[str, Any]], None]) -> None:
        """Calls `handler` with every message from the page."""
        self.on_msg(lambda _widget, content, _buffers: handler(content))

    def send_preview(self, jpeg: bytes, *, step: int) -> None:
        """Shows `jpeg` on the stage; it never becomes part of the widget's saved state."""
        content: dict[str, Any] = {"kind": "preview", "step": step, "type": "image/jpeg"}
        if "google.colab" in sys.modules:  # binary buffers do not reach the page there
            self.send({**content, "base64": base64.b64encode(jpeg).decode("ascii")})
        else:
            self.send(content, [jpeg])
