"""The views of a running cell: a widget, plain HTML, a line of text, or nothing."""

from __future__ import annotations

import base64
import html
import sys
from collections.abc import Callable
from typing import Any

from swiftai_nb.notebook.cell.display import Bundle, CellView, DisplayView
from swiftai_nb.notebook.output.host import shows_widgets
from swiftai_nb.notebook.progress import WorkProgress

HTML_INTERVAL_S = 0.5


class NullView:
    """Shows nothing: `--quiet`, and shells without a display."""

    comm = None

    def start(self, text: str) -> None:
        """Does nothing."""

    def paint(self, progress: WorkProgress) -> None:
        """Does nothing."""

    def finish(self, bundle: Bundle | None) -> None:
        """Does nothing."""


class HtmlView(DisplayView):
    """For front ends without widgets: plain HTML, replaced twice a second.

    Args:
        prompt: the preview's alternative text.
        size: of the stage, CSS pixels (width, height).
    """

    comm = None

    def __init__(self, *, prompt: str, size: tuple[int, int]) -> None:
        super().__init__(interval_s=HTML_INTERVAL_S, first_after_s=HTML_INTERVAL_S)
        self._prompt = prompt
        self._size = size

    def _show(self, progress: WorkProgress) -> None:
        card = _card(self._prompt, self._size, progress)
        self._handle.update({"text/html": card, "text/plain": self._text}, raw=True)


def _card(prompt: str, size: tuple[int, int], progress: WorkProgress) -> str:
    width, height = size
    box = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
    picture = f'<div style="{box};background:rgba(128,128,128,.15)"></div>'
    if progress.preview is not None:
        data = base64.b64encode(progress.preview).decode("ascii")
        picture = (
            f'<img style="{box}" alt="{html.escape(prompt)} (preview)" src="data:image/jpeg;base64,{data}">'
        )
    bar = f'<progress style="width:{width}px;max-width:100%" value="{progress.fraction:.3f}"></progress>'
    return f"<div>{picture}<br>{bar}<br>{html.escape(str(progress))}</div>"


class TextView:
    """For terminals: one line on standard error, rewritten in place."""

    comm = None

    def __init__(self) -> None:
        self._width = 0
        self._is_terminal = sys.stderr.isatty()

    def start(self, text: str) -> None:
        """Does nothing: a terminal shows progress alone."""

    def paint(self, progress: WorkProgress) -> None:
        """Rewrites the line."""
        if self._is_terminal:
            line = str(progress)
            sys.stderr.write(f"\r{line:<{self._width}}")
            sys.stderr.flush()
            self._width = len(line)

    def finish(self, bundle: Bundle | None) -> None:
        """Clears the line."""
        if self._is_terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def create_view(
    shell: Any,
    *,
    kind: str = "auto",
    job_id: str,
    prompt: str,
    size: tuple[int, int],
    on_cancel: Callable[[], None],
    blocking: bool = True,
    preview_every: int = 1,
) -> CellView:
    """The view that fits the front end.

    Args:
        shell: IPython's shell, or None.
        kind: "widget", "html" or "text"; "auto" is what the front end supports.
        job_id: the work that a click may cancel.
        prompt: shown, and the preview's alternative text.
        size: of the stage, CSS pixels (width, height).
        on_cancel: called on a click.
        blocking: the cell waits for the work.
        preview_every: a preview every so many steps.
    """
    if kind == "auto":
        has_kernel = getattr(shell, "kernel", None) is not None
        kind = ("widget" if shows_widgets(shell) else "html") if has_kernel else "text"
    if kind == "text":
        return TextView()
    if kind == "html":
        return HtmlView(prompt=prompt, size=size)
    from swiftai_nb.notebook.cell.widget_view import WidgetView

    return WidgetView(
        job_id=job_id,
        prompt=prompt,
        size=size,
        blocking=blocking,
        on_cancel=on_cancel,
        preview_every=preview_every,
    )
