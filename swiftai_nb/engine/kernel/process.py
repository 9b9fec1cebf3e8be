"""Starting an engine, and telling how one ended."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from swiftai_nb.core.errors import AIError, EngineDiedError, GenerationFailedError
from swiftai_nb.engine.channel import Channel, StreamChannel, memory_channel_pair

_KEPT_LINES, _LONGEST_LINE = 40, 4096
_EXIT_GRACE_S = 2.0
# Not `-m`: that would put the notebook's folder first on sys.path, where any random.py stands in the way.
# Our own folder goes before other installed packages, behind the standard library.
_BOOT = (
    "import sys\n"
    "if sys.path and sys.path[0] == '': del sys.path[0]\n"
    "root = sys.argv[1]\n"
    "at = next((i for i, p in enumerate(sys.path) if p.endswith('-packages')), len(sys.path))\n"
    "sys.path.insert(at, root)\n"
    "from {module} import main\n"
    "main()\n"
)


class Engine(Protocol):
    """A running engine."""

    @property
    def channel(self) -> Channel:
        """The kernel's end of the conversation."""
        ...

    @property
    def pid(self) -> int:
        """Its process; the kernel's own for a thread."""
        ...

    def kill(self) -> None:
        """Ends it without asking; a thread is abandoned instead."""
        ...

    def exit_error(self) -> AIError:
        """Waits for its end and says what happened."""
        ...

    def close(self, timeout_s: float = _EXIT_GRACE_S) -> None:
        """Asks it to end, insists after `timeout_s` seconds, frees what it held."""
        ...


class ProcessEngine:
    """An engine in a process of its own.

    The process leads its own session, so that an interrupt of the kernel's group does not reach it.

    Args:
        command: what to run instead of our own engine.
        environment: of the process; None is this one's.

    Raises:
        GenerationFailedError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str] | None = None, *, environment: dict[str, str] | None = None
    ) -> None:
        try:
            self._process = subprocess.Popen(
                engine_command() if command is None else command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise GenerationFailedError(
                f"the engine cannot be started: {error}", hint="restart the kernel"
            ) from error
        streams = (self._process.stdin, self._process.stdout, self._process.stderr)
        stdin, stdout, stderr = (s for s in streams if s is not None)
        self._stderr = io.BufferedReader(stderr)  # type: ignore[type-var]
        self.channel = StreamChannel(stdout, stdin)  # type: ignore[arg-type]
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, name="swiftai-engine-stderr", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def last_lines(self) -> list[str]:
        """The newest lines of its standard error."""
        return list(self._last_lines)

    def kill(self) -> None:
        """See `Engine.kill`."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        try:
            code = self._process.wait(_EXIT_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return EngineDiedError(
                "the engine stopped answering and was ended", hint="run the cell again to start a new engine"
            )
        _join(self._listener)
        return describe_exit(code, self.last_lines)

    def close(self, timeout_s: float = _EXIT_GRACE_S) -> None:
        """See `Engine.close`."""
        self.channel.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        _join(self._listener)
        self.channel.close_reader()
        self._stderr.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self._stderr.readline(_LONGEST_LINE):
                self._last_lines.append(line.decode("utf-8", "replace").rstrip())


class ThreadEngine:
    """The same loop in a thread of this process: for debugging and embedding. A crash takes all along.

    Args:
        serve: runs the loop on the channel it is given.
    """

    def __init__(self, serve: Callable[[Channel], None]) -> None:
        self.channel, there = memory_channel_pair()
        self._there = there
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(serve,), name="swiftai-engine", daemon=True).start()

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def _run(self, serve: Callable[[Channel], None]) -> None:
        try:
            serve(self._there)
        finally:
            self._there.close()
            self._ended.set()

    def kill(self) -> None:
        """See `Engine.kill`."""
        self.channel.close()

    def exit_error(self) -> AIError:
        """See `Engine.exit_error`."""
        return EngineDiedError("the engine's thread ended", hint="run the cell again to start a new engine")

    def close(self, timeout_s: float = _EXIT_GRACE_S) -> None:
        """See `Engine.close`."""
        self.channel.close()
        self._ended.wait(timeout_s)


def start_thread_engine() -> ThreadEngine:
    """Our own engine in a thread."""
    from swiftai_nb.engine.child.serve import serve
    from swiftai_nb.engine.child.start import make_model_host

    return ThreadEngine(lambda channel: serve(channel, lambda: make_model_host(own_process=False)))


def engine_command() -> list[str]:
    """The command line of our own engine: this interpreter, this installation."""
    return python_command("swiftai_nb.engine.child.start")


def python_command(module: str) -> list[str]:
    """The command line that runs a module's `main` under this interpreter, from this installation."""
    root = str(Path(__file__).resolve().parents[3])
    return [sys.executable, "-u", "-c", _BOOT.format(module=module), root]


def describe_exit(return_code: int, last_lines: Sequence[str]) -> EngineDiedError:
    """What an exit status means, for people."""
    said = next((line for line in reversed(last_lines) if line.strip()), "")
    tail = f"; it last said: {said.strip()[:200]}" if said else ""
    if return_code >= 0:
        return EngineDiedError(
            f"the engine ended with status {return_code}{tail}",
            hint="run the cell again to start a new engine",
        )
    number = -return_code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    reason, hint = _SIGNALS.get(name, ("", "run the cell again to start a new engine"))
    return EngineDiedError(f"the engine was ended by {name}{reason}{tail}", hint=hint)


_SMALLER = "a smaller size, quantization_bits=8 or a smaller model; the next job starts a fresh engine"
_SIGNALS = {
    "SIGKILL": (" (killed by someone, or by the system for want of memory)", _SMALLER),
    "SIGABRT": (" (MLX gave up, mostly for want of memory)", _SMALLER),
    "SIGSEGV": (" (a fault inside a library)", "run the cell again; if it happens again, report it"),
    "SIGILL": (
        " (an instruction this processor lacks)",
        "MLX or NumPy needs a newer processor; use a cloud model",
    ),
}


def _join(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():
        thread.join(_EXIT_GRACE_S)
