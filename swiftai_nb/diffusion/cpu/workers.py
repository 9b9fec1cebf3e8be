"""Threads and scratch memory of the CPU fast paths.

NumPy releases the interpreter lock inside its loops and products, so plain threads fill the cores. A
thread that is itself one of several runs its items alone: see `sequential`.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core import machine
from swiftai_nb.core.errors import GenerationCancelledError

Item = TypeVar("Item")
Float32 = NDArray[np.float32]

_CACHE_LINE = 64

_local = threading.local()
checkpoint: ContextVar[Callable[[], None] | None] = ContextVar("checkpoint", default=None)
# Set to 1 by the thread that cancels; compiled loops read it. See `raise_if_stopped`.
stop_flag: ContextVar[ctypes.c_int | None] = ContextVar("stop_flag", default=None)


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


def for_each(function: Callable[[Item], None], items: Sequence[Item], *, alone: bool = False) -> None:
    """Calls `function` with every item, on all workers; the caller is one of them.

    The caller's checkpoint runs before each of the items it takes, so that a long operation can be stopped.

    Args:
        function: called from several threads at once.
        items: taken one by one.
        alone: whether the caller does all: what takes less than waking a thread, some 20 microseconds.

    Raises:
        Exception: the first error of any item or of the checkpoint, after all threads have stopped.
    """
    threads = 1 if alone or len(items) <= 1 else min(worker_count(), len(items))
    if threads <= 1:
        for item in items:
            run_checkpoint()
            function(item)
        raise_if_stopped()
        return
    job = _Job(function, items)
    _helpers.call(job, threads - 1)
    with sequential():
        try:
            job.work(run_checkpoint)
        finally:
            job.close()
    error, job.error = job.error, None
    if error is not None:
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would keep the arrays of a cancelled step
    raise_if_stopped()


class _Job:
    """Items that a caller and its helpers take one by one; a helper that comes too late is not waited for."""

    def __init__(self, function: Callable[[Any], None], items: Sequence[Any]) -> None:
        self._function, self._items = function, items
        self._counter = itertools.count()  # next() on it is atomic
        self._lock, self._all_left = threading.Lock(), threading.Lock()
        self._all_left.acquire()
        self._helping, self._closed = 0, False
        self.error: BaseException | None = None

    def work(self, check: Callable[[], None]) -> None:
        try:
            while self.error is None and (index := next(self._counter)) < len(self._items):
                check()
                self._function(self._items[index])
        except BaseException as error:  # noqa: BLE001 - raised by the caller
            self.error = error

    def help(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._helping += 1
        self.work(lambda: None)
        with self._lock:
            self._helping -= 1
            if self._closed and not self._helping:
                self._all_left.release()

    def close(self) -> None:
        """Lets no further helper in and waits for those who are."""
        with self._lock:
            self._closed = True
            if not self._helping:
                return
        self._all_left.acquire()


class _Helpers:
    """Threads that sleep until there is a job; started when they are first needed, and anew after a fork."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """For a fork's child, which has none of the threads."""
        self._lock, self._count = threading.Lock(), 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()

    def call(self, job: _Job, count: int) -> None:
        with self._lock:
            for _ in range(self._count, count):
                threading.Thread(target=self._serve, name="cpu_math", daemon=True).start()
            self._count = max(self._count, count)
        for _ in range(count):
            self._jobs.put(job)

    def _serve(self) -> None:
        with sequential():
            while True:
                self._jobs.get().help()


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


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


class _Buffers(dict[str, tuple[Float32, int]]):
    """Scratch arrays of a thread by name, each with the first address in it that begins a cache line."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def get_or_make(self, name: str, size: int) -> tuple[Float32, int]:
        found = self.get(name)
        if found is None or found[0].size < size:
            buffer = np.empty(size + _CACHE_LINE // 4, np.float32)
            start = buffer.ctypes.data
            found = self[name] = (buffer, start + -start % _CACHE_LINE)
        return found


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
    return _buffers().get_or_make(name, size)[0][:size].reshape(shape)


def aligned_scratch(name: str, size_bytes: int) -> int:
    """The address of `size_bytes` of `scratch` memory, on a cache line."""
    return _buffers().get_or_make(name, -(-size_bytes // 4))[1]


def _buffers() -> _Buffers:
    buffers: _Buffers | None = getattr(_local, "buffers", None)
    if buffers is None:
        buffers = _local.buffers = _Buffers()
        _all_buffers.add(buffers)
    return buffers
