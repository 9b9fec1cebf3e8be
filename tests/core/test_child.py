"""Child processes: what they can import, how they start and how they end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from swiftai_nb.core import child
from swiftai_nb.core.child import (
    ChildProcess,
    _Pipe,
    child_import_path,
    copy_environment,
    describe_exit,
    find_child_module,
    python_command,
)
from tests.waiting import wait_until

PROGRAMS = "tests.core.child_programs"
ROOT = Path(__file__).parents[2]
needs_posix = pytest.mark.skipif(os.name != "posix", reason="signals and sessions")


def started(*arguments: str) -> ChildProcess:
    return ChildProcess(python_command(PROGRAMS, *arguments), name="the program")


def answer_of(*arguments: str) -> dict[str, Any]:
    with started(*arguments) as process:
        (line,) = process.lines()
        answer: dict[str, Any] = json.loads(line)
        return answer


def test_the_child_gets_its_arguments_and_only_its_protocol_on_standard_output() -> None:
    with started("where", "a b") as process:
        lines = list(process.lines())
        assert process.wait(30)
        assert process.stderr_tail == ["a library's message"]
    assert json.loads(lines[0])["arguments"] == ["a b"]


@needs_posix
def test_the_child_leads_a_session_of_its_own() -> None:
    assert answer_of("where")["session"] != os.getsid(0)


def test_the_child_imports_what_this_process_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "added_by_hand.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "packages")])
    assert answer_of("where", "added_by_hand", "nothing_of_that_name")["found"] == {
        "added_by_hand": True,
        "nothing_of_that_name": False,
    }
    assert find_child_module("added_by_hand") is not None


def test_a_module_beside_the_notebook_is_not_for_the_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('the user\\'s')")
    (tmp_path / "mlx.py").write_text("raise RuntimeError('the user\\'s')")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path) not in answer_of("where")["path"]
    spec = find_child_module("mlx")
    assert spec is None or str(tmp_path) not in str(spec.origin)


def test_back_ports_among_the_packages_do_not_replace_the_standard_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    (packages / "random.py").write_text("raise RuntimeError('obsolete')")
    monkeypatch.setattr(sys, "path", [str(packages), *sys.path])
    answer = answer_of("where")
    assert str(packages) in answer["path"]
    assert not answer["random"].startswith(str(packages))


@pytest.mark.parametrize("option", ["-I", "-E"])
def test_a_child_of_an_isolated_interpreter_ignores_the_environment_too(option: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('bad PYTHONPATH')")
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from swiftai_nb.core.child import ChildProcess, python_command\n"
        f"with ChildProcess(python_command({PROGRAMS!r}, 'where'), name='it') as child:\n"
        "    print(*child.lines())\n"
        "    assert child.wait(30) and child.return_code == 0, child.stderr_tail\n"
    )
    environment = copy_environment(PYTHONPATH=str(tmp_path))
    output = subprocess.run(
        [sys.executable, option, "-c", script],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert output.returncode == 0, output.stderr
    assert str(tmp_path) not in json.loads(output.stdout)["path"]


def test_the_import_path_keeps_this_installation_and_names_nothing_twice() -> None:
    path = child_import_path()
    assert str(ROOT) in path
    assert len(path) == len(set(path))
    library = path.index(str(Path(os.__file__).parent))
    assert library < path.index(str(ROOT))


def test_the_environment_is_always_an_explicit_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    environments = []
    real = subprocess.Popen

    def spy(*arguments: Any, **options: Any) -> Any:
        environments.append(options["env"])
        return real(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", spy)
    answer_of("where")
    assert environments[0] == dict(os.environ)
    assert environments[0] is not os.environ


def test_a_copied_environment_has_the_changes() -> None:
    environment = copy_environment(SWIFTAI_TEST="1", PATH=None)
    assert environment["SWIFTAI_TEST"] == "1"
    assert "PATH" not in environment
    assert "SWIFTAI_TEST" not in os.environ


@pytest.mark.parametrize("number", [errno.EFAULT, errno.EAGAIN])
def test_a_start_that_is_refused_for_a_passing_reason_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refusals = _refuse_starts(monkeypatch, OSError(number, "refused"), times=1)
    assert answer_of("where")["arguments"] == []
    assert refusals == [1]
    _refuse_starts(monkeypatch, OSError(number, "refused"), times=2)
    with pytest.raises(OSError, match="refused"):
        started("where")


def test_a_start_that_is_refused_for_good_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = _refuse_starts(monkeypatch, FileNotFoundError(errno.ENOENT, "no such program"), times=1)
    with pytest.raises(FileNotFoundError):
        started("where")
    assert refusals == [1]


def _refuse_starts(monkeypatch: pytest.MonkeyPatch, error: OSError, *, times: int) -> list[int]:
    refusals: list[int] = []
    real = child._start

    def refuse(*arguments: Any) -> Any:
        if len(refusals) < times:
            refusals.append(1)
            raise error
        return real(*arguments)

    monkeypatch.setattr(child, "_start", refuse)
    return refusals


def test_the_tail_of_its_errors_is_bounded() -> None:
    with started("fail") as process:
        assert process.describe_exit(30).message == (
            "the program exited with status 3; last output: the last line"
        )
        assert process.return_code == 3
        assert len(process.stderr_tail) == 40


@needs_posix
def test_closing_kills_a_child_that_does_not_end() -> None:
    process = started("stubborn")
    next(process.lines())
    process.close(grace_s=0.05)
    process.close()
    assert process.return_code == -signal.SIGKILL
    assert process.stdout.closed


@needs_posix
def test_terminating_ends_a_child_at_once() -> None:
    with started("endless") as process:
        next(process.lines())
        process.terminate(30)
        assert process.describe_exit().signal_name == "SIGTERM"


@needs_posix
def test_a_child_that_does_not_exit_is_killed_by_asking_for_its_exit() -> None:
    with started("stubborn") as process:
        next(process.lines())
        assert process.describe_exit(0.05).message == "the program stopped responding and was killed"
        assert process.wait(30)


@needs_posix
def test_an_error_in_the_block_kills_the_child() -> None:
    process = started("stubborn")
    with pytest.raises(KeyboardInterrupt), process:
        raise KeyboardInterrupt
    assert process.return_code == -signal.SIGKILL


@needs_posix
def test_the_child_ends_when_its_parent_is_killed_though_the_pipe_stays_open() -> None:
    script = (
        "import os, subprocess, sys\n"
        "from swiftai_nb.core.child import ChildProcess, python_command\n"
        f"process = ChildProcess(python_command({PROGRAMS!r}, 'endless'), name='it')\n"
        "print(next(process.lines()), flush=True)\n"
        # Another child holds our end of the pipe.
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'], close_fds=False,\n"
        "    stdout=subprocess.DEVNULL, pass_fds=[process.stdin.fileno()])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    output = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    pid = json.loads(output.stdout)["pid"]
    wait_until(lambda: not _is_running(pid), 20, message="the end of the child")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


@pytest.mark.parametrize(
    ("code", "message", "signal_name"),
    [
        (1, "the engine exited with status 1; last output: last line", None),
        (-9, "the engine was ended by SIGKILL (usually because the system ran out of memory)", "SIGKILL"),
        (-11, "the engine was ended by SIGSEGV (a fault inside a library)", "SIGSEGV"),
        (-250, "the engine was ended by signal 250", "signal 250"),
    ],
)
def test_an_exit_is_explained(code: int, message: str, signal_name: str | None) -> None:
    exit_ = describe_exit(code, ["", "last line", ""], name="the engine")
    assert exit_.message.startswith(message)
    assert exit_.message.endswith("last output: last line")
    assert exit_.signal_name == signal_name


def test_a_pipe_is_not_closed_under_a_thread_that_reads_it() -> None:
    reading, writing = os.pipe()
    pipe = _Pipe(os.fdopen(reading, "rb", buffering=0))
    received: list[bytes | None] = []
    thread = threading.Thread(target=lambda: received.append(pipe.read(1)))
    thread.start()
    wait_until(pipe._lock.locked)
    pipe.close()
    assert not pipe.closed, "its number must not go to another pipe"
    os.write(writing, b"x")
    thread.join(30)
    assert received == [b"x"]
    pipe.close()
    os.close(writing)
    assert pipe.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
