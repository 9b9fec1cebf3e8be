"""The engine's client: sends one command at a time, starts a new engine when one has crashed."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from swiftai_nb.core.cancellation import CallbackList
from swiftai_nb.core.errors import (
    AIError,
    EngineDiedError,
    GenerationCancelledError,
    GenerationFailedError,
    InvalidInputError,
    error_from_dict,
)
from swiftai_nb.core.task import Task
from swiftai_nb.engine.channel import ChannelClosed
from swiftai_nb.engine.kernel.process import Engine, ProcessEngine, start_thread_engine
from swiftai_nb.engine.messages import ANSWERS, Bye, Cancel, Failed, Message, Quantize, Ready, Stage
from swiftai_nb.engine.protocol import TruncatedFrameError

_log = logging.getLogger(__name__)
CANCEL_GRACE_S = 5.0
EventCallback = Callable[[Message], None]


class EngineCall(Task[Message, None]):
    """One command: a task whose result is its answer (Done, Loaded or Status).

    Attributes:
        command: what is sent, with its job id.
        is_started: whether the engine has reported anything on it.
        is_repeated: whether it was sent to a second engine because the first died before it began.
    """

    def __init__(
        self, command: Message, client: EngineClient, *, on_event: EventCallback | None = None
    ) -> None:
        super().__init__(name="the engine's command")
        self.command = command
        self.is_started = self.is_repeated = False
        self._client = weakref.ref(client)
        self._listeners: CallbackList[[Message]] = CallbackList()
        if on_event is not None:
            self._listeners.add(on_event)

    def cancel(self) -> None:
        """Stops the command: at once when it waits, within a block of the network when it runs."""
        client = self._client()
        if not self.done and not self.token.is_cancelled:
            super().cancel()
            if client is not None:
                client._cancel(self)

    def deliver(self, event: Message) -> None:
        """Passes an event to the caller; exceptions of its callback are logged."""
        if not self.done:
            self._listeners.notify(event)


class EngineClient:
    """Commands to an engine that is started on first use and kept running.

    Commands wait in this process and the engine gets one at a time: if an engine ends unexpectedly, only that
    command fails; the next one runs on a new engine. All members may be called from any thread.

    Args:
        start: makes an engine.
        cancel_grace_s: seconds an engine may take to cancel a command before it is killed.
    """

    def __init__(
        self, start: Callable[[], Engine] = ProcessEngine, *, cancel_grace_s: float = CANCEL_GRACE_S
    ) -> None:
        self._start = start
        self._cancel_grace_s = cancel_grace_s
        self._lock = threading.RLock()
        self._waiting: deque[EngineCall] = deque()
        self._current: EngineCall | None = None
        self._session: _Session | None = None
        self._is_closed = False
        self._owner_pid = os.getpid()

    @property
    def pid(self) -> int | None:
        """The engine's process; None while none runs."""
        session = self._session
        return None if session is None else session.engine.pid

    @property
    def ready(self) -> Ready | None:
        """The engine's description of itself; None before it has started."""
        session = self._session
        return None if session is None else session.ready

    def submit(self, command: Message, on_event: EventCallback | None = None) -> EngineCall:
        """Queues a command and returns at once.

        Args:
            command: Generate, LoadModel, Quantize, Unload or AskStatus; gets a job id of its own.
            on_event: called with Ready, Stage and Step, from the client's thread; its exceptions are logged.
        """
        call = EngineCall(replace(command, job_id=uuid.uuid4().hex[:12]), self, on_event=on_event)
        if self._is_foreign:
            call.set_error(_forked())
            return call
        with self._lock:
            if self._is_closed:
                call.set_error(GenerationFailedError("the engine is closed", hint="make a new provider"))
                return call
            self._waiting.append(call)
        self._send_next()
        return call

    async def run(self, command: Message, on_event: EventCallback | None = None) -> Message:
        """`submit` and wait for the answer, in any event loop.

        A cancelled asyncio task cancels the command and waits until the engine has stopped it or was killed.

        Raises:
            AIError: the command failed or was cancelled.
        """
        return await self.submit(command, on_event).wait_or_cancel(grace_s=2 * CANCEL_GRACE_S)

    def cancel_all(self) -> None:
        """Stops every command, running and waiting."""
        if self._is_foreign:
            return
        with self._lock:
            calls = [*reversed(self._waiting), *([] if self._current is None else [self._current])]
        for call in calls:
            call.cancel()

    def close(self) -> None:
        """Cancels all commands and ends the engine; may be called twice. In a fork it does nothing."""
        if self._is_foreign:
            return
        with self._lock:
            self._is_closed = True
            session, self._session = self._session, None
            calls = [*self._waiting, *([] if self._current is None else [self._current])]
            self._waiting.clear()
            self._current = None
        for call in calls:
            call.set_error(GenerationCancelledError("Cancelled: the engine was closed"))
        if session is not None:
            session.close()

    @property
    def _is_foreign(self) -> bool:
        """Whether this is a fork: the engine and its threads belong to the parent."""
        return os.getpid() != self._owner_pid

    def _cancel(self, call: EngineCall) -> None:
        with self._lock:
            session = self._session if call is self._current else None
            if session is None and call in self._waiting:
                self._waiting.remove(call)
        if session is None:
            call.set_error(GenerationCancelledError())
            return
        session.send(Cancel(call.command.job_id))
        timer = threading.Timer(self._cancel_grace_s, self._kill_if_unresponsive, (call,))
        timer.daemon = True
        timer.start()
        call.add_done_callback(lambda _: timer.cancel())

    def _kill_if_unresponsive(self, call: EngineCall) -> None:
        """Kills an engine that did not cancel in time; its exit ends the call."""
        with self._lock:
            if not call.done and call is self._current and self._session is not None:
                self._session.engine.kill()

    def _send_next(self) -> None:
        """Gives the next command to the engine, if it has none."""
        while True:
            with self._lock:
                if self._current is not None or not self._waiting:
                    return
                call = self._current = self._waiting.popleft()
                failure: Exception | None = None
                try:
                    self._running_session().send(call.command)
                except Exception as error:  # noqa: BLE001 - any failure of the start is the call's error
                    self._current, failure = None, error
            if failure is None:
                call.start()
                return
            call.set_error(failure)

    def _running_session(self) -> _Session:
        if self._session is None:
            self._session = _Session(self, self._start())
        return self._session

    def _received(self, session: _Session, message: Message) -> None:
        with self._lock:
            call = self._current if session is self._session else None
            if call is None:
                return
            is_own = message.job_id == call.command.job_id
            is_answer = is_own and isinstance(message, ANSWERS)
            if is_answer:
                self._current = None
        call.is_started = call.is_started or is_own
        if is_answer:
            if isinstance(message, Failed):
                call.set_error(error_from_dict(message.error))
            else:
                call.set_result(message)
            self._send_next()
        elif is_own or isinstance(message, Ready):
            call.deliver(message)

    def _ended(self, session: _Session, reason: AIError) -> None:
        with self._lock:
            if session is not self._session:
                return
            self._session = None
            call, self._current = self._current, None
            repeat = (
                call is not None
                and isinstance(reason, EngineDiedError)
                and not (call.is_started or call.is_repeated or call.token.is_cancelled)
            )
            if call is not None and repeat:
                call.is_repeated = True
                self._waiting.appendleft(call)
        if call is not None and not repeat:
            call.set_error(GenerationCancelledError() if call.token.is_cancelled else reason)
        session.close()
        self._send_next()


