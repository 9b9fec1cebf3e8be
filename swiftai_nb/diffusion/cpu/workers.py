"""Threads and scratch memory of the CPU fast paths.

NumPy releases the interpreter lock inside its loops and products, so plain threads fill the cores. A
thread that is itself one of several runs its items alone: see `sequential`.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core import machine
from swiftai_nb.core.errors import GenerationCancelledError

Item = TypeVar("Item")
Float32 = NDArray[np.float32]

_local = threading.local()
checkpoint: ContextVar[Callable[[], None] | None] = ContextVar("checkpoint", default=None)
# Set to 1 by the thread that cancels; compiled loops read it. See `raise_if_stopped`.
stop_flag: ContextVar[ctypes.c_int | None] = ContextVar("stop_flag", default=None)


@cache
def _pool(extra_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(extra_threads, thread_name_prefix="cpu_math")


@cache
def usable_cpus() -> int:
    """`core.machine.usable_cpus`, read once."""
    return machine.usable_cpus()


def limit_numpy_threads(count: int = 1) -> bool:
    """Sets the number of threads of NumPy's OpenBLAS, for the whole process.

    `for_each` calls NumPy's products from threads of its own: two pools would compete for the cores, and
    a picture takes several times as long.

    Returns:
        False where NumPy has no OpenBLAS (macOS with Accelerate).
    """
    set_threads, default = _numpy_threads()
    set_threads(count)
    return default is not None


@contextmanager
def single_threaded_numpy() -> Iterator[None]:
    """Limits NumPy's OpenBLAS to one thread and restores the count it had at first use."""
    set_threads, default = _numpy_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(1 if default is None else default)


@cache
def _numpy_threads() -> tuple[Callable[[int], object], int | None]:
    """The setter of NumPy's OpenBLAS thread count, and the count now; None without OpenBLAS."""
    core = getattr(np, "_core", None)
    # Looked up through the extension module's dependencies: the library's file name carries a hash.
    library = ctypes.CDLL((np.core if core is None else core)._multiarray_umath.__file__)
    for prefix in ("scipy_", ""):
        for suffix in ("64_", ""):
            name = f"{prefix}openblas_{{}}_num_threads{suffix}"
            if hasattr(library, name.format("set")):
                return getattr(library, name.format("set")), int(getattr(library, name.format("get"))())
    return lambda _count: None, None


def worker_count() -> int:
    """How many threads `for_each` uses when called here."""
    return 1 if getattr(_local, "sequential", False) else usable_cpus()


@contextmanager
def sequential() -> Iterator[None]:
    """While it lasts, `for_each` called from this thread stays in this thread."""
    before = getattr(_local, "sequential", False)
    _local.sequential = True
    try:
        yield
    finally:
        _local.sequential = before


def for_each(function: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Calls `function` with every item, on all workers; the caller is one of them.

    The caller's checkpoint runs before each of the items it takes, so that a long operation can be stopped.

    Raises:
        Exception: the first error of any item or of the checkpoint, after all threads have stopped.
    """
    threads = len(items) if len(items) <= 1 else min(worker_count(), len(items))
    if threads <= 1:
        for item in items:
            run_checkpoint()
            function(item)
        raise_if_stopped()
        return
    counter = itertools.count()  # next() on it is atomic
    stopped = threading.Event()

    def work(check: Callable[[], None]) -> None:
        try:
            while (index := next(counter)) < len(items) and not stopped.is_set():
                check()
                function(items[index])
        except BaseException:
            stopped.set()
            raise

    with sequential():
        futures = [_pool(usable_cpus()).submit(_work_alone, work) for _ in range(threads - 1)]
        try:
            work(run_checkpoint)
        finally:
            errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
    raise_if_stopped()


def _work_alone(work: Callable[[Callable[[], None]], None]) -> None:
    with sequential():
        work(lambda: None)


def run_checkpoint() -> None:
    """Calls what the calling context registered as `checkpoint`; may raise."""
    callback = checkpoint.get()
    if callback is not None:
        callback()


def stop_address() -> int | None:
    """The address of the calling context's stop flag, for compiled loops; None without one."""
    flag = stop_flag.get()
    return None if flag is None else ctypes.addressof(flag)


def raise_if_stopped() -> None:
    """To be called after compiled loops that were given `stop_address`: with the flag set they end early.

    Raises:
        GenerationCancelledError: the flag is set, so their results are incomplete.
    """
    flag = stop_flag.get()
    if flag is not None and flag.value:
        run_checkpoint()  # its error says more
        raise GenerationCancelledError


def spans(length: int, step: int) -> list[slice]:
    """Slices of at most `step` that cover range(length)."""
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def shares(length: int, step: int) -> list[slice]:
    """`spans` of about `step`, as many as busy all workers alike."""
    rounds = max(1, round(length / (step * worker_count())))
    return spans(length, max(1, -(-length // (rounds * worker_count()))))


class _Buffers(dict[str, Float32]):
    """Scratch arrays of a thread by name."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_all_buffers: weakref.WeakSet[_Buffers] = weakref.WeakSet()


def clear_scratch() -> None:
    """Frees the scratch arrays of all threads; those in use are freed after use."""
    for buffers in list(_all_buffers):
        buffers.clear()


def scratch(name: str, shape: tuple[int, ...]) -> Float32:
    """An uninitialized array that this thread reuses for every call with the same name.

    Fresh memory costs a page fault per 4 KiB, often more than the arithmetic on it.
    """
    size = math.prod(shape)
    buffers: _Buffers | None = getattr(_local, "buffers", None)
    if buffers is None:
        buffers = _local.buffers = _Buffers()
        _all_buffers.add(buffers)
    buffer = buffers.get(name)
    if buffer is None or buffer.size < size:
        buffer = buffers[name] = np.empty(size, np.float32)
    return buffer[:size].reshape(shape)
