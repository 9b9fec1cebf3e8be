"""MLX arrays as NumPy views of the same memory."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.workers import Float32, scratch

# Copying a small buffer is cheaper than handing an evaluation to MLX's own thread and waiting for it.
_SMALL = 1 << 19


def view(x: mx.array) -> Float32:
    """The evaluated values of a float32 array, not copied, with its strides, read-only."""
    values: Float32 = np.asarray(x)  # evaluates x
    values.flags.writeable = False
    return values


def float32_view(x: mx.array) -> Float32:
    """`view` of an array of any floating dtype; only other dtypes than float32 are copied."""
    return view(x if x.dtype == mx.float32 else x.astype(mx.float32))


def new_array(shape: tuple[int, ...]) -> tuple[mx.array, Float32]:
    """A fresh float32 array and a view to fill it through, before anyone else sees the array."""
    if math.prod(shape) <= _SMALL:
        array = mx.array(scratch("blank", shape))
    else:
        array = mx.zeros(shape)
        mx.eval(array)
    return array, np.asarray(array)
