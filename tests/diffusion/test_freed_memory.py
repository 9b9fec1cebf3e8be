"""Keeping and returning freed memory, in a child process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import mlx.core as mx
import resource
import numpy as np
from swiftai_nb.diffusion import memory

def faults_of(function):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def touch():
    for _ in range(20):
        np.ones(4_000_000, np.float32)

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

touch()
default = faults_of(touch)
kept = memory.retain_freed_memory()
touch()
print(kept, faults_of(touch), default)
arrays = [np.ones(4_000_000, np.float32) for _ in range(10)]
del arrays
held = resident_bytes()
print(memory.return_freed_memory(), held - resident_bytes())
array = mx.zeros((4_000_000,))
mx.eval(array)
del array
print(mx.get_cache_memory())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_stays_without_page_faults_until_it_is_returned():
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    first, second, cached = (line.split() for line in done.stdout.splitlines())
    if first[0] == "False":
        pytest.skip("not glibc")
    assert int(first[1]) < 1000  # 20 arrays of 16 MB are 80 000 pages
    assert second[0] == "True"
    assert int(second[1]) > 50_000_000
    assert cached == ["0"]  # a second cache, MLX's, would hold the same arrays once more


def test_other_systems_are_left_alone(monkeypatch):
    from swiftai_nb.diffusion import memory

    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.retain_freed_memory() is False
    assert memory.return_freed_memory() is False
