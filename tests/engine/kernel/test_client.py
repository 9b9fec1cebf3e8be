"""The conversation with an engine process: cancel, death, restart, and what gets in the way."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlx.core
import numpy
import pytest

from swiftai_nb.core.errors import (
    AIError,
    EngineDiedError,
    GenerationCancelledError,
    GenerationFailedError,
    InsufficientMemoryError,
    InvalidInputError,
)
from swiftai_nb.engine.child.serve import serve
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.engine.kernel.process import ProcessEngine, ThreadEngine
from swiftai_nb.engine.protocol import AskStatus, Done, Generate, Ready, Stage, Step, Unload, decode
from tests.engine.fake_engine import FakeHost
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]


def fake_process(*arguments):
    return ProcessEngine([sys.executable, "-m", "tests.engine.fake_engine", *arguments])


def fake_thread():
    return ThreadEngine(lambda channel: serve(channel, FakeHost))


@pytest.fixture(params=["process", "thread"])
def client(request, monkeypatch):
    monkeypatch.chdir(ROOT)
    client = EngineClient(fake_process if request.param == "process" else fake_thread)
    yield client
    client.close()


@pytest.fixture
def process_client(monkeypatch):
    monkeypatch.chdir(ROOT)
    client = EngineClient(fake_process, cancel_grace_s=0.5)
    yield client
    client.close()


def picture(prompt="cat", steps=3, **fields):
    return Generate(prompt=prompt, width=8, height=8, steps=steps, **fields)


def answer(call, timeout_s=90):
    return call.result(timeout_s)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z" if sys.platform == "linux" else True


def test_events_come_in_order_before_the_answer(client):
    events = []
    done = answer(client.submit(picture(), events.append))
    assert isinstance(done, Done)
    assert [type(e).__name__ for e in events] == ["Ready", "Stage", "Step", "Step", "Step"]
    assert len(done.pixels) == 8 * 8 * 3


def test_the_engine_stays_for_the_next_command(client):
    first, second = answer(client.submit(picture())), answer(client.submit(picture()))
    assert (first.steps, second.steps) == (1, 2)
    assert answer(client.submit(AskStatus())).folder == "2"
    assert answer(client.submit(Unload())).folder == "0"


def test_commands_are_answered_one_after_another(client):
    calls = [client.submit(picture(f"number {n}")) for n in range(5)]
    assert [answer(call).steps for call in calls] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("prompt", "kind", "words"),
    [
        ("refuse", InvalidInputError, "no"),
        ("fault", GenerationFailedError, "ZeroDivisionError: division by zero"),
        ("memory", InsufficientMemoryError, "memory ran out"),
    ],
)
def test_an_error_arrives_as_its_class_and_the_engine_goes_on(client, prompt, kind, words):
    with pytest.raises(kind, match=words):
        answer(client.submit(picture(prompt)))
    assert answer(client.submit(picture())).steps == 1


def test_cancel_ends_a_running_command_alone(client):
    stepped = threading.Event()
    running = client.submit(picture("slow 0.02", steps=1000), lambda e: isinstance(e, Step) and stepped.set())
    waiting = client.submit(picture())
    assert stepped.wait(90)
    running.cancel()
    running.cancel()
    with pytest.raises(GenerationCancelledError) as caught:
        answer(running)
    assert caught.value.total_steps == 1000
    assert answer(waiting).steps == 1, "the same engine made the next picture"


def test_cancel_takes_a_waiting_command_out_at_once(client):
    running = client.submit(picture("slow 0.02", steps=1000))
    waiting = client.submit(picture())
    waiting.cancel()
    with pytest.raises(GenerationCancelledError):
        answer(waiting, 1)
    client.cancel_all()
    with pytest.raises(GenerationCancelledError):
        answer(running)


def test_cancelling_the_awaiting_task_stops_the_engine_and_raises_cancelled_error(client):
    async def use():
        stepped = asyncio.Event()
        loop = asyncio.get_running_loop()
        command = picture("slow 0.02", steps=1000)
        task = asyncio.create_task(client.run(command, lambda _: loop.call_soon_threadsafe(stepped.set)))
        await asyncio.wait_for(stepped.wait(), 90)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await client.run(picture())

    assert asyncio.run(use()).steps == 1


def test_an_engine_that_does_not_obey_is_replaced(process_client):
    stage = threading.Event()
    call = process_client.submit(picture("hang"), lambda e: isinstance(e, Stage) and stage.set())
    assert stage.wait(90)
    old = process_client.pid
    call.cancel()
    with pytest.raises(GenerationCancelledError):
        answer(call)
    assert answer(process_client.submit(picture())).steps == 1
    assert process_client.pid != old
    assert not is_alive(old)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT", "SIGSEGV"])
def test_death_by_signal_is_named_and_costs_one_command(process_client, name):
    dying = process_client.submit(picture(f"die {name}"))
    following = process_client.submit(picture())
    with pytest.raises(EngineDiedError, match=name) as caught:
        answer(dying)
    assert caught.value.hint
    assert answer(following).steps == 1


def test_kill_9_from_outside_in_mid_job(process_client):
    stepped = threading.Event()
    call = process_client.submit(
        picture("slow 0.05", steps=1000), lambda e: isinstance(e, Step) and stepped.set()
    )
    assert stepped.wait(90)
    os.kill(process_client.pid, signal.SIGKILL)
    with pytest.raises(EngineDiedError, match="SIGKILL"):
        answer(call)
    assert answer(process_client.submit(picture())).steps == 1


def test_an_idle_engine_that_died_is_replaced_without_an_error(process_client):
    answer(process_client.submit(picture()))
    os.kill(process_client.pid, signal.SIGKILL)
    wait_until(lambda: process_client.pid is None)
    assert answer(process_client.submit(picture())).steps == 1


def test_a_job_that_a_dead_idle_engine_had_not_begun_runs_on_a_new_one(process_client):
    for _ in range(10):
        answer(process_client.submit(picture()))
        os.kill(process_client.pid, signal.SIGKILL)
        assert answer(process_client.submit(picture())).steps == 1


def test_a_job_that_kills_every_engine_at_once_is_repeated_once_only(process_client):
    answer(process_client.submit(picture()))
    started = []
    start = process_client._start
    process_client._start = lambda: started.append(1) or start()
    call = process_client.submit(picture("vanish"))
    with pytest.raises(EngineDiedError, match="SIGKILL"):
        answer(call)
    assert (len(started), call.is_repeated) == (1, True)


def test_an_exit_tells_what_was_said_last(process_client):
    with pytest.raises(EngineDiedError, match="status 3; last output: about to leave"):
        answer(process_client.submit(picture("exit 3")))


def test_what_libraries_print_does_not_disturb_the_frames(process_client):
    assert answer(process_client.submit(picture("print"))).steps == 1


def test_garbage_from_the_engine_is_one_error_and_a_fresh_engine(process_client):
    with pytest.raises(GenerationFailedError, match="invalid message: not a frame"):
        answer(process_client.submit(picture("garbage")))
    assert answer(process_client.submit(picture())).steps == 1


@pytest.mark.parametrize(
    "header",
    [
        '{"type": []}',
        '{"type": {"a": 1}}',
        '{"type": "Step", "parts": [["preview", Infinity]]}',
        '{"type": "Ready", "versions": [1]}',
    ],
)
def test_an_invalid_message_of_the_engine_ends_the_job_and_a_fresh_engine_follows(process_client, header):
    with pytest.raises(GenerationFailedError, match="sent an invalid message"):
        answer(process_client.submit(picture(f"header {header}")))
    assert answer(process_client.submit(picture())).steps == 1


@pytest.mark.parametrize(
    "error",
    [
        '{"message": null}',
        '{"message": "no", "extra": 5}',
        '{"message": "no", "extra": [1]}',
        '{"message": "no", "extra": {"message": null, "hint": 3}}',
        '{"type": ["AIError"], "hint": {}}',
    ],
)
def test_a_failure_with_odd_values_is_one_error(error):
    class Odd(FakeHost):
        def generate(self, command, report, token):
            header = json.dumps({"type": "Failed", "job_id": command.job_id, "error": json.loads(error)})
            report(decode(header.encode(), b""))
            return super().generate(command, report, token)

    client = EngineClient(lambda: ThreadEngine(lambda channel: serve(channel, Odd)))
    for _ in range(2):
        with pytest.raises(AIError) as caught:
            answer(client.submit(picture()), 20)
        assert str(caught.value)
    client.close()


def test_an_engine_killed_in_the_middle_of_a_message_is_reported_as_killed(process_client):
    with pytest.raises(EngineDiedError, match="SIGKILL"):
        answer(process_client.submit(picture("cut")))


@pytest.mark.parametrize(
    "header", [b'{"type": []}', b'{"type": "Cancel", "parts": [["x", Infinity]]}', b"[]"]
)
def test_an_engine_that_receives_an_invalid_message_says_so_and_ends(header, monkeypatch):
    monkeypatch.chdir(ROOT)
    engine = fake_process()
    frame = struct.pack(">4sHHII", b"SWAI", 1, 0, len(header), 0) + header
    engine.channel._writer.write(frame)
    assert isinstance(engine.channel.receive(), Ready)
    bye = engine.channel.receive()
    assert "received an invalid message" in bye.error["message"]
    assert "status 0" in engine.exit_error().message
    engine.close()


def test_an_engine_that_cannot_start_says_why(monkeypatch):
    monkeypatch.chdir(ROOT)
    for client, kind, words in (
        (EngineClient(lambda: fake_process("broken")), EngineDiedError, "does not start"),
        (EngineClient(lambda: fake_process("refusing")), GenerationFailedError, "no module named mlx"),
        (
            EngineClient(lambda: ProcessEngine(["/nowhere/python"])),
            GenerationFailedError,
            "cannot be started",
        ),
    ):
        for _ in range(2):
            with pytest.raises(kind, match=words):
                answer(client.submit(picture()))
        client.close()


def test_a_callback_that_raises_does_not_stop_the_reading(client, caplog):
    def broken(_):
        raise ValueError("callback fault")

    assert answer(client.submit(picture(), broken)).steps == 1
    assert "callback fault" in caplog.text


def test_a_large_request_to_a_busy_engine_does_not_block_the_caller(process_client):
    slow = process_client.submit(picture("slow 0.05", steps=20))
    started = time.monotonic()
    large = process_client.submit(picture(image=bytes(20_000_000)))
    assert time.monotonic() - started < 0.5
    slow.cancel()
    assert answer(large).steps == 1


def test_a_request_beyond_the_limit_is_an_error_not_a_dead_engine(process_client):
    answer(process_client.submit(picture()))
    with pytest.raises(InvalidInputError, match="too large"):
        answer(process_client.submit(picture("x" * 20_000_000)))
    assert answer(process_client.submit(picture())).steps == 2


def test_close_ends_process_and_calls(process_client):
    call = process_client.submit(picture("slow 0.05", steps=1000))
    pid = process_client.pid
    process_client.close()
    process_client.close()
    with pytest.raises(GenerationCancelledError):
        answer(call)
    assert not is_alive(pid)
    with pytest.raises(GenerationFailedError, match="closed"):
        answer(process_client.submit(picture()))


def test_a_dropped_client_takes_its_engine_along(monkeypatch):
    monkeypatch.chdir(ROOT)
    client = EngineClient(fake_process)
    answer(client.submit(picture()))
    pid = client.pid
    del client
    gc.collect()
    wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("ending", ["exit", "kill -9", "fork holds the pipe"])
def test_no_engine_outlives_its_kernel(ending):
    code = (
        "import os, sys, time\n"
        "from tests.engine.kernel.test_client import EngineClient, fake_process, picture, answer\n"
        "from swiftai_nb.engine.kernel.process import ProcessEngine\n"
        "from swiftai_nb.engine.kernel.client import process_client\n"
        "client = process_client()\n"
        "from swiftai_nb.engine.protocol import AskStatus\n"
        "client.submit(AskStatus()).result(60)\n"
        "print(client.pid, flush=True)\n"
    )
    if ending == "fork holds the pipe":
        code += "import warnings; warnings.simplefilter('ignore')\n"
        code += "if os.fork() == 0: time.sleep(25); os._exit(0)\n"
    code += "os.kill(os.getpid(), 9)\n" if ending != "exit" else ""
    kernel = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(kernel.stdout.readline())
    assert kernel.wait(120) == (0 if ending == "exit" else -9)
    kernel.stdout.close()
    wait_until(lambda: not is_alive(pid), timeout_s=20)


def test_a_forked_process_is_told_to_make_its_own_provider(process_client):
    answer(process_client.submit(picture()))
    code = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from tests.engine.kernel.test_client import *\n"
        "client = EngineClient(fake_process)\n"
        "answer(client.submit(picture()))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: answer(client.submit(picture()), 5)\n"
        "    except GenerationFailedError as error: os._exit(7 if 'forked' in error.message else 8)\n"
        "    os._exit(9)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert answer(client.submit(picture())).steps == 2\n"
        "client.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("ending", ["close", "drop", "exit", "cancel"])
def test_a_fork_ends_without_waiting_and_leaves_the_engine_to_its_parent(ending):
    code = (
        "import os, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from tests.engine.kernel.test_client import *\n"
        "client = EngineClient(fake_process)\n"
        "call = client.submit(picture('slow 0.01', steps=100))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    {}\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "assert answer(call).steps == 1\n"
        "assert answer(client.submit(picture())).steps == 2\n"
        "client.close()\n"
    )
    action = {
        "close": "client.close()",
        "drop": "del client; gc.collect()",
        "exit": "pass",
        "cancel": "client.cancel_all()",
    }
    command = [sys.executable, "-c", code.format(action[ending])]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("name", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_engine_has_no_token_in_its_environment(process_client, monkeypatch, name):
    monkeypatch.setenv(name, "hf_secret")
    monkeypatch.setenv("SWIFTAI_OTHER", "kept")
    for variable, words in ((name, "None"), ("SWIFTAI_OTHER", "kept")):
        with pytest.raises(InvalidInputError, match=words):
            answer(process_client.submit(picture(f"environment {variable}")))


@pytest.mark.parametrize("options", [[], ["-I"], ["-E"], ["-S"]], ids=lambda o: "".join(o) or "none")
def test_our_engine_finds_the_packages_that_its_kernel_finds(tmp_path, options):
    (tmp_path / "numpy.py").write_text("raise RuntimeError('the wrong module')")
    packages = sorted({str(Path(mlx.core.__file__).parents[1]), str(Path(numpy.__file__).parents[1])})
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"sys.path += {packages!r}\n"
        "from swiftai_nb.engine.kernel.client import process_client\n"
        "from swiftai_nb.engine.protocol import AskStatus\n"
        "client = process_client()\n"
        "assert client.submit(AskStatus()).result(60).folder == ''\n"
        "client.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path) if "-I" in options or "-E" in options else ""}
    command = [sys.executable, *options, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=90)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("sys.exit(0)", "status 0"),
        ("sys.exit(1)", "status 1"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), 50)", "signal 50"),
    ],
)
def test_every_exit_has_words_and_a_hint(end, words):
    code = f"import os, signal, sys; print('last words', file=sys.stderr, flush=True); {end}"
    engine = ProcessEngine([sys.executable, "-c", code])
    error = engine.exit_error()
    engine.close()
    assert isinstance(error, EngineDiedError)
    assert words in error.message
    assert "last words" in error.message
    assert error.hint


def test_a_flood_on_standard_error_does_not_stop_the_engine(process_client):
    assert answer(process_client.submit(picture("flood"))).steps == 1
    assert max(map(len, process_client._session.engine.stderr_tail)) <= 4096


def test_an_interrupt_of_the_kernels_group_does_not_reach_the_engine(process_client):
    answer(process_client.submit(picture()))
    assert os.getsid(process_client.pid) == process_client.pid


def test_a_notebook_folder_with_modules_of_common_names_does_not_break_the_engine(tmp_path, monkeypatch):
    for name in ("random", "numpy", "queue", "protocol", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.chdir(tmp_path)
    client = EngineClient(ProcessEngine)
    assert answer(client.submit(AskStatus()), 60).folder == ""
    client.close()
