"""Engines, commands and answers for tests of the kernel's side."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from swiftai_nb.engine.child.serve import serve
from swiftai_nb.engine.kernel.process import ProcessEngine, ThreadEngine
from swiftai_nb.engine.messages import Generate
from tests.engine.fake_engine import FakeHost

ROOT = Path(__file__).parents[2]


def fake_process(*arguments):
    return ProcessEngine([sys.executable, "-m", "tests.engine.fake_engine", *arguments])


def fake_thread():
    return ThreadEngine(lambda channel: serve(channel, FakeHost))


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
