"""Convolutions in C: Winograd's for kernels of 3x3, sums over the taps for others.

A group norm of the input, the enlargement before and the sums after a convolution are done in the same pass:
feature maps of the autoencoder take 134 MB each, and every one that is not made saves its time as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu import arrays, convolution
from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.native.elementwise import channel_map, group_norm
from swiftai_nb.diffusion.cpu.native.loader import Kernels, address, loaded
from swiftai_nb.diffusion.cpu.native.products import (
    half_products,
    multiply,
    product_parts,
    row_bytes,
    stored_weight,
)
from swiftai_nb.diffusion.cpu.normalization import Norm
from swiftai_nb.diffusion.cpu.workers import (
    Float32,
    aligned_scratch,
    for_each,
    scratch,
    spans,
    stop_address,
    worker_count,
)

_FEW_CHANNELS = 16
_WINOGRAD_PIXELS = 64
_LARGE_TILE_PIXELS = 1024
_FEW_PIXELS = 128  # of a batch, for whose sake weights are not packed several times
_TILES = {2: 48, 4: 24}  # of a block: winograd.c
_KERNEL_BYTES = 1 << 26  # of all transformed kernels, where they are kept for the whole call
_INPUT_BYTES = 1 << 28


def conv2d(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    *,
    stride: int,
    padding: int,
    norm: Norm | None = None,
    doubled: bool = False,
    offsets: mx.array | None = None,
    residual: mx.array | None = None,
    reuse: bool = False,
) -> mx.array:
    """As `ops.conv2d`, for float32 arrays and a weight of any floating dtype."""
    outputs, *kernel, channels = weight.shape
    kind, pixels = (*kernel, stride, padding), x.shape[1] * x.shape[2] * (4 if doubled else 1)
    is_large = kind == (3, 3, 1, 1) and pixels >= _WINOGRAD_PIXELS and channels >= _FEW_CHANNELS
    if is_large and outputs >= _FEW_CHANNELS:
        return _winograd(
            x, weight, bias, norm=norm, doubled=doubled, offsets=offsets, residual=residual, reuse=reuse
        )
    x = arrays.double(x) if doubled else x
    if is_large:
        y = convolution.few_outputs(x.shape, _normalized_rows(x, norm), weight, bias)
    else:
        if norm is not None:
            x = group_norm(x, norm.weight, norm.bias, groups=norm.groups, eps=norm.eps, silu=True)
        if kind == (1, 1, 1, 0):
            y = _pointwise(x, weight, bias, reuse=reuse and residual is None)
        elif kernel[0] == kernel[1]:
            y = _direct(x, weight, bias, stride=stride, padding=padding)
        else:
            y = convolution.conv2d(x, weight, bias, stride=stride, padding=padding)
    y = y if offsets is None else arrays.add_into(y, offsets)
    return y if residual is None else arrays.add_into(y, residual)


def _normalized_rows(x: mx.array, norm: Norm | None) -> Callable[[int, slice], Float32]:
    """(picture, rows) -> [pixels, C] of x, or of the silu of its norm."""
    values, channels = _pixels(view(x)), x.shape[3]
    if norm is None:
        return lambda index, rows: values[index, rows].reshape(-1, channels)
    kernels, of_input = loaded(), _channel_map(values, norm)

    def normalize(index: int, rows: slice) -> Float32:
        out = scratch("normalized", (values[index, rows].size // channels, channels))
        kernels.functions.group_apply(
            address(values[index, rows]), address(of_input[index]), address(out),
            len(out), channels, values.strides[2] // 4, True,
        )  # fmt: skip
        return out

    return normalize


def _channel_map(values: Float32, norm: Norm) -> Float32:
    pictures = values.reshape(len(values), -1, values.shape[3])  # a view
    return channel_map(pictures, norm.weight, norm.bias, groups=norm.groups, eps=norm.eps)


def _pointwise(x: mx.array, weight: mx.array, bias: mx.array | None, *, reuse: bool) -> mx.array:
    outputs, channels = len(weight), x.shape[3]
    inputs = np.ascontiguousarray(view(x)).reshape(-1, channels)
    if reuse and outputs <= channels and np.asarray(x).flags.c_contiguous:
        result = x[..., :outputs]
        mx.eval(result)  # a view
        multiply(inputs, weight, bias, None, np.asarray(x).reshape(-1, channels)[:, :outputs])
        return result
    result, out = new_array((*x.shape[:3], outputs))
    multiply(inputs, weight, bias, None, out.reshape(-1, outputs))
    return result


def _rounds(kernels: Kernels, channels: int, outputs: int) -> bool:
    """Whether a convolution is one of bfloat16; those from and to latents or pixels stay float32."""
    return half_products.get() and kernels.half and min(channels, outputs) > _FEW_CHANNELS


def _direct(x: mx.array, weight: mx.array, bias: mx.array | None, *, stride: int, padding: int) -> mx.array:
    batch, height, width, channels = x.shape
    outputs, kernel = weight.shape[:2]
    down, across = ((length + 2 * padding - kernel) // stride + 1 for length in (height, width))
    if min(down, across) < 1:
        raise ValueError(f"a picture of {height}x{width} is smaller than the kernel")
    kernels, stored = loaded(), stored_weight(weight)
    half = _rounds(kernels, channels, outputs)
    result, out = new_array((batch, down, across, outputs))
    values, offset = np.ascontiguousarray(view(x)), None if bias is None else float32_view(bias)
    if batch * down * across <= _FEW_PIXELS and half == half_products.get():
        patches = _patches(values, (down, across), kernel=kernel, stride=stride, padding=padding)
        multiply(patches, weight, bias, None, out.reshape(-1, outputs))
        return result
    length, stop = row_bytes(channels, half), stop_address()
    row_parts, panel_parts = product_parts(
        down * across, math.ceil(outputs / kernels.width), out.size * kernel**2 * channels
    )
    strips = spans(down, math.ceil(down / len(row_parts)))

    source, bias_at, target = values.ctypes.data, address(offset), out.ctypes.data

    def run(part: tuple[int, slice, slice]) -> None:
        picture, rows, columns = part
        strip = ((rows.stop - rows.start - 1) * stride + kernel) * (width + 2 * padding)
        kernels.functions.conv(
            source + picture * values.strides[0], stored.address, stored.kind, bias_at, None, None,
            target + picture * out.strides[0],
            height, width, channels, outputs, kernel, stride, padding, across,
            rows.start, rows.stop, columns.start, columns.stop, half,
            aligned_scratch("product", length * (kernel**2 * kernels.width + strip)), stop,
        )  # fmt: skip

    for_each(run, [(b, rows, columns) for b in range(batch) for rows in strips for columns in panel_parts])
    return result


def _patches(values: Float32, sides: tuple[int, int], *, kernel: int, stride: int, padding: int) -> Float32:
    """What the kernel sees at each of down x across places: [B down across, kernel kernel C]."""
    batch, height, width, channels = values.shape
    padded = scratch("padded", (batch, height + 2 * padding, width + 2 * padding, channels))
    padded.fill(0)
    padded[:, padding : padding + height, padding : padding + width] = values
    step = padded.strides
    strides = (step[0], stride * step[1], stride * step[2], step[1], step[3])
    places = np.ndarray((batch, *sides, kernel, kernel * channels), padded.dtype, padded, strides=strides)
    patches = scratch("patches", places.shape)
    np.copyto(patches, places)
    return patches.reshape(-1, kernel * kernel * channels)


def _winograd(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    *,
    norm: Norm | None,
    doubled: bool,
    offsets: mx.array | None,
    residual: mx.array | None,
    reuse: bool,
) -> mx.array:
    kernels, stored = loaded(), stored_weight(weight)
    batch, channels, outputs = x.shape[0], x.shape[3], len(weight)
    values = _pixels(view(x))
    of_input = None if norm is None else _channel_map(values, norm)
    spacing = values.strides[2] // 4
    height, width = (side * (2 if doubled else 1) for side in x.shape[1:3])
    half = _rounds(kernels, channels, outputs)
    m = 4 if height * width >= _LARGE_TILE_PIXELS and not half else 2
    addend = None if residual is None else _pixels(np.asarray(residual))
    if residual is not None and reuse and address(addend) == address(np.asarray(residual)):
        result, out = residual, np.asarray(residual)
    else:
        result, out = new_array((batch, height, width, outputs))
        addend = None if addend is None else np.ascontiguousarray(addend)
    offset = None if bias is None else float32_view(bias)
    more = None if offsets is None else np.ascontiguousarray(float32_view(offsets))
    tiles = batch * math.ceil(height / m) * math.ceil(width / m)
    blocks, panels = spans(tiles, _TILES[m]), math.ceil(outputs / kernels.width)
    length = row_bytes(channels, half) * (m + 2) ** 2
    block_bytes, panel_bytes = length * _TILES[m], length * kernels.width
    products, stop = 4 * (m + 2) ** 2 * _TILES[m] * kernels.width, stop_address()

    source, norm_at, sums_at = (
        address(values),
        address(of_input),
        (address(offset), address(more), address(addend)),
    )
    out_at, out_spacing = address(out), out.strides[2] // 4

    def transform_input(part: slice, target: int) -> None:
        kernels.functions.winograd_input(
            source, norm_at, target, height, width, channels, spacing, doubled,
            part.start, part.stop, m, half,
        )  # fmt: skip

    def transform_kernel(part: slice, target: int) -> None:
        kernels.functions.winograd_kernel(
            stored.address, stored.kind, target, channels, outputs, part.start, part.stop, m, half
        )

    def multiply(tiles: slice, block: int, part: slice, kernel: int) -> None:
        kernels.functions.winograd_product(
            block, kernel, *sums_at, out_at, height, width, channels, outputs, out_spacing,
            tiles.start, tiles.stop, part.start, part.stop, m, half, aligned_scratch("tiles", products), stop,
        )  # fmt: skip

    if len(blocks) >= 4 * worker_count() and panels * panel_bytes <= _KERNEL_BYTES:
        all_kernels = aligned_scratch("kernels", panels * panel_bytes)
        for_each(
            lambda part: transform_kernel(part, all_kernels + part.start * panel_bytes), spans(panels, 1)
        )

        def run_tiles(part: slice) -> None:
            block = aligned_scratch("inputs", block_bytes)
            transform_input(part, block)
            multiply(part, block, slice(0, panels), all_kernels)

        for_each(run_tiles, blocks)
        return result
    together = spans(len(blocks), max(1, _INPUT_BYTES // block_bytes))
    for some in together:
        all_inputs = aligned_scratch("inputs", (some.stop - some.start) * block_bytes)
        places = [(block, all_inputs + i * block_bytes) for i, block in enumerate(blocks[some])]
        for_each(lambda place: transform_input(*place), places)

        def run_panel(part: slice, places: list[tuple[slice, int]] = places) -> None:
            kernel = aligned_scratch("kernels", panel_bytes)
            transform_kernel(part, kernel)
            for tiles, block in places:
                multiply(tiles, block, part, kernel)

        for_each(run_panel, spans(panels, 1))
    return result


def _pixels(x: Float32) -> Float32:
    """Pictures [B, H, W, C] whose pixels are equally far apart in memory; copied where they are not."""
    _, height, width, channels = x.shape
    step = x.strides[2]
    even = (height * width * step, width * step, step, x.itemsize)
    return x if step >= channels * x.itemsize and x.strides == even else np.ascontiguousarray(x)
