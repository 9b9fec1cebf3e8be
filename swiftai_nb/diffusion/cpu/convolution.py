"""2-D convolution on the CPU: the cheapest of four ways for each shape."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.linear import multiply
from swiftai_nb.diffusion.cpu.weights import HALF_DTYPES, as_float32, bit_view, to_float32
from swiftai_nb.diffusion.cpu.winograd import winograd_conv
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, shares, spans

_LARGE_TILE_PIXELS = 1024
_SMALL_TILE_PIXELS = 256
_FEW_CHANNELS = 16
_STRIP_PIXELS = 4096
_MAX_PATCH_ELEMENTS = 1 << 24


def conv2d(x: mx.array, weight: mx.array, bias: mx.array | None, *, stride: int, padding: int) -> mx.array:
    """As `ops.conv2d`, for float32 x and a weight of any floating dtype."""
    kind = (*weight.shape[1:3], stride, padding)
    if kind == (1, 1, 1, 0):
        return _pointwise(x, weight, bias)
    if kind == (3, 3, 1, 1) and x.shape[1] * x.shape[2] >= _SMALL_TILE_PIXELS:
        if min(weight.shape[0], weight.shape[3]) >= _FEW_CHANNELS:
            return _winograd(x, weight, bias)
        if weight.shape[0] < _FEW_CHANNELS <= weight.shape[3]:
            return few_outputs(x.shape, _rows_of(x), weight, bias)
    return _direct(x, weight, bias, stride=stride, padding=padding)


def _direct(x: mx.array, weight: mx.array, bias: mx.array | None, *, stride: int, padding: int) -> mx.array:
    """Patches as rows, times the kernels; in strips where all patches would take too much memory."""
    batch, height, width, channels = x.shape
    count, kernel_height, kernel_width, _ = weight.shape
    rows = (height + 2 * padding - kernel_height) // stride + 1
    columns = (width + 2 * padding - kernel_width) // stride + 1
    if min(rows, columns) < 1:
        raise ValueError(f"a picture of {height}x{width} is smaller than the kernel")
    row_elements = columns * kernel_height * kernel_width * channels
    result, out = new_array((batch, rows, columns, count))
    values = view(x)

    def convolve(pictures: slice, strip: slice) -> None:
        shape = (strip.stop - strip.start, columns, kernel_height, kernel_width * channels)
        padded = _padded(values[pictures], strip, (kernel_height, stride, padding))
        step = padded.strides
        patches = scratch("patches", (len(padded), *shape))
        strides = (step[0], stride * step[1], stride * step[2], step[1], step[3])
        source = np.ndarray(patches.shape, padded.dtype, padded, strides=strides)
        for_each(lambda part: np.copyto(patches[:, part], source[:, part]), shares(shape[0], shape[0]))
        inputs = patches.reshape(-1, kernel_height * kernel_width * channels)
        multiply(inputs, weight, bias, out[pictures, strip].reshape(-1, count))

    if batch * rows * row_elements <= _MAX_PATCH_ELEMENTS:
        convolve(slice(0, batch), slice(0, rows))
        return result
    for index in range(batch):
        for strip in spans(rows, max(1, _MAX_PATCH_ELEMENTS // row_elements)):
            convolve(slice(index, index + 1), strip)
    return result


def _padded(x: Float32, strip: slice, geometry: tuple[int, int, int]) -> Float32:
    """The input rows of a strip of output rows, zeros around; geometry: kernel height, stride, padding."""
    kernel_height, stride, padding = geometry
    batch, height, width, channels = x.shape
    first = strip.start * stride - padding
    count = (strip.stop - 1 - strip.start) * stride + kernel_height
    top, bottom = max(first, 0), min(first + count, height)
    padded = scratch("padded", (batch, count, width + 2 * padding, channels))
    padded[:, : top - first] = 0
    padded[:, bottom - first :] = 0
    if padding:
        padded[:, :, :padding] = padded[:, :, -padding:] = 0
    padded[:, top - first : bottom - first, padding : padding + width] = x[:, top:bottom]
    return padded


def _pointwise(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    result, out = new_array((*x.shape[:3], weight.shape[0]))
    inputs = np.ascontiguousarray(view(x)).reshape(-1, x.shape[3])
    multiply(inputs, weight, bias, out.reshape(-1, weight.shape[0]))
    return result


def _winograd(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    result, out = new_array((*x.shape[:3], weight.shape[0]))
    offset = None if bias is None else float32_view(bias)
    m = 4 if x.shape[1] * x.shape[2] >= _LARGE_TILE_PIXELS else 2
    winograd_conv(view(x), _taps(weight), offset, out, m=m)
    return result


def _taps(weight: mx.array) -> Callable[[slice], Float32]:
    """Kernels [O, 3, 3, C] of any floating dtype as [outputs, 9, C], float32, for a part of the outputs."""
    count, _, _, channels = weight.shape
    if weight.dtype in HALF_DTYPES:
        bits = bit_view(weight).reshape(count, -1)
        return lambda part: to_float32(bits[part], weight.dtype, "weight").reshape(-1, 9, channels)
    values = float32_view(weight).reshape(count, 9, channels)
    return lambda part: values[part]


def _rows_of(x: mx.array) -> Callable[[int, slice], Float32]:
    values = view(x)
    return lambda index, rows: values[index, rows].reshape(-1, values.shape[3])


def few_outputs(
    shape: tuple[int, ...],
    inputs: Callable[[int, slice], Float32],
    weight: mx.array,
    bias: mx.array | None,
) -> mx.array:
    """One product gives all nine taps of 3x3; shifted sums of them give the outputs.

    Args:
        shape: of the pictures, [B, H, W, C].
        inputs: (picture, rows) -> [pixels, C].
        weight: [O, 3, 3, C].
        bias: [O].
    """
    pictures, height, width, channels = shape
    count = weight.shape[0]
    taps = view(as_float32(weight)).reshape(count, 9, channels).transpose(2, 1, 0).reshape(channels, -1)
    offset = np.float32(0) if bias is None else float32_view(bias)
    result, out = new_array((*shape[:3], count))

    def run(task: tuple[int, slice]) -> None:
        batch, rows = task
        top, bottom = max(rows.start - 1, 0), min(rows.stop + 1, height)
        partial = scratch("taps", (bottom - top + 2, width + 2, 9 * count))
        partial[0] = partial[-1] = 0
        partial[:, 0] = partial[:, -1] = 0
        products = np.matmul(inputs(batch, slice(top, bottom)), taps)
        partial[1:-1, 1:-1] = products.reshape(bottom - top, width, -1)
        target, first = out[batch, rows], rows.start - top
        target[...] = offset
        for tap in range(9):
            dy, dx = divmod(tap, 3)
            down = slice(first + dy, first + dy + rows.stop - rows.start)
            target += partial[down, dx : dx + width, tap * count : (tap + 1) * count]

    strips = spans(height, max(1, _STRIP_PIXELS // width))
    for_each(run, [(b, rows) for b in range(pictures) for rows in strips])
    return result