class _Session:
    """One engine from start to end, with its reader and writer threads."""

    def __init__(self, client: EngineClient, engine: Engine) -> None:
        self.engine = engine
        self.ready: Ready | None = None
        self._client = weakref.ref(client)
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        # The engine ends with its client or the kernel.
        self._finalizer = weakref.finalize(client, _close_engine, engine, os.getpid())
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"swiftai-engine{target.__name__}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queues a message: a large one to a busy engine must not block the caller."""
        self._outbox.put(message)

    def close(self) -> None:
        self._outbox.put(None)
        if self._finalizer.detach() is not None:
            self.engine.close()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self.engine.channel.send(message)
            except ChannelClosed:
                return  # the reader explains the end
            except Exception as error:  # noqa: BLE001 - a silent exit would leave calls waiting
                unsent = InvalidInputError(
                    f"the request cannot be sent: {error}", hint="a shorter prompt or a smaller image"
                )
                self._deliver(Failed(message.job_id, error=unsent.to_dict()))

    def _read(self) -> None:
        error: AIError | None = None
        try:
            while True:
                message = self.engine.channel.receive()
                if isinstance(message, Ready):
                    self.ready = message
                if isinstance(message, Bye) and message.error is not None:
                    error = error_from_dict(message.error)
                self._deliver(message)
                del message  # a picture is not kept until the next message
        except (ChannelClosed, TruncatedFrameError):
            pass
        except Exception as fault:  # noqa: BLE001 - a silent exit would leave every call waiting
            _log.debug("the engine's reader ended", exc_info=True)
            error = GenerationFailedError(
                f"the engine sent an invalid message: {fault}",
                hint="restart the kernel; the installation may be incomplete",
            )
            self.engine.kill()
        client = self._client()
        if client is not None:
            client._ended(self, self.engine.exit_error() if error is None else error)

    def _deliver(self, message: Message) -> None:
        client = self._client()
        if client is not None:
            client._received(self, message)


def process_client(*, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is a child process."""
    return EngineClient(ProcessEngine, cancel_grace_s=cancel_grace_s)


def thread_client(*, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is a thread of this process."""
    return EngineClient(start_thread_engine, cancel_grace_s=cancel_grace_s)


def save_quantized(
    folder: Path, target: Path, *, bits: int, on_network: Callable[[str], None] = lambda _name: None
) -> None:
    """Makes a model folder of quantized weights, in an engine of its own: its memory is freed with it.

    Args:
        folder: the model.
        target: the folder to make; appears whole or not at all.
        bits: 4, 5, 6 or 8.
        on_network: called in this thread with each network's name before it is read.

    Raises:
        AIError: the model cannot be read or saved, or the process died.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    names: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    client = process_client()
    try:
        call = client.submit(
            Quantize(folder=str(folder), target=str(target), bits=bits),
            lambda event: names.put(event.detail) if isinstance(event, Stage) else None,
        )
        call.add_done_callback(lambda _: names.put(None))
        while (name := names.get()) is not None:
            on_network(name)
        call.result()
    finally:
        client.close()
        for leftover in target.parent.glob(f".{target.name}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _close_engine(engine: Engine, owner_pid: int) -> None:
    if os.getpid() == owner_pid:  # not when a fork ends
        engine.close()


def _forked() -> AIError:
    return GenerationFailedError(
        "this engine belongs to the process that this one was forked from",
        hint="make a new provider in this process",
    )
