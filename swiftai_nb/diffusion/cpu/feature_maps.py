"""Sums, joins and enlargements of feature maps without waiting for MLX's own thread."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import new_array, view
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, spans

_PART_ELEMENTS = 1 << 18


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
