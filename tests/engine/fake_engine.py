"""An engine without a model, run as a child process: its prompts tell it how to behave."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import time

from swiftai_nb.core.child import claim_standard_streams
from swiftai_nb.core.errors import GenerationCancelledError, InvalidInputError
from swiftai_nb.engine.channel import StreamChannel
from swiftai_nb.engine.child.serve import serve
from swiftai_nb.engine.messages import Done, Loaded, Ready, Stage, Status, Step


def behave(word, argument):
    """Does what the prompt's first word says; other words do nothing."""
    if word == "die":
        os.kill(os.getpid(), getattr(signal, argument))
    elif word == "exit":
        print("about to leave", file=sys.stderr, flush=True)
        os._exit(int(argument))
    elif word == "environment":
        raise InvalidInputError(repr(os.environ.get(argument)))
    elif word == "hang":
        time.sleep(60)  # sleep: a fault that lasts longer than the test
    elif word == "refuse":
        raise InvalidInputError("no", hint="say yes")
    elif word == "fault":
        raise ZeroDivisionError("division by zero")
    elif word == "memory":
        raise RuntimeError("[malloc] Unable to allocate 123456 bytes.")
    elif word == "print":
        print("a library talks", flush=True)
        ctypes.CDLL(None).puts(b"a C library talks")
    elif word == "flood":
        sys.stderr.write("x" * 3_000_000)
        sys.stderr.flush()
    elif word == "garbage":
        os.write(int(os.environ["FAKE_OUT"]), b"this is not a frame at all")
        time.sleep(60)  # sleep: a fault that lasts longer than the test
    elif word == "header":
        header = argument.encode()
        os.write(int(os.environ["FAKE_OUT"]), struct.pack(">4sHHII", b"SWAI", 1, 0, len(header), 0) + header)
        time.sleep(60)  # sleep: a fault that lasts longer than the test
    elif word == "cut":
        os.write(int(os.environ["FAKE_OUT"]), struct.pack(">4sHHII", b"SWAI", 1, 0, 100, 0) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)


class FakeHost:
    def __init__(self):
        self.made = 0

    def ready(self):
        return Ready(pid=os.getpid(), device="cpu")

    def load(self, command, report, token):
        return Loaded(command.job_id, {"unet": 1})

    def unload(self):
        self.made = 0

    def status(self):
        return Status(folder=str(self.made))

    def generate(self, command, report, token):
        word, _, argument = command.prompt.partition(" ")
        if word == "vanish":
            os.kill(os.getpid(), signal.SIGKILL)
        report(Stage(command.job_id, "drawing"))
        behave(word, argument)
        for index in range(command.steps):
            time.sleep(float(argument) if word == "slow" else 0.0)  # sleep: how long a step takes
            report(Step(command.job_id, index, command.steps, 0.0, b"jpeg" * 1000))
            if token.is_cancelled:
                raise GenerationCancelledError(completed_steps=index + 1, total_steps=command.steps)
        self.made += 1
        size = command.width * command.height * 3
        return Done(command.job_id, bytes(size), command.width, command.height, steps=self.made)


def main():
    reader, writer = claim_standard_streams()
    os.environ["FAKE_OUT"] = str(writer)
    channel = StreamChannel(os.fdopen(reader, "rb", buffering=0), os.fdopen(writer, "wb", buffering=0))
    if sys.argv[1:] == ["broken"]:
        raise SystemExit("this engine does not start")
    serve(channel, _cannot if sys.argv[1:] == ["refusing"] else FakeHost, on_disconnect=lambda: os._exit(0))


def _cannot():
    raise ImportError("no module named mlx")


if __name__ == "__main__":
    main()
