"""The conversation with an engine: order, cancel, death, replacement, and what gets in the way."""

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
from swiftai_nb.engine.messages import AskStatus, Done, Ready, Stage, Step, Unload
from swiftai_nb.engine.protocol import decode
from tests.engine.engines import ROOT, answer, fake_process, fake_thread, is_alive, picture
from tests.engine.fake_engine import FakeHost
from tests.waiting import wait_until


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
    slow = process_client.submit(picture("slow 0.05", steps=400))
    started = time.monotonic()
    large = process_client.submit(picture(image=bytes(20_000_000)))
    assert time.monotonic() - started < 5, "the engine is busy for 20 s"
    assert not slow.done
    slow.cancel()
    assert answer(large).steps == 1


def test_a_request_beyond_the_limit_is_an_error_not_a_dead_engine(process_client):
    answer(process_client.submit(picture()))
    with pytest.raises(InvalidInputError, match="too large"):
        answer(process_client.submit(picture("x" * 20_000_000)))
    assert answer(process_client.submit(picture())).steps == 2


def test_a_value_that_cannot_be_sent_is_an_error_not_a_wait(process_client):
    for value in (object(), {1, 2}, {(1, 2): 3}):
        with pytest.raises(InvalidInputError, match="cannot be sent"):
            answer(process_client.submit(picture(seed=value)), 20)
    assert answer(process_client.submit(picture())).steps == 1


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


def test_a_forked_process_is_told_to_make_its_own_provider(process_client):
    answer(process_client.submit(picture()))
    code = (
        "import os, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "from swiftai_nb.core.errors import GenerationFailedError\n"
        "from swiftai_nb.engine.kernel.client import EngineClient\n"
        "from tests.engine.engines import answer, fake_process, picture\n"
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
        "from swiftai_nb.engine.kernel.client import EngineClient\n"
        "from tests.engine.engines import answer, fake_process, picture\n"
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
        "drop": "import gc; del client; gc.collect()",
        "exit": "pass",
        "cancel": "client.cancel_all()",
    }
    command = [sys.executable, "-c", code.format(action[ending])]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
