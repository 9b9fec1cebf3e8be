"""MLX arrays as NumPy views of the same memory; sums, joins and enlargements of feature maps on them.

Nothing here waits for MLX's own thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, spans

# Copying a small buffer is cheaper than handing an evaluation to MLX's own thread and waiting for it.
_SMALL = 1 << 19
_PART_ELEMENTS = 1 << 18


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


def add_into(target: mx.array, addend: mx.array) -> mx.array:
    """As `ops.add_into`, for float32 arrays."""
    mx.eval(target, addend)
    sums: Float32 = np.asarray(target)
    values = view(addend)
    if values.ndim == 2 < sums.ndim:
        values = values.reshape(len(values), *(1,) * (sums.ndim - 2), -1)
    if sums.size <= _PART_ELEMENTS:
        sums += values
        return target
    values = np.broadcast_to(values, sums.shape)

    def run(part: tuple[slice, slice]) -> None:
        sums[part] += values[part]

    _by_rows(run, sums.shape)
    return target


def concatenate_channels(arrays: Sequence[mx.array]) -> mx.array:
    """As `ops.concatenate_channels`, for float32 arrays."""
    mx.eval(list(arrays))
    values = [view(array) for array in arrays]
    shape = (*values[0].shape[:-1], sum(value.shape[-1] for value in values))
    result, out = new_array(shape)

    def run(part: tuple[slice, slice]) -> None:
        np.concatenate([value[part] for value in values], axis=-1, out=out[part])

    _by_rows(run, shape)
    return result


def double(x: mx.array) -> mx.array:
    """As `ops.double`, for a float32 array."""
    batch, height, width, channels = x.shape
    values = view(x)
    result, out = new_array((batch, 2 * height, 2 * width, channels))
    pixels = out.reshape(batch, height, 2, width, 2, channels)

    def run(part: tuple[slice, slice]) -> None:
        pixels[part] = values[part][..., None, :, None, :]

    _by_rows(run, (batch, height, 4 * width * channels))
    return result


def _by_rows(run: Callable[[tuple[slice, slice]], None], shape: tuple[int, ...]) -> None:
    """Calls `run` with parts of the first two axes, on all workers."""
    if math.prod(shape) <= _PART_ELEMENTS:
        run((slice(None), slice(None)))
        return
    batch, height = shape[:2]
    step = max(1, _PART_ELEMENTS // max(1, math.prod(shape[2:])))
    for_each(run, [(slice(b, b + 1), rows) for b in range(batch) for rows in spans(height, step)])
