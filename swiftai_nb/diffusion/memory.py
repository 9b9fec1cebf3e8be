"""Memory of the engine's process: limits by the machine's size, and the C library's freed memory.

A step allocates and frees gigabytes of temporary arrays. By default glibc returns each large one to the
system at once, and the next one costs a page fault per 4 KiB: measured, more than the arithmetic on it.
So freed memory stays while a picture is made, and is returned when the engine has nothing to do: else each
chance overlap of two arrays would raise what the process holds for good.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, cast

from swiftai_nb.core.machine import MemoryPolicy

# Parameters of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = (1 << 31) - 1
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)  # older versions of glibc take 32 MiB at most


def apply_memory_limits(policy: MemoryPolicy) -> tuple[int, int | None]:
    """Sets a policy's limits in this process's MLX.

    Returns:
        The previous cache limit and, if that was changed, memory limit, in bytes.
    """
    import mlx.core as mx

    cache_limit_bytes = int(mx.set_cache_limit(policy.cache_limit_bytes))
    if policy.memory_limit_bytes is None:
        return cache_limit_bytes, None
    return cache_limit_bytes, int(mx.set_memory_limit(policy.memory_limit_bytes))


def retain_freed_memory() -> bool:
    """Makes freed memory stay with the process until `return_freed_memory`.

    For the engine's own process only: it changes how the whole process allocates. MLX's cache of freed
    arrays is turned off (call it after `apply_memory_limits`): it kept 260 MB more and saved no time.

    Returns:
        False where there is no glibc.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    import mlx.core as mx

    mx.set_cache_limit(0)
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_TRIM_THRESHOLD, _LARGE)
    return any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _MMAP_THRESHOLDS)


def return_freed_memory() -> bool:
    """Returns freed memory to the system; whether there was any."""
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
