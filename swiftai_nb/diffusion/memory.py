"""Memory of the engine's process: limits by the machine's size, and the C library's freed memory.

A step allocates and frees gigabytes of temporary arrays. By default glibc returns each large one to the
system at once, and the next one costs a page fault per 4 KiB: measured, more than the arithmetic on it.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from swiftai_nb.core.errors import InvalidInputError

MEMORY_VARIABLE = "SWIFTAI_MEMORY_GB"
GIB = 1024**3
MIB = 1024**2
# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = (1 << 31) - 1
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # older versions of glibc take 32 MiB at most


@dataclass(frozen=True)
class MemoryPolicy:
    """How memory is used on a machine of some size.

    Attributes:
        cache_limit_bytes: of freed arrays MLX may keep for reuse.
        memory_limit_bytes: what MLX tries to stay under; None leaves its own. Advisory: MLX goes over
            it rather than fail.
        releases_between_stages: drop text encoders before denoising, the denoiser before decoding.
        kept_share: of the machine's memory; what needs no more than that stays loaded all the same.
        decode_side: a picture with more than decode_side x decode_side pixels is decoded in tiles of
            that size.
    """

    cache_limit_bytes: int
    memory_limit_bytes: int | None
    releases_between_stages: bool
    decode_side: int
    kept_share: float = 1.0

    @classmethod
    def for_machine(cls, total_bytes: int | None = None) -> MemoryPolicy:
        """The policy for a machine with this much memory.

        Args:
            total_bytes: None reads the system's; unknown counts as 16 GiB.
        """
        total = machine_memory_bytes() if total_bytes is None else total_bytes
        total = 16 * GIB if total is None else total
        return next(policy for limit, policy in POLICIES if limit is None or total <= limit)

    def releases(self, need_bytes: int, total_bytes: int | None = None) -> bool:
        """Whether a picture drops each network after its use.

        Args:
            need_bytes: of the picture, with the whole model in memory.
            total_bytes: of the machine; None reads the system's.
        """
        total = machine_memory_bytes() if total_bytes is None else total_bytes
        kept_bytes = self.kept_share * (16 * GIB if total is None else total)
        return self.releases_between_stages and need_bytes > kept_bytes

    def apply(self) -> tuple[int, int | None]:
        """Sets the limits in this process's MLX.

        Returns:
            The previous cache limit and, if that was changed, memory limit, in bytes.
        """
        import mlx.core as mx

        cache = int(mx.set_cache_limit(self.cache_limit_bytes))
        if self.memory_limit_bytes is None:
            return cache, None
        return cache, int(mx.set_memory_limit(self.memory_limit_bytes))


# Up to this much memory -> policy; the last serves the rest.
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


def machine_memory_bytes() -> int | None:
    """Memory this process may count on: the machine's, or less where a container or the user says so.

    SWIFTAI_MEMORY_GB (GiB, as machines are sold) makes the engine plan as on a machine of that size.

    Returns:
        None where it is unknown.

    Raises:
        InvalidInputError: SWIFTAI_MEMORY_GB is not a positive number.
    """
    found = [n for n in (_installed_bytes(), _container_bytes(), _wanted_bytes()) if n is not None]
    return min(found) if found else None


def _installed_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _container_bytes() -> int | None:
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no cgroup v2 here, or "max": no limit
        return None


def _wanted_bytes() -> int | None:
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


def retain_freed_memory() -> bool:
    """Makes freed memory stay with the process until `return_freed_memory`.

    For the engine's own process only: it changes how the whole process allocates.

    Returns:
        False where there is no glibc.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TRIM_THRESHOLD, _LARGE)
    return any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _MMAP_THRESHOLDS)


def return_freed_memory() -> bool:
    """Returns freed memory to the system, after a model was dropped; whether there was any."""
    trim = _glibc_function("malloc_trim")
    return trim is not None and trim(0) == 1


def _glibc_function(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, name):
        return None
    function: Any = getattr(library, name)
    function.argtypes = [ctypes.c_size_t] if name == "malloc_trim" else [ctypes.c_int, ctypes.c_int]
    function.restype = ctypes.c_int
    return cast(Callable[..., int], function)
