"""The engine's side of the conversation: one loop that works off commands, one thread that listens.

The loop knows only the `EngineHost` protocol, so that it also serves hosts that run under another
interpreter with libraries of its own.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from swiftai_nb.core.errors import (
    AIError,
    GenerationFailedError,
    InsufficientMemoryError,
)
from swiftai_nb.core.task import CancellationToken
from swiftai_nb.engine.channel import Channel, ChannelClosed
from swiftai_nb.engine.protocol import (
    AskStatus,
    Bye,
    Cancel,
    Done,
    Failed,
    Generate,
    Loaded,
    LoadModel,
    Message,
    ProtocolError,
    Ready,
    Shutdown,
    Status,
    Unload,
)

_log = logging.getLogger(__name__)
Report = Callable[[Message], None]

# What MLX's allocators say when there is no memory left (a Metal abort never gets this far).
_OUT_OF_MEMORY = ("unable to allocate", "out of memory", "failed to allocate", "attempting to allocate")


class EngineHost(Protocol):
    """What computes. All members are called from one thread, the one that made it."""

    def ready(self) -> Ready:
        """What the kernel should know of this engine."""
        ...

    def generate(self, command: Generate, report: Report, token: CancellationToken) -> Done:
        """Makes a picture, reporting Stage and Step events.

        Raises:
            AIError: whatever stood in the way; GenerationCancelledError when `token` was cancelled.
        """
        ...

    def load(self, command: LoadModel, report: Report, token: CancellationToken) -> Loaded:
        """Reads a model's weights."""
        ...

    def unload(self) -> None:
        """Drops the model."""
        ...

    def status(self) -> Status:
        """What is held now."""
        ...


class _Inbox:
    """What came in: commands in order, and the stop requests that overtake them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._commands: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._tokens: dict[str, CancellationToken] = {}
        self._lock = threading.Lock()
        self.fault: ProtocolError | None = None

    def listen(self, on_disconnect: Callable[[], None]) -> None:
        """Reads until the other side is gone; in its own thread, to hear a cancel during computation."""
        with contextlib.suppress(ChannelClosed):
            try:
                while True:
                    self._take(self._channel.receive())
            except ProtocolError as error:
                self.fault = error
        with self._lock:
            tokens = list(self._tokens.values())
        for token in tokens:
            token.cancel()
        self._commands.put(None)
        if self.fault is None:
            on_disconnect()

    def _take(self, message: Message) -> None:
        if isinstance(message, Cancel):
            with self._lock:
                token = self._tokens.get(message.job_id)
            if token is not None:
                token.cancel()
            return
        with self._lock:
            self._tokens[message.job_id] = CancellationToken()
        self._commands.put(message)

    def next_command(self) -> tuple[Message, CancellationToken] | None:
        """The next command with its token; None when there will be none."""
        message = self._commands.get()
        if message is None:
            return None
        with self._lock:
            return message, self._tokens[message.job_id]

    def finish(self, message: Message) -> None:
        """Forgets a command's token."""
        with self._lock:
            self._tokens.pop(message.job_id, None)


def serve(
    channel: Channel, make_host: Callable[[], EngineHost], *, on_disconnect: Callable[[], None] = lambda: None
) -> None:
    """Answers commands until Shutdown or until the other side is gone.

    Args:
        channel: to the kernel.
        make_host: called in this thread, while commands may already arrive.
        on_disconnect: called from the listening thread when the kernel is gone.
    """
    inbox = _Inbox(channel)
    threading.Thread(target=inbox.listen, args=(on_disconnect,), name="swiftai-inbox", daemon=True).start()
    try:
        try:
            host = make_host()
            channel.send(host.ready())
        except Exception as error:  # noqa: BLE001 - whatever keeps the engine from starting is told
            channel.send(Bye(error=translated(error).to_dict()))
            return
        _work(channel, host, inbox)
        fault = None if inbox.fault is None else GenerationFailedError(f"not understood: {inbox.fault}")
        channel.send(Bye(error=None if fault is None else fault.to_dict()))
    except ChannelClosed:
        pass
    finally:
        channel.close()


def _work(channel: Channel, host: EngineHost, inbox: _Inbox) -> None:
    while True:
        entry = inbox.next_command()
        if entry is None or isinstance(entry[0], Shutdown):
            return
        command, token = entry
        try:
            answer = _answer(command, host, channel.send, token)
        except ChannelClosed:
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: a failed command is an answer
            answer = Failed(command.job_id, error=translated(error).to_dict())
        inbox.finish(command)
        channel.send(answer)


def _answer(command: Message, host: EngineHost, report: Report, token: CancellationToken) -> Message:
    token.raise_if_cancelled()
    if isinstance(command, Generate):
        return host.generate(command, report, token)
    if isinstance(command, LoadModel):
        return host.load(command, report, token)
    if isinstance(command, Unload):
        host.unload()
    elif not isinstance(command, AskStatus):
        raise GenerationFailedError(f"{type(command).__name__} is no command")
    status = host.status()
    return Status(
        command.job_id,
        folder=status.folder,
        components=status.components,
        active_memory_bytes=status.active_memory_bytes,
        peak_memory_bytes=status.peak_memory_bytes,
        cache_memory_bytes=status.cache_memory_bytes,
    )


def translated(error: Exception) -> AIError:
    """A foreign exception of the computation as an AIError; its traceback goes to the log."""
    if isinstance(error, AIError):
        return error
    words = str(error).strip() or "no message"
    first_line = words.splitlines()[0]
    if isinstance(error, MemoryError) or any(sign in words.lower() for sign in _OUT_OF_MEMORY):
        return InsufficientMemoryError(
            f"memory ran out: {first_line}",
            hint="a smaller size, quantization_bits=8, or a smaller model",
        )
    _log.error("the engine failed", exc_info=error)
    return GenerationFailedError(
        f"{type(error).__name__}: {first_line}", hint="another size or scheduler; if it stays, report it"
    )
