"""The engine as a process: what it finds, what it is given, how its end is explained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core
import numpy
import pytest

from swiftai_nb.core.errors import (
    EngineDiedError,
    InvalidInputError,
)
from swiftai_nb.engine.kernel.client import EngineClient
from swiftai_nb.engine.kernel.process import ProcessEngine
from swiftai_nb.engine.messages import AskStatus
from tests.engine.engines import ROOT, answer, fake_process, is_alive, picture
from tests.waiting import wait_until


@pytest.fixture
def process_client(monkeypatch):
    monkeypatch.chdir(ROOT)
    client = EngineClient(fake_process, cancel_grace_s=0.5)
    yield client
    client.close()


def test_what_libraries_print_does_not_disturb_the_frames(process_client):
    assert answer(process_client.submit(picture("print"))).steps == 1


@pytest.mark.parametrize("ending", ["exit", "kill -9", "fork holds the pipe"])
def test_no_engine_outlives_its_kernel(ending):
    code = (
        "import os, sys, time\n"
        "from tests.engine.engines import answer, fake_process, picture\n"
        "from swiftai_nb.engine.kernel.process import ProcessEngine\n"
        "from swiftai_nb.engine.kernel.client import process_client\n"
        "client = process_client()\n"
        "from swiftai_nb.engine.messages import AskStatus\n"
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
        "from swiftai_nb.engine.messages import AskStatus\n"
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
