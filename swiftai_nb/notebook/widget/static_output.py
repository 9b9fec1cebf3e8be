"""What a saved notebook shows in the place of the widget."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swiftai_nb.core.image import GeneratedImage

TAIL_LENGTH = 64


class StaticOutput:
    """What a saved notebook shows without a kernel: the newest picture as an ordinary output.

    The widget is displayed with a second, empty output below it, which becomes the newest picture. While
    the widget is alive the page hides it (js/src/widget/static_output.ts finds it by the end of its base64
    text).
    """

    def __init__(self) -> None:
        self._display_id: str | None = None
        self._image: GeneratedImage | None = None

    def tail(self, image: GeneratedImage) -> str:
        """The end of the output's base64 text, by which the page identifies it."""
        # From a whole group of three bytes on, the text is the same as that of the whole file.
        start = max(0, len(image.data) - TAIL_LENGTH) // 3 * 3
        return base64.b64encode(image.data[start:]).decode("ascii")[-TAIL_LENGTH:]

    def display(self, bundle: dict[str, Any]) -> None:
        """Displays the widget and, below it, the static output."""
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

    def update(self, image: GeneratedImage) -> None:
        """Makes `image` the output; does nothing visible where the widget was never displayed by itself."""
        self._image = image
        if self._display_id is None:
            return
        from IPython.display import update_display

        data, metadata = image._repr_mimebundle_()
        update_display(data, metadata=metadata, raw=True, display_id=self._display_id)
