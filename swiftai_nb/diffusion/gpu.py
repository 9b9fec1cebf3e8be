"""What a GPU needs that a CPU does not: fused operations, widths of attention heads, pauses for a cancel.

What is decided, why, and where the reason was read:

- Chains of element-wise operations are compiled (`fused`): one pass over memory instead of nine for a
  rotary embedding (mlx-examples, flux/layers.py).
- On Metal heads are filled up to a width that the fused attention takes: without it the score matrix is made,
  8.6 GB for Stable Diffusion 1 at 1024x1024 (`has_fused_kernel` in MLX's
  backend/metal/scaled_dot_product_attention.cpp).
- Work is evaluated about four times a second (`work_pace`): a cancel takes effect within a step, and Metal
  ends command buffers of about ten seconds. An evaluation costs about 0.2 ms (mlx issue 4438).
- Autoencoders compute in float32: Metal's Winograd convolutions overflow float16 from activations of about
  1,400 (backend/metal/kernels/conv.metal, recomputed in NumPy).
- Transformers that stay within float16 compute in it where a GPU has no bfloat16 arithmetic, Apple's M1 and
  M2 and NVIDIA's before compute 8.0 (`has_bfloat16`): 18 to 27 % less time on an M1 Max and M2 Ultra
  (mflux 0.24), and what a Tesla T4 would emulate.
- Queries and keys are not widened to float32 for models with `upcast_attention`: the fused kernels add in
  float32, and cuDNN's takes 16 bits only.
- Weights are read 256 MiB at a time (`loaded_together_bytes`): reading and conversion overlap.
- Freed arrays are kept for reuse up to 512 MiB or 2 GiB, by the memory (`core.machine`): a FLUX.1 step at
  1024x1024 allocates 53 GB of temporary arrays.

None of it has run on Metal; docs/performance.md has what was measured on CUDA, if anything.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import mlx.core as mx

from swiftai_nb.core.machine import MIB, MemoryPolicy

_Function = TypeVar("_Function", bound=Callable[..., Any])

_WITHOUT_BFLOAT16 = ("applegpu_g13", "applegpu_g14")  # M1 and M2
_CUDA_BFLOAT16_MAJOR = 8
_METAL_HEAD_DIMS = (64, 72, 80, 96, 128, 192, 256)
_CHECK_INTERVAL_S = 0.25
_LOADED_TOGETHER_BYTES = 256 * MIB
_SQRT_HALF = math.sqrt(0.5)
_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)


def on_cpu() -> bool:
    """Whether new operations run on the CPU."""
    return bool(mx.default_device() == mx.cpu)


def on_metal() -> bool:
    """Whether new operations run on an Apple GPU."""
    return not on_cpu() and bool(mx.metal.is_available())


def device() -> str:
    """The device of new operations: "cpu", "metal" or "cuda"."""
    return "cpu" if on_cpu() else "metal" if on_metal() else "cuda"


def has_bfloat16() -> bool:
    """Whether the device computes in bfloat16 itself; True on a CPU and where it does not say."""
    if on_cpu():
        return True
    info = mx.device_info()
    if on_metal():
        return not str(info.get("architecture", "")).startswith(_WITHOUT_BFLOAT16)
    return int(info.get("compute_capability_major", _CUDA_BFLOAT16_MAJOR)) >= _CUDA_BFLOAT16_MAJOR


def usable_memory_bytes() -> int | None:
    """What Metal recommends to use at most, or the free video memory of a CUDA device; None on a CPU."""
    if on_cpu():
        return None
    info = mx.device_info()
    found = info.get("max_recommended_working_set_size", info.get("free_memory"))
    return None if found is None else int(found)


def memory_policy() -> MemoryPolicy:
    """Of the device in use; on Apple silicon by what Metal recommends, not by the whole memory."""
    if on_cpu():
        return MemoryPolicy.for_machine()
    info = mx.device_info()
    total = info.get("max_recommended_working_set_size", info.get("total_memory"))
    return MemoryPolicy.for_machine(None if total is None else int(total), on_gpu=True)


def loaded_together_bytes() -> int:
    """Bytes of weights to read in one evaluation; on a CPU one tensor, which keeps the peak low."""
    return 0 if on_cpu() else _LOADED_TOGETHER_BYTES


def head_filling(head_dim: int) -> int:
    """Features to append so that Metal's fused attention takes a head.

    Returns:
        0 on other devices, for a width it takes, and where no width below the double is one.
    """
    if not on_metal():
        return 0
    wider = next((width for width in _METAL_HEAD_DIMS if width >= head_dim), head_dim)
    return wider - head_dim if wider < 2 * head_dim else 0


def fused(function: _Function) -> _Function:
    """Decorates a function of element-wise operations on arrays: one kernel on a GPU, made on first use.

    Shapes may change from call to call, so the function must not reshape. A whole step is not compiled:
    `ops.checkpoint` could not evaluate within it. On the CPU mx.compile would start a C++ compiler for no
    gain.
    """
    compiled = mx.compile(function, shapeless=True)

    @wraps(function)
    def call(*arrays: mx.array) -> Any:
        return (function if on_cpu() else compiled)(*arrays)

    return cast(_Function, call)


@fused
def silu(x: mx.array) -> mx.array:
    """As `ops.silu`."""
    return x * mx.sigmoid(x)


@fused
def gelu(x: mx.array) -> mx.array:
    """As `ops.gelu`."""
    return 0.5 * x * (1 + mx.erf(x * _SQRT_HALF))


@fused
def gelu_tanh(x: mx.array) -> mx.array:
    """As `ops.gelu_tanh`."""
    return 0.5 * x * (1 + mx.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))


@fused
def quick_gelu(x: mx.array) -> mx.array:
    """As `ops.quick_gelu`."""
    return x * mx.sigmoid(1.702 * x)


class WorkPace:
    """After how many blocks a GPU's work is evaluated; learned from how long the last ones took."""

    _FIRST, _LARGEST_GROWTH = 4, 4

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """For another network, whose blocks take another time."""
        self._blocks, self._count = self._FIRST, 0

    def is_due(self) -> bool:
        """Counts a block; whether it is to be evaluated."""
        self._count += 1
        return self._count >= self._blocks

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around an evaluation: its time sets the number of blocks up to the next one."""
        started_s = time.monotonic()
        yield
        self.adapt(time.monotonic() - started_s)

    def adapt(self, elapsed_s: float) -> None:
        """Sets the next number of blocks by the time that the last ones took."""
        fitting = self._count * _CHECK_INTERVAL_S / max(elapsed_s, 1e-6)
        self._blocks = max(1, round(min(fitting, self._LARGEST_GROWTH * self._count)))
        self._count = 0


work_pace = WorkPace()  # the engine computes in one thread
