"""The kernel's side: sends one command at a time to an engine, starts a new one when it died."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from swiftai_nb.core.errors import (
    AIError,
    GenerationCancelledError,
    GenerationFailedError,
    InvalidInputError,
    error_from_dict,
)
from swiftai_nb.engine.channel import ChannelClosed
from swiftai_nb.engine.kernel.process import Engine, ProcessEngine, start_thread_engine
from swiftai_nb.engine.protocol import (
    ANSWERS,
    Bye,
    Cancel,
    Failed,
    Message,
    ProtocolError,
    Ready,
    TruncatedFrameError,
)

_log = logging.getLogger(__name__)
CANCEL_GRACE_S = 5.0
EventCallback = Callable[[Message], None]


class EngineCall:
    """One command on its way.

    Attributes:
        command: what was sent, with its job id.
        future: its answer (Done, Loaded or Status), or the AIError that ended it.
        is_cancelled: whether a stop was asked for.
    """

    def __init__(self, command: Message, on_event: EventCallback | None) -> None:
        self.command = command
        self.future: Future[Message] = Future()
        self.future.set_running_or_notify_cancel()
        self.is_cancelled = False
        self._on_event = on_event

    def tell(self, event: Message) -> None:
        """Hands an event to the caller."""
        if self._on_event is None or self.future.done():
            return
        try:
            self._on_event(event)
        except Exception:  # noqa: BLE001 - the thread that reads must go on
            _log.exception("a progress callback failed")

    def finish(self, answer: Message | AIError) -> None:
        """Ends the call; the first end counts."""
        if self.future.done():
            return
        if isinstance(answer, AIError):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


class EngineClient:
    """Commands to an engine that is started on first use and kept warm.

    Commands wait here, one is with the engine at a time: the death of an engine costs that one alone,
    the next runs on a fresh engine. All members may be called from any thread.

    Args:
        start: makes an engine.
        cancel_grace_s: how long an engine may take to obey a cancel before it is ended.
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
        """What the engine said of itself; None before that."""
        session = self._session
        return None if session is None else session.ready

    def submit(self, command: Message, on_event: EventCallback | None = None) -> EngineCall:
        """Queues a command and returns at once.

        Args:
            command: Generate, LoadModel, Unload or AskStatus; gets a job id of its own.
            on_event: called with Ready, Stage and Step, from the client's thread; what it raises is logged.
        """
        call = EngineCall(replace(command, job_id=uuid.uuid4().hex[:12]), on_event)
        if os.getpid() != self._owner_pid:  # a fork: the threads that talk to the engine are not here
            call.finish(_in_a_fork())
            return call
        with self._lock:
            if self._is_closed:
                call.finish(GenerationFailedError("the engine is closed", hint="make a new provider"))
                return call
            self._waiting.append(call)
        self._pump()
        return call

    async def run(self, command: Message, on_event: EventCallback | None = None) -> Message:
        """`submit` and wait for the answer, in any event loop.

        A cancelled task cancels the command, waits until the engine has obeyed (or was ended), and
        passes asyncio.CancelledError on.

        Raises:
            AIError: what ended the command.
        """
        call = self.submit(command, on_event)
        answer = asyncio.wrap_future(call.future)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            self.cancel(call)
            with contextlib.suppress(AIError):
                await _wait_shielded(answer)
            raise

    def cancel(self, call: EngineCall) -> None:
        """Stops a command: at once when it waits, within a block of the network when it runs."""
        with self._lock:
            if call.future.done() or call.is_cancelled:
                return
            call.is_cancelled = True
            session = self._session
            if call is not self._current:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(call)
                call.finish(GenerationCancelledError())
                return
        if session is not None:
            session.send(Cancel(call.command.job_id))
        insist = threading.Timer(self._cancel_grace_s, self._kill_if_unresponsive, (call,))
        insist.daemon = True
        insist.start()
        call.future.add_done_callback(lambda _: insist.cancel())

    def cancel_all(self) -> None:
        """Stops every command, running and waiting."""
        with self._lock:
            calls = [*reversed(self._waiting), *([] if self._current is None else [self._current])]
        for call in calls:
            self.cancel(call)

    def close(self) -> None:
        """Cancels all commands and ends the engine; may be called twice."""
        with self._lock:
            self._is_closed = True
            session, self._session = self._session, None
            calls = [*self._waiting, *([] if self._current is None else [self._current])]
            self._waiting.clear()
            self._current = None
        for call in calls:
            call.finish(GenerationCancelledError("Cancelled: the engine was closed"))
        if session is not None:
            session.close()

    def _kill_if_unresponsive(self, call: EngineCall) -> None:
        """The engine did not obey: it is ended, and its end answers the call."""
        with self._lock:
            if call.future.done() or call is not self._current or self._session is None:
                return
            self._session.engine.kill()

    def _pump(self) -> None:
        """Gives the next command to the engine, if it has none."""
        with self._lock:
            if self._current is not None or not self._waiting:
                return
            call = self._current = self._waiting.popleft()
            try:
                session = self._running_session()
            except AIError as error:
                self._current = None
                call.finish(error)
                session = None
        if session is None:
            self._pump()
        else:
            session.send(call.command)

    def _running_session(self) -> _Session:
        if self._session is None:
            self._session = _Session(self, self._start())
        return self._session

    def _received(self, session: _Session, message: Message) -> None:
        with self._lock:
            call = self._current if session is self._session else None
            if call is None:
                return
            is_answer = isinstance(message, ANSWERS) and message.job_id == call.command.job_id
            if is_answer:
                self._current = None
        if is_answer:
            call.finish(error_from_dict(message.error) if isinstance(message, Failed) else message)
            self._pump()
        elif isinstance(message, Ready) or message.job_id == call.command.job_id:
            call.tell(message)

    def _ended(self, session: _Session, reason: AIError) -> None:
        with self._lock:
            if session is not self._session:
                return
            self._session = None
            call, self._current = self._current, None
        if call is not None:
            call.finish(GenerationCancelledError() if call.is_cancelled else reason)
        session.close()
        self._pump()


