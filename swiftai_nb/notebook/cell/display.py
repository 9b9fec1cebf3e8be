"""The output of a running cell: displayed, updated while the work runs, replaced at its end.

What replaces it is plain, so that a saved notebook has no trace of the running view. Until then, and
after a kernel that died, the output's plain text ends in "(not finished)".
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

from swiftai_nb.notebook.progress import Throttle, WorkProgress

Bundle = tuple[dict[str, Any], dict[str, Any]]
# An output with neither type would show what it showed before.
NOTHING: Bundle = ({"text/html": "", "text/plain": ""}, {})


class CellView(Protocol):
    """The output of one running cell."""

    @property
    def comm(self) -> Any:
        """The comm that delivers clicks, or None."""
        ...

    def start(self, text: str) -> None:
        """Displays it; `text` describes the result, as "2 pictures: a red fox"."""
        ...

    def paint(self, progress: WorkProgress) -> None:
        """Shows progress; may be called from any thread, at any rate."""
        ...

    def finish(self, bundle: Bundle | None) -> None:
        """Replaces it with (data, metadata); None leaves nothing."""
        ...


class DisplayView:
    """A display that is updated while the work runs and replaced at its end.

    Args:
        interval_s: seconds between two updates.
        first_after_s: seconds before the first one.
    """

    def __init__(self, *, interval_s: float, first_after_s: float = 0.0) -> None:
        self._lock = threading.RLock()
        self._throttle = Throttle(self._update, interval_s=interval_s, first_after_s=first_after_s)
        self._handle: Any = None
        self._text = ""
        self._progress: WorkProgress | None = None
        self._is_open = True

    def start(self, text: str) -> None:
        """Displays it."""
        from IPython.display import display

        # The text of the result goes first: nbval compares the first display and ignores updates. The update
        # follows at once, so that a saved notebook claims no picture after a kernel that died.
        self._text = f"{text} (not finished)"
        self._handle = display({"text/plain": text}, raw=True, display_id=True)
        self._handle.update({**self._data(), "text/plain": self._text}, raw=True)

    def paint(self, progress: WorkProgress) -> None:
        """Shows progress at the view's rate; a request to cancel at once."""
        with self._lock:
            is_urgent = progress.is_cancelling and not (
                self._progress is not None and self._progress.is_cancelling
            )
            self._progress = progress
        self._throttle(now=is_urgent)

    def finish(self, bundle: Bundle | None) -> None:
        """Replaces it."""
        self._throttle.close()
        with self._lock:
            self._is_open = False
        if self._handle is not None:
            data, metadata = NOTHING if bundle is None else bundle
            self._handle.update(data, metadata=metadata, raw=True)

    def _update(self) -> None:
        with self._lock:
            if self._is_open and self._progress is not None:
                self._show(self._progress)

    def _data(self) -> dict[str, Any]:
        """The display's data besides its text."""
        return {}

    def _show(self, progress: WorkProgress) -> None:
        raise NotImplementedError
