"""Memory and processors of this machine or container, and the engine's memory policy for it."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from swiftai_nb.core.errors import InvalidInputError

MEMORY_VARIABLE = "SWIFTAI_MEMORY_GB"
GIB = 1024**3
MIB = 1024**2
_UNKNOWN_MACHINE_BYTES = 16 * GIB
_USABLE_SHARE_OF_TOTAL = 0.9  # where the system does not report available memory
_CGROUP = Path("/sys/fs/cgroup")


def machine_memory_bytes() -> int | None:
    """Memory of this machine, or the limit of its container or of SWIFTAI_MEMORY_GB.

    SWIFTAI_MEMORY_GB (GiB, as machines are sold) makes the engine plan as on a machine of that size.

    Returns:
        None where the system does not report it.

    Raises:
        InvalidInputError: SWIFTAI_MEMORY_GB is not a positive number.
    """
    limits = [n for n in (installed_memory_bytes(), _container_limit(), _user_limit()) if n is not None]
    return min(limits) if limits else None


def installed_memory_bytes() -> int | None:
    """Physical memory; None where the system does not report it."""
    if sys.platform == "win32":
        return _windows_memory()[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_memory_bytes(engine_pid: int | None = None) -> int | None:
    """Memory that an engine can use now, at most `machine_memory_bytes`; None where it is unknown.

    Args:
        engine_pid: a running engine's process; the memory it holds is available to its next picture.
    """
    total = machine_memory_bytes()
    found = [n for n in (_available_in_system(total), _available_in_container()) if n is not None]
    if not found:
        return total
    available = min(found) + _resident_bytes(engine_pid)
    return available if total is None else min(available, total)


def usable_cpus() -> int:
    """Processors this process may use: its affinity, and its container's CPU quota if there is one."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity is not None else os.cpu_count()
    count = 1 if count is None else count
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return max(1, min(count, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max": no quota
        return max(1, count)


@dataclass(frozen=True)
class MemoryPolicy:
    """How memory is used on a machine of some size.

    Attributes:
        cache_limit_bytes: of freed arrays MLX may keep for reuse.
        memory_limit_bytes: what MLX tries to stay under; None keeps its default. Advisory: MLX exceeds
            it rather than fail.
        releases_between_stages: drop text encoders before denoising, the denoiser before decoding.
        kept_share: of the machine's memory; a model that needs no more than that stays loaded regardless.
        decode_side: a picture with more than decode_side x decode_side pixels is decoded in tiles of
            that size.
    """

    cache_limit_bytes: int
    memory_limit_bytes: int | None
    releases_between_stages: bool
    decode_side: int
    kept_share: float = 1.0

    @classmethod
    def for_machine(cls, total_bytes: int | None = None, *, on_gpu: bool = False) -> MemoryPolicy:
        """The policy for a machine with this much memory.

        Args:
            total_bytes: of the machine, or of the GPU's working set or video memory; None reads
                `machine_memory_bytes`; unknown counts as 16 GiB.
            on_gpu: whether it computes on a GPU. That keeps more freed arrays: a step of a large model
                allocates tens of gigabytes of temporary ones. It has no memory limit: above one MLX waits
                for the GPU after each operation.
        """
        total = machine_memory_bytes() if total_bytes is None else total_bytes
        total = _UNKNOWN_MACHINE_BYTES if total is None else total
        policy = next(policy for limit, policy in POLICIES if limit is None or total <= limit)
        if not on_gpu:
            return policy
        cache_limit_bytes = 512 * MIB if total <= 8 * GIB else 2 * GIB
        return replace(policy, cache_limit_bytes=cache_limit_bytes, memory_limit_bytes=None)

    def releases(self, need_bytes: int, total_bytes: int | None = None) -> bool:
        """Whether a picture drops each network after its use.

        Args:
            need_bytes: of the picture, with the whole model in memory.
            total_bytes: of the machine; None reads the system's.
        """
        total = machine_memory_bytes() if total_bytes is None else total_bytes
        kept_bytes = self.kept_share * (_UNKNOWN_MACHINE_BYTES if total is None else total)
        return self.releases_between_stages and need_bytes > kept_bytes


# Up to this much memory -> policy; the last one is for all others.
POLICIES: tuple[tuple[int | None, MemoryPolicy], ...] = (
    (
        8 * GIB,
        MemoryPolicy(1 * MIB, 3 * GIB, releases_between_stages=True, decode_side=512, kept_share=1 / 8),
    ),
    (
        16 * GIB,
        MemoryPolicy(256 * MIB, None, releases_between_stages=True, decode_side=768, kept_share=1 / 2),
    ),
    (None, MemoryPolicy(256 * MIB, None, releases_between_stages=False, decode_side=1024)),
)


def _container_limit() -> int | None:
    try:
        return int((_CGROUP / "memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None


def _user_limit() -> int | None:
    text = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not text:
        return None
    try:
        gibibytes = float(text)
    except ValueError:
        gibibytes = math.nan
    if not 0 < gibibytes < math.inf:
        raise InvalidInputError(
            f"{MEMORY_VARIABLE} is {text!r}", hint="set it to a number of GB, or unset it"
        )
    return int(gibibytes * GIB)


def _windows_memory() -> tuple[int | None, int | None]:
    """Physical and available memory (GlobalMemoryStatusEx, MEMORYSTATUSEX)."""
    import ctypes

    status = (ctypes.c_uint64 * 8)()  # dwLength and dwMemoryLoad, then seven 64-bit sizes
    status[0] = ctypes.sizeof(status)
    if not getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # noqa: B009
        return None, None
    return int(status[1]), int(status[2])


def _available_in_system(total: int | None) -> int | None:
    if sys.platform == "win32":
        return _windows_memory()[1]
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        fields = {line.split(":")[0]: line.split()[1] for line in lines if ":" in line}
        return int(fields["MemAvailable"]) * 1024 if "MemAvailable" in fields else None
    # macOS frees caches and compressed pages on demand, so the number of free pages is not useful.
    return None if total is None else int(total * _USABLE_SHARE_OF_TOTAL)


def _available_in_container() -> int | None:
    limit = _container_limit()
    if limit is None:
        return None
    try:
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    cache = next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
    return max(0, limit - used + cache)


def _resident_bytes(pid: int | None) -> int:
    """What another process has in memory; 0 for this one, of which only the model would be freed."""
    if pid is None or pid == os.getpid():
        return 0
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