class _Session:
    """One engine from its start to its end, with the threads that talk to it."""

    def __init__(self, client: EngineClient, engine: Engine) -> None:
        self.engine = engine
        self.ready: Ready | None = None
        self._client = weakref.ref(client)
        self._outbox: deque[Message] = deque()
        self._has_mail = threading.Semaphore(0)
        self._is_closed = False
        # A client that is dropped, or a kernel that ends, takes its engine along.
        self._finalizer = weakref.finalize(client, engine.close)
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"swiftai-engine{target.__name__}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queues a message; a large one to a busy engine must not block the caller."""
        self._outbox.append(message)
        self._has_mail.release()

    def close(self) -> None:
        self._is_closed = True
        self._has_mail.release()
        if self._finalizer.detach() is not None:
            self.engine.close()

    def _write(self) -> None:
        while True:
            self._has_mail.acquire()
            if self._is_closed:
                return
            message = self._outbox.popleft()
            try:
                self.engine.channel.send(message)
            except ChannelClosed:
                return  # the reader tells how it ended
            except ProtocolError as error:
                self._tell(Failed(message.job_id, error=_too_large(error).to_dict()))

    def _read(self) -> None:
        last_word: AIError | None = None
        try:
            while True:
                message = self.engine.channel.receive()
                if isinstance(message, Ready):
                    self.ready = message
                if isinstance(message, Bye) and message.error is not None:
                    last_word = error_from_dict(message.error)
                self._tell(message)
                del message
        except (ChannelClosed, TruncatedFrameError):
            pass
        except Exception as error:  # noqa: BLE001 - a reader that dies silently would leave every call waiting
            _log.debug("the engine's reader ended", exc_info=True)
            last_word = GenerationFailedError(
                f"the engine sent an invalid message: {error}",
                hint="restart the kernel; the installation may be half updated",
            )
            self.engine.kill()
        client = self._client()
        if client is not None:
            client._ended(self, self.engine.exit_error() if last_word is None else last_word)

    def _tell(self, message: Message) -> None:
        client = self._client()
        if client is not None:
            client._received(self, message)


def _too_large(error: ProtocolError) -> AIError:
    return InvalidInputError(f"the request is too large: {error}", hint="a shorter prompt or a smaller image")


def _in_a_fork() -> AIError:
    return GenerationFailedError(
        "this engine belongs to the process that was forked", hint="make a new provider in this process"
    )


async def _wait_shielded(answer: asyncio.Future[Message]) -> None:
    """Waits for `answer` to the end, however often the waiting task is cancelled meanwhile."""
    deadline_s = time.monotonic() + 2 * CANCEL_GRACE_S
    while not answer.done() and time.monotonic() < deadline_s:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({answer}, timeout=0.5)
    if answer.done() and not answer.cancelled():
        answer.exception()


def process_client(*, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is a child process."""
    return EngineClient(ProcessEngine, cancel_grace_s=cancel_grace_s)


def thread_client(*, cancel_grace_s: float = CANCEL_GRACE_S) -> EngineClient:
    """A client whose engine is a thread of this process."""
    return EngineClient(start_thread_engine, cancel_grace_s=cancel_grace_s)
