"""A turn of stable-diffusion.cpp's server: one guided step, as the difference of two pictures.

What prompt, decoder and PNG take is the same with three steps and with one. The peak memory is the whole
server's, all parts of the model included. Standard library only.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from child import peak_bytes, quiet

_START_S, _PICTURE_S = 300, 3600


def main() -> None:
    program, folder, size = sys.argv[1:4]
    quiet()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = str(len(os.sched_getaffinity(0)))
    command = [program, "-m", folder, "--listen-port", str(port), "-t", threads]
    with subprocess.Popen(command, stdout=sys.stderr, stderr=sys.stderr) as server:
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_for(f"{url}/models", server)
            print("{}", flush=True)
            for _ in sys.stdin:
                print(json.dumps(turn(url, size, server.pid)), flush=True)
        finally:
            server.terminate()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Until the server answers.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError("the server did not start")


def turn(url: str, size: str, pid: int) -> dict[str, float]:
    """One guided step: seconds, processor seconds, and the server's peak memory."""
    measured = []
    for steps in (1, 3):
        cpu_s, start_s = processor_seconds(pid), time.perf_counter()
        draw(url, size, steps)
        measured.append((time.perf_counter() - start_s, processor_seconds(pid) - cpu_s))
    (one_s, one_cpu_s), (three_s, three_cpu_s) = measured
    return {
        "seconds": (three_s - one_s) / 2,
        "cpu_s": (three_cpu_s - one_cpu_s) / 2,
        "peak_bytes": peak_bytes(pid),
    }


def draw(url: str, size: str, steps: int) -> None:
    options = {"seed": 1, "sample_params": {"sample_steps": steps, "guidance": {"txt_cfg": 7.5}}}
    prompt = f"a red fox<sd_cpp_extra_args>{json.dumps(options)}</sd_cpp_extra_args>"
    body = json.dumps({"prompt": prompt, "size": f"{size}x{size}", "n": 1}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/images/generations", body, headers)
    with urllib.request.urlopen(request, timeout=_PICTURE_S) as answer:
        answer.read()


def processor_seconds(pid: int) -> float:
    """User and system time of a process under Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
