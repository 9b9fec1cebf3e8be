"""What stands in the output of a cell while it works: a widget, plain HTML, or a line of text.

All three end the same way: the plain picture takes their place, with the same text/plain as before, so
that a saved notebook holds no trace of them.
"""

from __future__ import annotations

import base64
import html
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from swiftai_nb.notebook.cell.snapshot import Snapshot

PAINT_INTERVAL_S = 0.08
HTML_INTERVAL_S = 0.5
Bundle = tuple[dict[str, Any], dict[str, Any]]


class CellView(Protocol):
    """One running cell's output."""

    @property
    def comm(self) -> Any:
        """The comm that brings the user's clicks, or None."""
        ...

    def start(self, text: str) -> None:
        """Shows it; `text` is the text/plain it has from beginning to end."""
        ...

    def paint(self, snapshot: Snapshot) -> None:
        """Shows a moment; may be called from any thread, as often as one likes."""
        ...

    def finish(self, bundle: Bundle | None) -> None:
        """Puts the plain output in its place; None leaves only the text."""
        ...


class NullView:
    """Shows nothing: `--quiet`, and shells without any display."""

    comm = None

    def start(self, text: str) -> None:
        """Does nothing."""

    def paint(self, snapshot: Snapshot) -> None:
        """Does nothing."""

    def finish(self, bundle: Bundle | None) -> None:
        """Does nothing."""


class WidgetView:
    """The widget with preview and Cancel button.

    Args:
        job_id: names the work that a click may cancel.
        prompt: shown.
        size: of the stage, CSS pixels (width, height).
        blocking: the cell waits for the work.
        on_cancel: called on a click, from whatever thread it arrives on.
        preview_every: a preview each so many steps.
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
        from swiftai_nb.notebook.cell.cell_widget import CellWidget

        width, height = size
        self._widget = CellWidget(job_id=job_id, prompt=prompt, width=width, height=height, blocking=blocking)
        self._job_id = job_id
        self._on_cancel = on_cancel
        self._preview_every = preview_every
        self._widget.on_message(self.handle)
        self._lock = threading.RLock()
        self._handle: Any = None
        self._text = ""
        self._preview: bytes | None = None
        self._painted_at = 0.0
        self._is_open = True

    @property
    def comm(self) -> Any:
        """The widget's comm."""
        return self._widget.comm

    def handle(self, content: dict[str, Any]) -> None:
        """Takes a message from the page."""
        if content.get("job") != self._job_id:
            return
        if content.get("kind") == "cancel":
            self._on_cancel()
        elif content.get("kind") == "ready":
            with self._lock:
                if self._preview is not None and self._is_open:
                    self._widget.send_preview(self._preview, step=0)

    def start(self, text: str) -> None:
        """Shows the widget."""
        from IPython.display import display

        self._text = text
        data = self._widget._repr_mimebundle_()
        data = data[0] if isinstance(data, tuple) else data
        self._handle = display({**data, "text/plain": text}, raw=True, display_id=True)

    def paint(self, snapshot: Snapshot) -> None:
        """Sends what changed, at most twelve times a second; a stop request at once."""
        with self._lock:
            was_cancelling = self._widget.status.get("cancelling", False)
            due = time.monotonic() - self._painted_at >= PAINT_INTERVAL_S
            if not self._is_open or not (due or snapshot.is_cancelling > was_cancelling):
                return
            self._painted_at = time.monotonic()
            self._widget.status = snapshot.status()
            new = snapshot.preview is not None and snapshot.preview is not self._preview
            if new and snapshot.step % self._preview_every == 0:
                self._preview = snapshot.preview
                self._widget.send_preview(snapshot.preview or b"", step=snapshot.step)

    def finish(self, bundle: Bundle | None) -> None:
        """Puts the plain output in the widget's place and closes it."""
        with self._lock:
            self._is_open = False
            data, metadata = ({"text/plain": self._text}, {}) if bundle is None else bundle
            if self._handle is not None:
                self._handle.update({**data, "text/plain": self._text}, metadata=metadata, raw=True)
            self._widget.close()


class HtmlView:
    """For front ends without widgets: a card of plain HTML, replaced twice a second."""

    comm = None

    def __init__(self, *, prompt: str, size: tuple[int, int], preview_every: int = 1) -> None:
        self._prompt = prompt
        self._size = size
        self._preview_every = preview_every
        self._lock = threading.RLock()
        self._handle: Any = None
        self._text = ""
        self._painted_at = 0.0
        self._is_open = True

    def start(self, text: str) -> None:
        """Shows the text."""
        from IPython.display import display

        self._text = text
        self._painted_at = time.monotonic()
        self._handle = display({"text/plain": text}, raw=True, display_id=True)

    def paint(self, snapshot: Snapshot) -> None:
        """Replaces the card."""
        with self._lock:
            if not self._is_open or time.monotonic() - self._painted_at < HTML_INTERVAL_S:
                return
            self._painted_at = time.monotonic()
            card = _card(self._prompt, self._size, snapshot)
            self._handle.update({"text/html": card, "text/plain": self._text}, raw=True)

    def finish(self, bundle: Bundle | None) -> None:
        """Puts the plain output in the card's place."""
        with self._lock:
            self._is_open = False
            data, metadata = ({}, {}) if bundle is None else bundle
            self._handle.update({**data, "text/plain": self._text}, metadata=metadata, raw=True)


def _card(prompt: str, size: tuple[int, int], snapshot: Snapshot) -> str:
    width, height = size
    box = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
    picture = f'<div style="{box};background:rgba(128,128,128,.15)"></div>'
    if snapshot.preview is not None:
        data = base64.b64encode(snapshot.preview).decode("ascii")
        picture = (
            f'<img style="{box}" alt="{html.escape(prompt)} (preview)" src="data:image/jpeg;base64,{data}">'
        )
    bar = f'<progress style="width:{width}px;max-width:100%" value="{snapshot.fraction:.3f}"></progress>'
    words = "cancelling after this step" if snapshot.is_cancelling else snapshot.line()
    return f"<div>{picture}<br>{bar}<br>{html.escape(words)}</div>"


class TextView:
    """For a terminal: one line on standard error, rewritten in place."""

    comm = None

    def __init__(self) -> None:
        self._width = 0
        self._is_terminal = sys.stderr.isatty()

    def start(self, text: str) -> None:
        """Does nothing: a terminal shows progress only."""

    def paint(self, snapshot: Snapshot) -> None:
        """Rewrites the line."""
        if self._is_terminal:
            line = "cancelling after this step" if snapshot.is_cancelling else snapshot.line()
            sys.stderr.write(f"\r{line:<{self._width}}")
            sys.stderr.flush()
            self._width = len(line)

    def finish(self, bundle: Bundle | None) -> None:
        """Wipes the line."""
        if self._is_terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def shows_widgets(shell: Any) -> bool:
    """Whether the front end that sent this cell can be expected to show widgets and answer them.

    nbclient, papermill, nbconvert, nbval and console clients send a bare request: no metadata, and
    the user's name in its header. Notebook front ends do not.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return False
    if "google.colab" in sys.modules:
        return True
    try:
        parent = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else {}
    except (LookupError, TypeError):
        return True
    is_bare = not parent.get("metadata") and bool(parent.get("header", {}).get("username"))
    return not is_bare
