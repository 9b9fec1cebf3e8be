"""Memory and processors of this machine and its container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swiftai_nb.core import machine
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.machine import (
    GIB,
    MIB,
    MemoryPolicy,
    available_memory_bytes,
    installed_memory_bytes,
    machine_memory_bytes,
    usable_cpus,
)


@pytest.fixture
def cgroup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "installed_memory_bytes", lambda: 64 * GIB)
    monkeypatch.delenv(machine.MEMORY_VARIABLE, raising=False)
    return tmp_path


def test_a_container_or_the_user_may_lower_the_memory(cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_memory_bytes() == 64 * GIB
    (cgroup / "memory.max").write_text(f"{12 * GIB}\n")
    assert machine_memory_bytes() == 12 * GIB
    monkeypatch.setenv(machine.MEMORY_VARIABLE, "8")
    assert machine_memory_bytes() == 8 * GIB
    assert (available_memory_bytes() or 0) <= 8 * GIB
    assert MemoryPolicy.for_machine().releases_between_stages
    monkeypatch.setenv(machine.MEMORY_VARIABLE, "96")
    assert machine_memory_bytes() == 12 * GIB


@pytest.mark.parametrize("text", ["much", "0", "-1", "inf", "nan"])
def test_a_wrong_setting_is_named(text: str, cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.MEMORY_VARIABLE, text)
    with pytest.raises(InvalidInputError, match=machine.MEMORY_VARIABLE):
        machine_memory_bytes()


def test_a_containers_file_cache_is_available(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("1000000")
    (cgroup / "memory.current").write_text("900000")
    (cgroup / "memory.stat").write_text("anon 500000\ninactive_file 300000\n")
    assert available_memory_bytes() == 400_000


def test_what_the_engine_holds_is_available_but_never_more_than_there_is(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("1000000")
    (cgroup / "memory.current").write_text("900000")
    (cgroup / "memory.stat").write_text("inactive_file 0\n")
    assert available_memory_bytes(os.getpid()) == 100_000


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_what_a_running_engine_holds_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = 10**9
    program = "x = bytearray(200_000_000); print('ready', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1)
    monkeypatch.setattr(machine, "_available_in_system", lambda total: gigabyte)
    monkeypatch.setattr(machine, "_available_in_container", lambda: None)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert available_memory_bytes() == gigabyte
        assert 1.2 * gigabyte < (available_memory_bytes(child.pid) or 0) < 1.3 * gigabyte
        assert available_memory_bytes(os.getpid()) == gigabyte
    finally:
        child.communicate()
    assert available_memory_bytes(child.pid) == gigabyte


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", None), ("150000 100000", 2), ("1000 100000", 1)])
def test_processors_are_limited_by_the_quota(quota: str, cpus: int | None, cgroup: Path) -> None:
    unlimited = usable_cpus()
    (cgroup / "cpu.max").write_text(quota)
    assert usable_cpus() == (unlimited if cpus is None else min(unlimited, cpus))


def test_this_machine_has_memory() -> None:
    total, available = installed_memory_bytes(), available_memory_bytes()
    assert total is None or total > 100_000_000
    assert available is None or 10**7 < available < 10**14


def test_a_container_with_little_left_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_available_in_container", lambda: 123)
    assert available_memory_bytes() == 123


@pytest.mark.parametrize("total", [4 * GIB, 8 * GIB])
def test_a_small_machine_stages_and_limits(total: int) -> None:
    policy = MemoryPolicy.for_machine(total)
    assert (policy.cache_limit_bytes, policy.memory_limit_bytes) == (1 * MIB, 3 * GIB)
    assert policy.releases_between_stages
    assert policy.decode_side == 512


def test_middle_and_large_machines() -> None:
    middle, large = MemoryPolicy.for_machine(16 * GIB), MemoryPolicy.for_machine(16 * GIB + 1)
    assert middle.cache_limit_bytes == large.cache_limit_bytes == 256 * MIB
    assert middle.memory_limit_bytes is None
    assert large.memory_limit_bytes is None
    assert middle.releases_between_stages
    assert not large.releases_between_stages
    assert middle.decode_side < large.decode_side


def test_the_policy_of_this_machine() -> None:
    assert MemoryPolicy.for_machine() == MemoryPolicy.for_machine(machine_memory_bytes())
