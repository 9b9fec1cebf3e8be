"""Memory and processors of this machine and its container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swiftai_nb.core import machine
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.machine import (
    GIB,
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
    if Path("/proc/1/statm").exists():
        assert 100_000 <= (available_memory_bytes(1) or 0) <= 1_000_000


@pytest.mark.parametrize(("quota", "cpus"), [("max 100000", None), ("150000 100000", 2), ("1000 100000", 1)])
def test_processors_are_limited_by_the_quota(quota: str, cpus: int | None, cgroup: Path) -> None:
    unlimited = usable_cpus()
    (cgroup / "cpu.max").write_text(quota)
    assert usable_cpus() == (unlimited if cpus is None else min(unlimited, cpus))


def test_this_machine_has_memory() -> None:
    total = installed_memory_bytes()
    assert total is None or total > 100_000_000
