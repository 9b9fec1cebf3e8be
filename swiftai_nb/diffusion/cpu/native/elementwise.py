"""Activations and norms in C, in parts that workers share."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.native.loader import address, loaded
from swiftai_nb.diffusion.cpu.workers import Float32, aligned_scratch, for_each, spans

_SILU, _GELU, _GELU_TANH, _QUICK_GELU = range(4)  # elementwise.c
_BLOCK_ELEMENTS = 1 << 17
_SUMMED_ELEMENTS = 1 << 16
_SMALL_ELEMENTS = 1 << 16  # of a group norm that one thread does


def _apply(kind: int, x: mx.array) -> mx.array:
    kernels = loaded()
    values = np.ascontiguousarray(view(x)).reshape(-1)
    result, out = new_array(x.shape)
    source, target = values.ctypes.data, out.ctypes.data

    def run(part: slice) -> None:
        at = 4 * part.start
        kernels.functions.activation(source + at, target + at, part.stop - part.start, kind)

    for_each(run, spans(values.size, _BLOCK_ELEMENTS))
    return result


def silu(x: mx.array) -> mx.array:
    """Sigmoid linear unit of a float32 array."""
    return _apply(_SILU, x)


def gelu(x: mx.array) -> mx.array:
    """Exact Gaussian error linear unit of a float32 array."""
    return _apply(_GELU, x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU by tanh of a float32 array."""
    return _apply(_GELU_TANH, x)


def quick_gelu(x: mx.array) -> mx.array:
    """GELU by a sigmoid of a float32 array."""
    return _apply(_QUICK_GELU, x)


def geglu(x: mx.array) -> mx.array:
    """As `ops.geglu`, for a float32 array."""
    kernels, width = loaded(), x.shape[-1] // 2
    pairs = np.ascontiguousarray(view(x)).reshape(-1, 2 * width)
    result, out = new_array((*x.shape[:-1], width))
    rows = out.reshape(-1, width)

    def run(part: slice) -> None:
        kernels.functions.geglu(address(pairs[part]), address(rows[part]), part.stop - part.start, width)

    for_each(run, spans(len(pairs), max(1, _BLOCK_ELEMENTS // width)))
    return result


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, *, eps: float) -> mx.array:
    """As `ops.layer_norm`, for a float32 array."""
    return _normalize_rows(x, weight, bias, eps=eps, root_mean_square=False)


def rms_norm(x: mx.array, weight: mx.array, *, eps: float) -> mx.array:
    """As `ops.rms_norm`, for a float32 array."""
    return _normalize_rows(x, weight, None, eps=eps, root_mean_square=True)


def _normalize_rows(
    x: mx.array, weight: mx.array, bias: mx.array | None, *, eps: float, root_mean_square: bool
) -> mx.array:
    kernels, width = loaded(), x.shape[-1]
    values = np.ascontiguousarray(view(x)).reshape(-1, width)
    factor, offset = float32_view(weight), None if bias is None else float32_view(bias)
    result, out = new_array(x.shape)
    rows = out.reshape(-1, width)

    def run(part: slice) -> None:
        kernels.functions.layer_norm(
            address(values[part]), address(factor), address(offset), address(rows[part]),
            part.stop - part.start, width, eps, root_mean_square,
        )  # fmt: skip

    for_each(run, spans(len(values), max(1, _BLOCK_ELEMENTS // width)))
    return result


def group_norm(
    x: mx.array, weight: mx.array | None, bias: mx.array | None, *, groups: int, eps: float, silu: bool
) -> mx.array:
    """As `ops.group_norm`, for a float32 array."""
    kernels, batch, channels = loaded(), x.shape[0], x.shape[-1]
    values = np.ascontiguousarray(view(x)).reshape(batch, -1, channels)
    result, out = new_array(x.shape)
    norm = channel_map(values, weight, bias, groups=groups, eps=eps)
    source, target, norm_at = values.ctypes.data, out.ctypes.data, norm.ctypes.data

    def run(part: tuple[int, slice]) -> None:
        b, some = part
        kernels.functions.group_apply(
            source + 4 * (b * values.shape[1] + some.start) * channels, norm_at + b * norm.strides[0],
            target + 4 * (b * values.shape[1] + some.start) * channels,
            some.stop - some.start, channels, channels, silu,
        )  # fmt: skip

    parts = spans(values.shape[1], max(1, _BLOCK_ELEMENTS // channels))
    small = values.size <= _SMALL_ELEMENTS
    for_each(run, [(b, some) for b in range(batch) for some in parts], alone=small)
    return result


def channel_map(
    values: Float32, weight: mx.array | None, bias: mx.array | None, *, groups: int, eps: float
) -> Float32:
    """Group normalization of pictures [B, pixels, C] as a map of their channels: center, scale, shift.

    Args:
        values: the channels of a pixel lie side by side.
        weight: [C].
        bias: [C].
        groups: divides C.
        eps: added to the variance.

    Returns:
        [B, 3, C]: the normalized value is (value - center) * scale + shift.
    """
    kernels, (batch, pixels, channels) = loaded(), values.shape
    part_pixels = max(1, _SUMMED_ELEMENTS // channels)
    parts = spans(pixels, part_pixels)
    moments, norm = np.empty((batch, len(parts), 2, groups)), np.empty((batch, 3, channels), np.float32)
    source, target = values.ctypes.data, moments.ctypes.data
    (picture_step, pixel_step, _), (moments_step, part_step, *_) = values.strides, moments.strides

    def run(task: tuple[int, int]) -> None:
        b, i = task
        kernels.functions.group_moments(
            source + b * picture_step + parts[i].start * pixel_step,
            target + b * moments_step + i * part_step,
            parts[i].stop - parts[i].start, channels, pixel_step // 4, groups,
            aligned_scratch("moments", 4 * channels + 64),
        )  # fmt: skip

    for_each(run, list(np.ndindex(batch, len(parts))), alone=values.size <= _SMALL_ELEMENTS)
    factor = None if weight is None else float32_view(weight)
    offset = None if bias is None else float32_view(bias)
    factor_at, offset_at, norm_at = address(factor), address(offset), norm.ctypes.data
    for b in range(batch):
        kernels.functions.group_norm_map(
            target + b * moments_step, factor_at, offset_at, norm_at + b * norm.strides[0],
            len(parts), part_pixels, pixels, channels, groups, eps,
        )  # fmt: skip
    return norm
