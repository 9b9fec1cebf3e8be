"""The engine's loop: commands in order, cancels that overtake them, errors as answers, a clean end."""

from __future__ import annotations

import threading

import pytest

from swiftai_nb.core.errors import (
    GenerationCancelledError,
    GenerationFailedError,
    InsufficientMemoryError,
    InvalidInputError,
    UnsupportedModelError,
    error_from_dict,
)
from swiftai_nb.engine.channel import ChannelClosed, memory_channel_pair
from swiftai_nb.engine.child.serve import serve, translate_error
from swiftai_nb.engine.messages import (
    AskStatus,
    Bye,
    Cancel,
    Done,
    Failed,
    Generate,
    LoadModel,
    Quantize,
    Ready,
    Shutdown,
    Stage,
    Status,
)
from tests.engine.fake_engine import FakeHost

LIMIT_S = 30


class Kernel:
    """The other end of a served channel."""

    def __init__(self, make_host=FakeHost, on_disconnect=lambda: None):
        self.channel, engine_channel = memory_channel_pair()
        self.thread = threading.Thread(
            target=serve, args=(engine_channel, make_host), kwargs={"on_disconnect": on_disconnect}
        )
        self.thread.start()

    def receive(self, kind):
        while not isinstance(message := self.channel.receive(), kind):
            pass
        return message

    def close(self):
        self.channel.close()
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive()


@pytest.fixture
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.close()


def picture(job_id, prompt="cat", steps=1):
    return Generate(job_id, prompt=prompt, width=8, height=8, steps=steps)


def test_the_engine_describes_itself_then_answers_in_order(kernel):
    assert isinstance(kernel.channel.receive(), Ready)
    for job_id in "abc":
        kernel.channel.send(picture(job_id))
    assert [kernel.receive(Done).job_id for _ in "abc"] == ["a", "b", "c"]


def test_shutdown_ends_the_loop_after_the_current_command_with_a_last_message(kernel):
    kernel.channel.send(picture("a"))
    kernel.channel.send(Shutdown())
    assert kernel.receive(Done).job_id == "a"
    assert kernel.receive(Bye).error is None
    with pytest.raises(ChannelClosed):
        kernel.channel.receive()


def test_a_cancel_overtakes_waiting_commands(kernel):
    kernel.channel.send(picture("a", "slow 0.01", steps=10_000))
    kernel.channel.send(picture("b"))
    kernel.receive(Stage)
    kernel.channel.send(Cancel("b"))
    kernel.channel.send(Cancel("nobody"))
    kernel.channel.send(Cancel("a"))
    for job_id in "ab":
        failed = kernel.receive(Failed)
        assert failed.job_id == job_id
        assert isinstance(error_from_dict(failed.error), GenerationCancelledError)


def test_two_commands_of_one_id_are_both_answered(kernel):
    for _ in range(2):
        kernel.channel.send(AskStatus("a"))
    assert [kernel.receive(Status).job_id for _ in range(2)] == ["a", "a"]


def test_a_host_tidies_up_when_no_other_command_waits():
    idle = threading.Event()

    class Tidy(FakeHost):
        def idle(self):
            idle.set()

    kernel = Kernel(Tidy)
    kernel.channel.send(picture("1"))
    assert kernel.receive(Done).job_id == "1"
    assert idle.wait(LIMIT_S)
    kernel.close()


def test_a_message_that_is_no_command_is_an_error_of_that_message_alone(kernel):
    kernel.channel.send(Done("a"))
    assert "is not a command" in kernel.receive(Failed).error["message"]
    kernel.channel.send(AskStatus("b"))
    assert kernel.receive(Status).job_id == "b"


def test_a_host_that_cannot_quantize_says_so(kernel):
    kernel.channel.send(Quantize("a", folder="model", target="copy", bits=4))
    assert isinstance(error_from_dict(kernel.receive(Failed).error), UnsupportedModelError)


def test_when_the_kernel_is_gone_the_running_command_is_cancelled_and_the_caller_told():
    gone = threading.Event()
    kernel = Kernel(on_disconnect=gone.set)
    kernel.channel.send(picture("a", "slow 0.01", steps=10_000))
    kernel.receive(Stage)
    kernel.close()
    assert gone.wait(LIMIT_S)


def test_a_host_that_cannot_be_made_is_the_last_message():
    def make_host():
        raise ImportError("no module named mlx")

    kernel = Kernel(make_host)
    assert "no module named mlx" in kernel.receive(Bye).error["message"]
    kernel.close()


def test_a_model_that_cannot_be_loaded_is_an_answer():
    class Broken(FakeHost):
        def load(self, command, report, token):
            raise FileNotFoundError("no such folder")

    kernel = Kernel(Broken)
    kernel.channel.send(LoadModel("a"))
    assert kernel.receive(Failed).error["message"] == "FileNotFoundError: no such folder"
    kernel.close()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), InsufficientMemoryError, "memory ran out"),
        (RuntimeError("[metal::malloc] Unable to allocate 9 bytes"), InsufficientMemoryError, "ran out"),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Insufficient Memory "
                "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)."
            ),
            InsufficientMemoryError,
            "ran out",
        ),
        (
            RuntimeError("cudaMallocAsync(&data, size, stream) failed: out of memory"),
            InsufficientMemoryError,
            "ran out",
        ),
        (
            RuntimeError(
                "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
                "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
            ),
            GenerationFailedError,
            "took too long",
        ),
        (RuntimeError("[malloc_or_wait] Out of memory\nmore"), InsufficientMemoryError, "Out of memory"),
        (ValueError("shapes\nmore"), GenerationFailedError, "ValueError: shapes"),
        (InvalidInputError("as it is"), InvalidInputError, "as it is"),
    ],
)
def test_errors_of_the_computation_are_translated(error, kind, words):
    translated = translate_error(error)
    assert type(translated) is kind
    assert words in translated.message
    assert "\n" not in translated.message
