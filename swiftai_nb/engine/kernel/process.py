"""A running engine: a child process, or a thread of this one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from swiftai_nb.core.child import EXIT_GRACE_S, ChildProcess, copy_environment, python_command
from swiftai_nb.core.errors import AIError, EngineDiedError, GenerationFailedError
from swiftai_nb.engine.channel import Channel, StreamChannel, memory_channel_pair
from swiftai_nb.engine.kernel.cuda import engine_packages

_NEW_ENGINE = "run the cell again to start a new engine"
_SMALLER = "a smaller size, quantization_bits=8 or a smaller model; the next job starts a new engine"
_SIGNAL_HINTS = {
    "SIGKILL": _SMALLER,
    "SIGABRT": _SMALLER,
    "SIGSEGV": "run the cell again; if it happens again, report it",
    "SIGILL": "MLX or NumPy needs a newer processor; use a cloud model",
}


class Engine(Protocol):
    """A running engine."""

    @property
    def channel(self) -> Channel:
        """The kernel's end of the connection."""
        ...

    @property
    def pid(self) -> int:
        """Its process; the kernel's own for a thread."""
        ...

    def kill(self) -> None:
        """Ends it immediately; a thread is abandoned instead."""
        ...

    def exit_error(self) -> AIError:
        """Waits for its end and explains it."""
        ...

    def close(self, timeout_s: float = EXIT_GRACE_S) -> None:
        """Requests its exit, kills it after `timeout_s` seconds, frees its resources."""
        ...


class ProcessEngine:
    """An engine in a process of its own.

    Args:
        command: what to run; None is our own engine.
        environment: variables of the process; None is `engine_environment()`.
        name: used in messages.

    Raises:
        GenerationFailedError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        name: str = "the engine",
    ) -> None:
        try:
            self._child = ChildProcess(
                engine_command() if command is None else command,
                name=name,
                environment=engine_environment() if environment is None else environment,
            )
        except OSError as error:
            raise GenerationFailedError(
                f"{name} cannot be started: {error}", hint="restart the kernel"
            ) from error
        self.channel = StreamChannel(self._child.stdout, self._child.stdin)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def stderr_tail(self) -> list[str]:
        """The last lines of its standard error."""
        return self._child.stderr_tail

    def kill(self) -> None:
        """See `Engine.kill`."""
        self._child.kill()

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        exit_ = self._child.describe_exit()
        return EngineDiedError(exit_.message, hint=_SIGNAL_HINTS.get(str(exit_.signal_name), _NEW_ENGINE))

    def close(self, timeout_s: float = EXIT_GRACE_S) -> None:
        """See `Engine.close`."""
        self.channel.close()
        self._child.close(timeout_s)


class ThreadEngine:
    """An engine in a thread of this process, for debugging and embedding; a crash ends the process.

    Args:
        serve: runs the loop on the channel it is given.
    """

    def __init__(self, serve: Callable[[Channel], None]) -> None:
        self.channel, self._engine_channel = memory_channel_pair()
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(serve,), name="swiftai-engine", daemon=True).start()

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def _run(self, serve: Callable[[Channel], None]) -> None:
        try:
            serve(self._engine_channel)
        finally:
            self._engine_channel.close()
            self._ended.set()

    def kill(self) -> None:
        """See `Engine.kill`."""
        self.channel.close()

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        return EngineDiedError("the engine's thread ended", hint=_NEW_ENGINE)

    def close(self, timeout_s: float = EXIT_GRACE_S) -> None:
        """See `Engine.close`."""
        self.channel.close()
        self._ended.wait(timeout_s)


def start_thread_engine() -> ThreadEngine:
    """Our own engine in a thread."""
    from swiftai_nb.engine.child.serve import serve
    from swiftai_nb.engine.child.start import make_model_host

    return ThreadEngine(lambda channel: serve(channel, lambda: make_model_host(own_process=False)))


def engine_command() -> list[str]:
    """The command line of our own engine: this interpreter and installation."""
    return python_command("swiftai_nb.engine.child.start", first=engine_packages())


def engine_environment() -> dict[str, str]:
    """This process's environment variables without the Hugging Face tokens, which an engine never needs."""
    return copy_environment(HF_TOKEN=None, HUGGING_FACE_HUB_TOKEN=None)
