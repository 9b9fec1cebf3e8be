"""Group normalization by sums over rows: no transposed copies."""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.activations import silu_in_place
from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, spans

_BLOCK_ELEMENTS = 1 << 18  # as for activations
_SUMMED_ELEMENTS = 1 << 16  # in float32, for their rounding's sake
_ROW_ELEMENTS = 1 << 8
_SMALL_ELEMENTS = 1 << 16
_FAR = 16.0  # means of so many deviations are subtracted first, for their rounding's sake


class Norm(NamedTuple):
    """The parameters of a group norm: see `ops.group_norm`."""

    weight: mx.array | None
    bias: mx.array | None
    groups: int
    eps: float


def group_norm(
    x: mx.array, weight: mx.array | None, bias: mx.array | None, *, groups: int, eps: float, silu: bool
) -> mx.array:
    """As `ops.group_norm`, for float32 arrays."""
    batch, channels = x.shape[0], x.shape[-1]
    values = np.ascontiguousarray(view(x)).reshape(batch, -1, channels)
    factor = np.ones(channels, np.float32) if weight is None else float32_view(weight)
    offset = np.zeros(channels, np.float32) if bias is None else float32_view(bias)
    result, out = new_array(x.shape)
    if values.size <= _SMALL_ELEMENTS:
        _normalize_small(values, (factor, offset), out.reshape(values.shape), groups=groups, eps=eps)
        if silu:
            _silu(out)
        return result
    # NumPy's loops run along the last axis: several pixels side by side make it long enough.
    across = math.gcd(values.shape[1], 1 << (max(1, _ROW_ELEMENTS // channels).bit_length() - 1))
    rows = (batch, -1, across * channels)
    factor, offset = np.tile(factor, across), np.tile(offset, across)
    for picture, target in zip(values.reshape(rows), out.reshape(rows), strict=True):
        mean, deviation = _moments(picture, channels, groups, eps)
        scale = (factor / deviation).astype(np.float32)
        center = None
        if np.abs(mean / deviation).max() > _FAR:
            center, mean = mean.astype(np.float32), mean - mean.astype(np.float32)
        shift = (offset - mean * scale).astype(np.float32)
        _scale_and_shift(picture, center, (scale, shift), target, silu=silu)
    return result


def _silu(block: Float32) -> None:
    with np.errstate(over="ignore", under="ignore"):  # exp of what ends as 0 or 1
        silu_in_place(block)


def _normalize_small(
    x: Float32, affine: tuple[Float32, Float32], out: Float32, *, groups: int, eps: float
) -> None:
    """Pictures [B, pixels, C] that fit a cache together: few calls, no threads."""
    factor, offset = affine
    size = x.shape[2] // groups
    count = np.float32(x.shape[1] * size)

    def by_group(sums: Float32) -> Float32:
        means: Float32 = sums.reshape(len(x), groups, size).sum(axis=2) / count
        return np.repeat(means, size, axis=1)[:, None]

    np.subtract(x, by_group(x.sum(axis=1)), out=out)
    variance = by_group(np.einsum("bij,bij->bj", out, out))
    out *= factor / np.sqrt(variance + np.float32(eps))
    out += offset


def _moments(x: Float32, channels: int, groups: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column's group, float64 [n C]; x is [pixels / n, n C]."""
    count, across = x.size // groups, x.shape[1] // channels

    def by_group(sums: np.ndarray) -> np.ndarray:
        means = sums.reshape(across, groups, -1).sum(axis=(0, 2)) / count
        return np.tile(np.repeat(means, channels // groups), across)

    mean = by_group(_column_sums(x, None))
    variance = by_group(_column_sums(x, mean.astype(np.float32)))
    return mean, np.sqrt(variance + eps)


def _column_sums(x: Float32, center: Float32 | None) -> np.ndarray:
    """Sums of x, or of (x - center)^2, over the rows; float64 [C]. Float32 only within a block of rows."""
    blocks = spans(len(x), max(1, _SUMMED_ELEMENTS // x.shape[1]))
    partial = np.empty((len(blocks), x.shape[1]), np.float32)

    def run(index: int) -> None:
        block = x[blocks[index]]
        if center is not None:
            difference = scratch("difference", block.shape)
            np.subtract(block, center, out=difference)
            block = np.multiply(difference, difference, out=difference)
        np.sum(block, axis=0, out=partial[index])

    for_each(run, range(len(blocks)))
    total: np.ndarray = partial.sum(axis=0, dtype=np.float64)
    return total


def _scale_and_shift(
    x: Float32, center: Float32 | None, affine: tuple[Float32, Float32], out: Float32, *, silu: bool
) -> None:
    """Out = (x - center) scale + shift, by channel; then its silu, while a block is in the cache."""
    scale, shift = affine

    def run(rows: slice) -> None:
        block = x[rows] if center is None else np.subtract(x[rows], center, out=out[rows])
        np.multiply(block, scale, out=out[rows])
        out[rows] += shift
        if silu:
            _silu(out[rows])

    for_each(run, spans(len(x), max(1, _BLOCK_ELEMENTS // x.shape[1])))


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, *, eps: float) -> mx.array:
    """As `ops.layer_norm`, for float32 arrays."""
    width = x.shape[-1]
    values = np.ascontiguousarray(view(x)).reshape(-1, width)
    factor, offset = float32_view(weight), float32_view(bias)
    result, out = new_array(x.shape)
    rows = out.reshape(-1, width)

    def run(part: slice) -> None:
        source, target = values[part], rows[part]
        np.subtract(source, source.mean(axis=1, keepdims=True), out=target)
        variance = np.einsum("ij,ij->i", target, target) / np.float32(width)
        target *= (1 / np.sqrt(variance + np.float32(eps)))[:, None]
        target *= factor
        target += offset

    for_each(run, spans(len(values), max(1, _BLOCK_ELEMENTS // width)))
    return result
