"""The engine's main loop: one thread runs commands, another receives them.

The loop depends only on the `EngineHost` protocol, so that it also works for hosts under another
interpreter with other libraries.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from swiftai_nb.core.cancellation import CancellationToken
from swiftai_nb.core.errors import (
    AIError,
    GenerationFailedError,
    InsufficientMemoryError,
    UnsupportedModelError,
)
from swiftai_nb.engine.channel import Channel, ChannelClosed
from swiftai_nb.engine.messages import (
    AskStatus,
    Bye,
    Cancel,
    Done,
    Failed,
    Generate,
    Loaded,
    LoadModel,
    Message,
    Quantize,
    Ready,
    Shutdown,
    Status,
    Unload,
    Upscale,
)
from swiftai_nb.engine.protocol import TruncatedFrameError

_log = logging.getLogger(__name__)
Report = Callable[[Message], None]

# What MLX's allocators and Metal's command buffers report when memory runs out, and when Metal ends a
# command buffer that took too long (mlx/backend/metal/device.cpp).
_OUT_OF_MEMORY = (
    "unable to allocate", "out of memory", "failed to allocate", "attempting to allocate",
    "insufficient memory", "outofmemory",
)  # fmt: skip
_GPU_TIMEOUT = ("gpu timeout", "callbackerrortimeout", "impacting interactivity")


class EngineHost(Protocol):
    """The part that computes. All members are called from the thread that made it."""

    def ready(self) -> Ready:
        """Describes this engine to the kernel."""
        ...

    def generate(self, command: Generate, report: Report, token: CancellationToken) -> Done:
        """Makes an image, reporting Stage and Step events.

        Raises:
            AIError: the image cannot be made; GenerationCancelledError when `token` was cancelled.
        """
        ...

    def load(self, command: LoadModel, report: Report, token: CancellationToken) -> Loaded:
        """Reads a model's weights."""
        ...

    def unload(self) -> None:
        """Drops the model."""
        ...

    def status(self) -> Status:
        """The loaded model and its memory."""
        ...


@runtime_checkable
class SupportsQuantize(Protocol):
    """A host that can also save quantized models."""

    def quantize(self, command: Quantize, report: Report, token: CancellationToken) -> None:
        """Makes a model folder, reporting a Stage with each network's name before it is read.

        Raises:
            AIError: the model cannot be read or saved.
        """
        ...


@runtime_checkable
class SupportsUpscale(Protocol):
    """A host that can also enlarge pictures."""

    def upscale(self, command: Upscale, report: Report, token: CancellationToken) -> Done:
        """Enlarges a picture, reporting a Stage for each of its tiles.

        Raises:
            AIError: the picture or the upscaler cannot be read; GenerationCancelledError as `generate`.
        """
        ...


@runtime_checkable
class SupportsIdle(Protocol):
    """A host that tidies up when it has nothing to do."""

    def idle(self) -> None:
        """Called after an answer when no other command waits."""
        ...


class _Inbox:
    """Queue of received commands; cancel requests take effect at once."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._commands: queue.SimpleQueue[tuple[Message, CancellationToken] | None] = queue.SimpleQueue()
        self._tokens: dict[str, CancellationToken] = {}
        self._lock = threading.Lock()
        self.error: AIError | None = None

    def receive_all(self, on_disconnect: Callable[[], None]) -> None:
        """Reads until the other side has closed; runs in a thread so that a cancel arrives during a run."""
        try:
            while True:
                self._take(self._channel.receive())
        except (ChannelClosed, TruncatedFrameError):
            pass
        except Exception as error:  # noqa: BLE001 - a silent exit would leave the engine without commands
            _log.debug("the engine's reader ended", exc_info=True)
            self.error = GenerationFailedError(f"the engine received an invalid message: {error}")
        with self._lock:
            tokens = list(self._tokens.values())
        for token in tokens:
            token.cancel()
        self._commands.put(None)
        if self.error is None:
            on_disconnect()

    def _take(self, message: Message) -> None:
        if isinstance(message, Cancel):
            with self._lock:
                token = self._tokens.get(message.job_id)
            if token is not None:
                token.cancel()
            return
        with self._lock:
            token = self._tokens.setdefault(message.job_id, CancellationToken())
        self._commands.put((message, token))

    @property
    def is_empty(self) -> bool:
        """Whether no command waits."""
        return self._commands.empty()

    def next_command(self) -> tuple[Message, CancellationToken] | None:
        """The next command with its token; None after the last."""
        return self._commands.get()

    def finish(self, message: Message) -> None:
        """Drops a command's token."""
        with self._lock:
            self._tokens.pop(message.job_id, None)


def serve(
    channel: Channel, make_host: Callable[[], EngineHost], *, on_disconnect: Callable[[], None] = lambda: None
) -> None:
    """Answers commands until Shutdown or until the other side has closed.

    Args:
        channel: to the kernel.
        make_host: called in this thread, while commands may already arrive.
        on_disconnect: called from the receiving thread when the kernel has ended.
    """
    inbox = _Inbox(channel)
    receiver = threading.Thread(
        target=inbox.receive_all, args=(on_disconnect,), name="swiftai-inbox", daemon=True
    )
    receiver.start()
    try:
        try:
            host = make_host()
            channel.send(host.ready())
        except Exception as error:  # noqa: BLE001 - any failed start is reported to the kernel
            channel.send(Bye(error=translate_error(error).to_dict()))
            return
        _work(channel, host, inbox)
        channel.send(Bye(error=None if inbox.error is None else inbox.error.to_dict()))
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
        except Exception as error:  # noqa: BLE001 - a failed command is an answer, not the engine's end
            answer = Failed(command.job_id, error=translate_error(error).to_dict())
        inbox.finish(command)
        channel.send(answer)
        if inbox.is_empty and isinstance(host, SupportsIdle):
            host.idle()


def _answer(command: Message, host: EngineHost, report: Report, token: CancellationToken) -> Message:
    token.raise_if_cancelled()
    if isinstance(command, Generate):
        return host.generate(command, report, token)
    if isinstance(command, LoadModel):
        return host.load(command, report, token)
    if isinstance(command, Upscale):
        if not isinstance(host, SupportsUpscale):
            raise UnsupportedModelError("this engine cannot enlarge pictures")
        return host.upscale(command, report, token)
    if isinstance(command, Quantize):
        if not isinstance(host, SupportsQuantize):
            raise UnsupportedModelError("this engine cannot quantize models")
        host.quantize(command, report, token)
    elif isinstance(command, Unload):
        host.unload()
    elif not isinstance(command, AskStatus):
        raise GenerationFailedError(f"{type(command).__name__} is not a command")
    return replace(host.status(), job_id=command.job_id)


def translate_error(error: Exception) -> AIError:
    """An exception of the computation as an AIError; the traceback of an unexpected one is logged."""
    if isinstance(error, AIError):
        return error
    text = str(error).strip() or "no message"
    first_line = text.splitlines()[0]
    if isinstance(error, MemoryError) or any(sign in text.lower() for sign in _OUT_OF_MEMORY):
        return InsufficientMemoryError(
            f"memory ran out: {first_line}",
            hint="a smaller size, quantization_bits=8, or a smaller model",
        )
    if any(sign in text.lower() for sign in _GPU_TIMEOUT):
        return GenerationFailedError(
            f"the system ended the GPU's work because it took too long: {first_line}",
            hint="a smaller size, or close other programs that use the GPU",
        )
    _log.error("the engine failed", exc_info=error)
    return GenerationFailedError(
        f"{type(error).__name__}: {first_line}",
        hint="try another size or scheduler; if it happens again, report it",
    )
