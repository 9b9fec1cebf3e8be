"""Child processes: starting, watching and stopping them, explaining their exit; the child's side.

Parent: `ChildProcess(python_command("package.module"))` runs a module's `main` under this interpreter with
the packages this process can import. Child: `claim_standard_streams` keeps library output out of its
pipes, `exit_with_parent` ends it when the parent has ended.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.machinery
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

if TYPE_CHECKING:
    from typing_extensions import Self

EXIT_GRACE_S = 2.0
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_STDERR_LINES, _STDERR_LINE_BYTES = 40, 4096
_ORPHAN_CHECK_S = 0.5
_RETRY_DELAY_S = 0.1
_PIPE_CLOSE_S = 0.5
# EFAULT: another thread changed the C environment during execve. The others are temporary.
_PASSING_ERRORS = {
    getattr(errno, name, None) for name in ("EFAULT", "EAGAIN", "ENOMEM", "EINTR", "ETXTBSY")
} - {None}
# Not `-m`: that would put the working folder first on sys.path, where a user's random.py would replace the
# standard library's. Nothing may be imported before sys.path is set, hence no JSON.
_BOOT = (
    "import sys; sys.path[:] = sys.argv[1].split('\\n'); sys._swiftai_parent_pid = int(sys.argv[2]); "
    "del sys.argv[1:3]; from {module} import main; sys.exit(main())"
)


class _Pipe(io.RawIOBase):
    """A pipe's end that is not closed under a thread that reads or writes it.

    Closing it would free the descriptor's number between Python's check and the system call; the next pipe
    gets that number, and the thread would take bytes of another child.

    Args:
        raw: the pipe, unbuffered.
    """

    def __init__(self, raw: IO[bytes] | None) -> None:
        super().__init__()
        self._raw = cast("io.RawIOBase", raw)
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return self._raw.readable()

    def writable(self) -> bool:
        return self._raw.writable()

    def readinto(self, buffer: Any) -> int | None:
        with self._lock:
            return self._raw.readinto(buffer)

    def write(self, data: Any) -> int | None:
        with self._lock:
            return self._raw.write(data)

    def close(self) -> None:
        """Closes it, or leaves it to the garbage collector while a thread is blocked in it."""
        if not self.closed and self._lock.acquire(timeout=_PIPE_CLOSE_S):
            try:
                self._raw.close()
                super().close()
            finally:
                self._lock.release()


class ChildProcess:
    """A process of its own session, with pipes; the last lines of its standard error are kept.

    An interrupt (Ctrl-C) of the kernel's process group does not reach it. Call `close` when done with it.

    Args:
        command: program and arguments; see `python_command`.
        name: used in messages, such as "the engine".
        environment: of the child; None is a copy of this process's, see `copy_environment`.
        cwd: its working folder; None is this process's.

    Attributes:
        stdin: raw, unbuffered pipe to its standard input.
        stdout: raw, unbuffered pipe from its standard output.

    Raises:
        OSError: the process could not be started; temporary failures are retried once.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self.name = name
        environment = copy_environment() if environment is None else dict(environment)
        try:
            self._process = _start(command, environment, cwd)
        except OSError as error:
            if error.errno not in _PASSING_ERRORS:
                raise
            time.sleep(_RETRY_DELAY_S)
            self._process = _start(command, environment, cwd)
        self.stdin = cast("BinaryIO", _Pipe(self._process.stdin))
        self.stdout = cast("BinaryIO", _Pipe(self._process.stdout))
        self._stderr_tail: deque[str] = deque(maxlen=_STDERR_LINES)
        self._stderr_thread = threading.Thread(
            target=self._drain_stderr, name=f"swiftai-stderr-{self._process.pid}", daemon=True
        )
        self._stderr_thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def return_code(self) -> int | None:
        """Its exit status, -N after signal N; None while it runs."""
        return self._process.poll()

    @property
    def stderr_tail(self) -> list[str]:
        """The last lines of its standard error, 40 at most; complete once `wait` has returned True."""
        return list(self._stderr_tail)

    def write(self, data: bytes) -> None:
        """Writes all of `data` to its standard input; a child that has already exited is not an error."""
        rest = memoryview(data)
        with contextlib.suppress(OSError, ValueError):
            while rest:
                rest = rest[self.stdin.write(rest) :]  # a raw pipe may accept a part only

    def lines(self) -> Iterator[str]:
        """The lines of its standard output as they arrive, decoded and without line ends."""
        rest = b""
        with contextlib.suppress(OSError, ValueError):
            while chunk := self.stdout.read(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line.decode("utf-8", "replace").rstrip("\r")
        if rest:
            yield rest.decode("utf-8", "replace")

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for the exit; returns whether it has exited."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        if threading.current_thread() is not self._stderr_thread:
            self._stderr_thread.join(EXIT_GRACE_S)  # a grandchild may keep the pipe open
        return True

    def kill(self) -> None:
        """Ends it immediately (SIGKILL)."""
        with contextlib.suppress(OSError):
            self._process.kill()

    def terminate(self, grace_s: float = EXIT_GRACE_S) -> None:
        """Terminates it (SIGTERM) and kills it after `grace_s` seconds."""
        with contextlib.suppress(OSError):
            self._process.terminate()
        if not self.wait(grace_s):
            self.kill()
            self.wait()

    def close(self, grace_s: float = EXIT_GRACE_S) -> None:
        """Closes its standard input, kills it after `grace_s` seconds, frees the pipes; idempotent."""
        with contextlib.suppress(OSError, ValueError):
            self.stdin.close()
        if not self.wait(grace_s):
            self.kill()
            self.wait()
        for pipe in (self.stdin, self.stdout):  # the thread that drains standard error closes it
            with contextlib.suppress(OSError, ValueError):
                pipe.close()

    def describe_exit(self, grace_s: float = EXIT_GRACE_S) -> ExitDescription:
        """Waits for the exit and explains it; kills a child that has not exited after `grace_s` seconds."""
        if not self.wait(grace_s):
            self.kill()
            return ExitDescription(f"{self.name} stopped responding and was killed")
        return describe_exit(self.return_code or 0, self.stderr_tail, name=self.name)

    def _drain_stderr(self) -> None:
        stderr = cast("io.RawIOBase", self._process.stderr)
        with contextlib.suppress(OSError, ValueError), io.BufferedReader(stderr) as reader:
            while line := reader.readline(_STDERR_LINE_BYTES):
                self._stderr_tail.append(line.decode("utf-8", "replace").rstrip())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is not None:
            self.kill()
        self.close()


@dataclass(frozen=True)
class ExitDescription:
    """Why a process ended.

    Attributes:
        message: one line: its name, status or signal with the usual cause, last line of output.
        signal_name: such as "SIGKILL"; None when it exited by itself.
    """

    message: str
    signal_name: str | None = None


_SIGNAL_CAUSES = {
    "SIGKILL": " (usually because the system ran out of memory)",
    "SIGABRT": " (usually because MLX ran out of memory)",
    "SIGSEGV": " (a fault inside a library)",
    "SIGILL": " (an instruction this processor does not have)",
}


_NT_STATUS = {0xC0000005: "SIGSEGV", 0xC000001D: "SIGILL", 0xC0000017: "SIGKILL", 0xC0000409: "SIGABRT"}


def describe_exit(return_code: int, stderr_tail: Sequence[str], *, name: str) -> ExitDescription:
    """Explains an exit status.

    Args:
        return_code: as of `subprocess`: -N after signal N.
        stderr_tail: the last lines of its standard error.
        name: of the process, such as "the engine".
    """
    last_line = next((line.strip() for line in reversed(stderr_tail) if line.strip()), "")
    tail = f"; last output: {last_line[:200]}" if last_line else ""
    signal_name = _NT_STATUS.get(return_code)  # what Windows reports instead of signals
    if return_code >= 0 and signal_name is None:
        return ExitDescription(f"{name} exited with status {return_code}{tail}")
    if signal_name is None:
        try:
            signal_name = signal.Signals(-return_code).name
        except ValueError:
            signal_name = f"signal {-return_code}"
    cause = _SIGNAL_CAUSES.get(signal_name, "")
    return ExitDescription(f"{name} was ended by {signal_name}{cause}{tail}", signal_name)


def copy_environment(**changes: str | None) -> dict[str, str]:
    """This process's environment variables with some changed; None removes one.

    Safe while another thread changes `os.environ`. Always pass such a copy to a child: without one execve
    reads the C environment, which another thread's setenv may free at that moment (EFAULT).
    """
    copied = ((key, os.environ.get(key)) for key in [*os.environ])
    environment = {key: value for key, value in copied if value is not None and key not in changes}
    return environment | {key: value for key, value in changes.items() if value is not None}


def python_command(module: str, *arguments: str, first: Sequence[str] = ()) -> list[str]:
    """The command line that calls a module's `main()` under this interpreter, from this installation.

    The child can import what this process can, see `child_import_path`, and packages of the folders `first`
    before those. In the child, `sys.argv[1:]` is `arguments`, and what `main` returns is the exit status.
    """
    options = [
        *(["-I"] if sys.flags.isolated else ["-E"] if sys.flags.ignore_environment else []),
        *(["-S"] if sys.flags.no_site else ["-s"] if sys.flags.no_user_site else []),
    ]
    boot = _BOOT.format(module=module)
    path = "\n".join(child_import_path(first))
    return [sys.executable, *options, "-u", "-c", boot, path, str(os.getpid()), *arguments]


def child_import_path(first: Sequence[str] = ()) -> list[str]:
    """`sys.path` of a child: the standard library, this installation, then what this process imports from.

    The standard library comes first, so that an obsolete back port among the packages does not replace it.
    Left out are the working folder and the script's folder: a user's random.py beside a notebook is not
    meant for the child. Entries that the user added to `sys.path` stay.
    """
    # An entry that is not a path belongs to an import hook and stays unchanged.
    entries = [os.path.abspath(e) if os.path.exists(e) else e for e in sys.path if isinstance(e, str) and e]  # noqa: PTH100, PTH110
    library = [entry for entry in entries if _is_standard_library(entry)]
    hidden = _script_folders()
    packages = [entry for entry in entries if entry not in library and os.path.realpath(entry) not in hidden]
    return list(dict.fromkeys([*library, _PACKAGE_ROOT, *first, *packages]))


def find_child_module(name: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a top-level module or package on a child's import path; None when it is not there."""
    return importlib.machinery.PathFinder.find_spec(name, child_import_path())


def claim_standard_streams() -> tuple[int, int]:
    """In the child: file descriptors of its pipes, (input, output), used by its protocol only.

    Afterwards standard input is empty, and output of libraries goes to standard error.
    """
    reader, writer = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return reader, writer


def exit_with_parent(*, watched_pipe: int | None = None, status: int = 0) -> None:
    """In the child: ends this process as soon as its parent has ended.

    A child that reads its input to the end detects the parent's end by itself; this covers the case that
    another child of the parent holds the pipe open, and children that stop reading. (Linux's
    parent-death signal is not used because it fires when the parent's *thread* ends.) Exits without
    interpreter shutdown, since a computation may be running.

    Args:
        watched_pipe: file descriptor of its input; its end means the parent's end. Data is discarded.
        status: exit status.
    """
    parent_pid = getattr(sys, "_swiftai_parent_pid", os.getppid())

    def watch_parent() -> None:
        while os.getppid() == parent_pid:
            time.sleep(_ORPHAN_CHECK_S)
        os._exit(status)

    def watch_pipe(pipe: int) -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 4096):
                pass
        os._exit(status)

    if os.name == "posix":  # Windows never changes a process's parent
        threading.Thread(target=watch_parent, name="swiftai-parent", daemon=True).start()
    if watched_pipe is not None:
        threading.Thread(
            target=watch_pipe, args=(watched_pipe,), name="swiftai-parent-pipe", daemon=True
        ).start()


def _start(
    command: Sequence[str | os.PathLike[str]],
    environment: dict[str, str],
    cwd: str | os.PathLike[str] | None,
) -> subprocess.Popen[bytes]:
    flags = 0 if os.name == "posix" else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environment,
        cwd=cwd,
        start_new_session=os.name == "posix",
        creationflags=flags,
    )


def _is_standard_library(entry: str) -> bool:
    folder = os.path.dirname(os.__file__)  # noqa: PTH120 - sys.path holds strings
    if entry in (folder, os.path.join(folder, "lib-dynload")):  # noqa: PTH118
        return True
    name = os.path.basename(entry)  # noqa: PTH119
    is_zip = name == f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    return is_zip or (os.name == "nt" and entry in (sys.base_prefix, os.path.join(sys.base_prefix, "DLLs")))  # noqa: PTH118


def _script_folders() -> set[str]:
    """The folders that hold the user's notebook or script rather than packages."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = {os.path.dirname(os.path.realpath(script))} if isinstance(script, str) else set()  # noqa: PTH120
    with contextlib.suppress(OSError):  # the working folder may have been deleted
        folders.add(os.path.realpath(os.getcwd()))  # noqa: PTH109
    return {folder for folder in folders if not folder.endswith("-packages")} - {_PACKAGE_ROOT}
