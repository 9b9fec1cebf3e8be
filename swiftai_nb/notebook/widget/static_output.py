"""What a saved notebook shows without a kernel: the newest picture as an ordinary output.

A widget is state in a kernel; a notebook that is opened later has only its outputs. So the widget is
displayed with a second, empty output under it, which becomes the newest picture. While the widget is
alive the page hides that copy (js/src/keepsake.ts finds it by the end of its base64 text).
"""

from __future__ import annotations

import base64
from typing import Any

from swiftai_nb.core.image import GeneratedImage

TAIL_LENGTH = 64


class StaticOutput:
    """The second output of every display of one widget."""

    def __init__(self) -> None:
        self._display_id: str | None = None
        self._image: GeneratedImage | None = None

    def tail(self, image: GeneratedImage) -> str:
        """By which the page knows the copy: the end of its base64 text, padding included."""
        # Starting at a whole group of three bytes gives the same letters as encoding the whole file.
        start = max(0, len(image.data) - TAIL_LENGTH) // 3 * 3
        return base64.b64encode(image.data[start:]).decode("ascii")[-TAIL_LENGTH:]

    def display(self, bundle: dict[str, Any]) -> None:
        """Shows the widget and, under it, the place for the copy."""
        from IPython.display import display

        display(bundle, raw=True)
        data: dict[str, Any] = {"text/html": "", "text/plain": ""}
        metadata: dict[str, Any] = {}
        if self._image is not None:
            data, metadata = self._image._repr_mimebundle_()
        if self._display_id is None:
            handle = display(data, metadata=metadata, raw=True, display_id=True)
            self._display_id = None if handle is None else handle.display_id
        else:
            display(data, metadata=metadata, raw=True, display_id=self._display_id)

    def keep(self, image: GeneratedImage) -> None:
        """Makes `image` the copy; nothing happens where the widget was never displayed by itself."""
        self._image = image
        if self._display_id is None:
            return
        from IPython.display import update_display

        data, metadata = image._repr_mimebundle_()
        update_display(data, metadata=metadata, raw=True, display_id=self._display_id)
