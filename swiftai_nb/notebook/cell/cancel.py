"""Delivery of a click on Cancel while the cell that shows the button still runs.

A kernel handles one message after another, so a widget's message waits behind the running cell. There
are three ways around that; each is tested for before use, and none can make the cell fail:

- `SubshellRoute` (ipykernel >= 7.4): the widget's messages are sent to a subshell of our own.
- `ShellMessageReader` (older versions): while the cell waits it takes this widget's messages out of the
  kernel's socket and hands every other message back, in order.
- The interrupt (the stop button, Ctrl-C): always available; the page sends it when nothing else has
  replied in time.

The first two use private API of ipykernel; without it, the interrupt remains.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

MessageHandler = Callable[[dict[str, Any]], None]
_SUBSHELL_TIMEOUT_S = 5.0
_STATUS_INTERVAL_S = 1.0


class SubshellRoute:
    """Delivers a widget's messages on a subshell of the kernel, created on first use."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._subshell_id: str | None = None

    @property
    def is_possible(self) -> bool:
        """Whether this kernel has the API for it; creates nothing."""
        from importlib.util import find_spec

        if self._kernel is None or not getattr(self._kernel, "_supports_kernel_subshells", False):
            return False
        if find_spec("ipykernel") is None:
            return False
        from ipykernel.comm.comm import BaseComm

        return hasattr(BaseComm, "_reply_subshell_for") and hasattr(self._subshells, "_create_subshell")

    def route(self, comm: Any) -> bool:
        """Sends all further messages of `comm` to the subshell; False where that is not possible."""
        try:
            if not self.is_possible or not hasattr(comm, "_reply_subshell_for"):
                return False
            subshell_id = self._own_subshell()
            comm._reply_subshell_for = lambda _data, _default: subshell_id
        except Exception:  # noqa: BLE001 - private API of another package: any failure means "not this way"
            return False
        return True

    def close(self) -> None:
        """Ends the subshell."""
        subshell_id, self._subshell_id = self._subshell_id, None
        if subshell_id is not None:
            with contextlib.suppress(Exception):
                self._on_channel_thread(partial(self._subshells._delete_subshell, subshell_id))

    @property
    def _subshells(self) -> Any:
        return getattr(getattr(self._kernel, "shell_channel_thread", None), "manager", None)

    def _own_subshell(self) -> str:
        if self._subshell_id is None or self._subshell_id not in self._subshells.list_subshell():
            self._subshell_id = self._on_channel_thread(self._subshells._create_subshell)
        return str(self._subshell_id)

    def _on_channel_thread(self, function: Callable[[], Any]) -> Any:
        results: list[Any] = []
        ended = threading.Event()

        def run() -> None:
            try:
                results.append(function())
            finally:
                ended.set()

        self._kernel.shell_channel_thread.io_loop.add_callback(run)
        if not ended.wait(_SUBSHELL_TIMEOUT_S) or not results:
            raise RuntimeError("the kernel created no subshell")
        return results[0]


class ShellMessageReader:
    """Takes the messages of one comm out of the kernel's socket while the main thread waits.

    Args:
        kernel: the running ipykernel kernel.
        comm_id: whose messages to take.
        handler: called with the content of each custom message, on the main thread.
    """

    def __init__(self, kernel: Any, comm_id: str, handler: MessageHandler) -> None:
        self._kernel = kernel
        self._comm_id = comm_id
        self._handler = handler
        self._set_aside: list[Any] = []
        self._has_read = False
        self._stream = _main_stream(kernel)

    def poll(self) -> None:
        """Handles what has arrived; returns at once."""
        zmq: Any = import_module("zmq")
        while self._stream is not None:
            try:
                raw = self._stream.socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            except Exception:  # noqa: BLE001 - the socket is not ours: do not use it again
                self._stream = None
                return
            self._has_read = True
            self._sort(raw)

    def close(self) -> None:
        """Hands every message that was not for us back to the kernel, in order."""
        if not self._has_read:
            return
        zmq: Any = import_module("zmq")
        self.poll()
        loop, kernel = self._kernel.io_loop, self._kernel
        if self._stream is not None:
            # Reading has consumed the socket's edge-triggered event: make the kernel check it once.
            loop.add_callback(self._stream.flush, zmq.POLLIN)
        for raw in self._set_aside:
            if _channel_subshells(kernel) is not None:
                loop.add_callback(kernel.shell_main, None, raw)
            else:
                kernel.schedule_dispatch(kernel.dispatch_shell, raw)
        self._set_aside = []

    def _sort(self, raw: Any) -> None:
        try:
            content = self._own_content(raw)
        except Exception:  # noqa: BLE001 - the kernel may be able to read it
            content = None
        if content is None:
            self._set_aside.append(raw)
        else:
            self._handler(content)

    def _own_content(self, raw: Any) -> dict[str, Any] | None:
        session = self._kernel.session
        _, frames = session.feed_identities(raw, copy=False)
        if session.unpack(frames[1].bytes)["msg_type"] != "comm_msg":
            return None
        message = session.unpack(frames[4].bytes)
        data = message.get("data", {})
        if message.get("comm_id") != self._comm_id or data.get("method") != "custom":
            return None
        content: dict[str, Any] = data["content"]
        return content


def _channel_subshells(kernel: Any) -> Any:
    return getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)


def _main_stream(kernel: Any) -> Any:
    """The ZMQ stream of the main thread's messages, or None in an unknown version."""
    subshells = _channel_subshells(kernel)
    if subshells is not None:
        # ipykernel 7.0 has no such lock: there, messages handed back would not be aborted after an error.
        if not all(hasattr(kernel, name) for name in ("shell_main", "_main_asyncio_lock")):
            return None
        return getattr(getattr(subshells, "_shell_channel_to_main", None), "to_stream", None)
    if all(hasattr(kernel, name) for name in ("msg_queue", "dispatch_shell", "schedule_dispatch")):
        return getattr(kernel, "shell_stream", None)
    return None


@contextlib.contextmanager
def listening(
    comm: Any, *, kernel: Any, route: SubshellRoute | None, handler: MessageHandler
) -> Iterator[Callable[[], None]]:
    """Delivers the messages of a widget while the block runs; yields a function to call regularly.

    Args:
        comm: the widget's comm, or None.
        kernel: the ipykernel kernel, or None.
        route: delivery by a subshell, where it is possible.
        handler: called with the content of each message that the yielded function finds.
    """
    if comm is None or kernel is None:
        yield lambda: None
        return
    if route is not None and route.route(comm):
        yield partial(_repeat_busy, kernel, [time.monotonic()])
        return
    reader = ShellMessageReader(kernel, comm.comm_id, handler)
    try:
        yield reader.poll
    finally:
        with contextlib.suppress(Exception):
            reader.close()


def _repeat_busy(kernel: Any, said_at_s: list[float]) -> None:
    """Says once a second that the kernel is busy.

    Each message on a subshell ends with "idle", and the page takes the last word for all of the kernel.
    """
    now_s = time.monotonic()
    if now_s - said_at_s[0] >= _STATUS_INTERVAL_S:
        said_at_s[0] = now_s
        with contextlib.suppress(Exception):  # private API of another package
            kernel._publish_status("busy", "shell")


def ways_to_cancel(kernel: Any) -> str:
    """How a running cell can be cancelled in this kernel, for `%imagine_doctor`."""
    if kernel is None:
        return "Ctrl-C cancels"
    if SubshellRoute(kernel).is_possible or _main_stream(kernel) is not None:
        return "the Cancel button and ■ both work while a cell is running"
    return "■ works while a cell is running; the Cancel button interrupts the kernel"
