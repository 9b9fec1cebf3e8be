"""The two halves of classifier-free guidance on two threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import TypeVar

import mlx.core as mx

from swiftai_nb.diffusion import blas, ops
from swiftai_nb.diffusion.cpu_math import workers

Half = TypeVar("Half")

# With more processors than this the operations of one batch fill them better than two threads do.
_MAX_CPUS = 3
# With fewer, the interpreter's share is so large that two threads wait for its lock.
_MIN_PIXELS = 24 * 24


def runs_halves_apart(pixels: int) -> bool:
    """Whether `run_halves` pays: on a CPU with two or three processors, fast paths on, enough to do.

    Args:
        pixels: height times width of the latents.
    """
    if pixels < _MIN_PIXELS or not (ops.fast_paths_enabled() and ops.on_cpu()):
        return False
    return 2 <= blas.usable_cpus() <= _MAX_CPUS


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="guidance_half")


def run_halves(function: Callable[[Half], mx.array], halves: Sequence[Half]) -> list[mx.array]:
    """Calls `function` on each half in its own thread, each with single-threaded operations.

    What is serial in a network (bookkeeping, element-wise functions of MLX) then runs twice at once, and
    the halves share the weights.

    Args:
        function: builds and returns a network's output; all arrays it reads must be evaluated.
        halves: one or two arguments of it.

    Returns:
        The evaluated outputs.

    Raises:
        Exception: what a half raised, after both have ended. The block callback is called in both.
    """

    def run(half: Half) -> mx.array:
        with workers.sequential():
            output = function(half)
            mx.eval(output)
        return output

    if len(halves) != 2:
        return [run(half) for half in halves]
    with blas.single_threaded_products():
        other = _pool().submit(copy_context().run, run, halves[1])
        try:
            first = run(halves[0])
        finally:
            error = other.exception()
        if error is not None:
            raise error
        return [first, other.result()]
