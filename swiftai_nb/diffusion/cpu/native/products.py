"""Dense layers and convolutions in C, shared among the workers by rows and panels of the weight."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu import convolution
from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.native.loader import Kernels, address, aligned_scratch, library
from swiftai_nb.diffusion.cpu.weights import bit_view
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, shares, spans, stop_address, worker_count

# Whether products round their inputs to bfloat16, for the calling context.
half_products: ContextVar[bool] = ContextVar("half_products", default=False)

_KINDS = {mx.float32: 0, mx.float16: 1, mx.bfloat16: 2}
_FEW_ROWS = 4
_ROWS = 512
_PANELS = 8
_PART_PRODUCTS = 1 << 22  # multiplications worth another thread
_FEW_CHANNELS = 16
_WINOGRAD_PIXELS = 64
_LARGE_TILE_PIXELS = 1024
_TILES = {2: 48, 4: 24}  # of a block: winograd.c
_KERNEL_BYTES = 1 << 26  # of all transformed kernels, where they are kept for the whole call
_INPUT_BYTES = 1 << 28


class _Weight(NamedTuple):
    """A stored weight: its address and dtype as C takes them, and what keeps it in memory."""

    address: int
    kind: int
    owner: object


def _stored(weight: mx.array) -> _Weight:
    if weight.dtype not in _KINDS:
        weight = weight.astype(mx.float32)
    values: np.ndarray = float32_view(weight) if weight.dtype == mx.float32 else bit_view(weight)
    values = np.ascontiguousarray(values)
    return _Weight(values.ctypes.data, _KINDS[weight.dtype], values)


def _loaded() -> Kernels:
    kernels = library()
    assert kernels is not None, "called without compiled kernels"
    return kernels


def _length(inner: int, half: bool) -> int:
    """Bytes of a row of `inner` values as products take them."""
    return 2 * (inner + inner % 2) if half else 4 * inner


def linear(
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    *,
    addend: mx.array | None = None,
    gated: bool = False,
) -> mx.array:
    """As `ops.linear`, for float32 x and a weight of any floating dtype."""
    width = weight.shape[0] // 2 if gated else weight.shape[0]
    result, out = new_array((*x.shape[:-1], width))
    inputs = np.ascontiguousarray(view(x)).reshape(-1, x.shape[-1])
    more = None if addend is None else np.ascontiguousarray(view(addend))
    _multiply(inputs, weight, bias, more, out, gated=gated)
    return result


def _multiply(
    inputs: Float32,
    weight: mx.array,
    bias: mx.array | None,
    addend: Float32 | None,
    out: Float32,
    *,
    gated: bool = False,
) -> None:
    kernels, stored = _loaded(), _stored(weight)
    rows, inner, outputs = len(inputs), inputs.shape[1], weight.shape[0]
    offset = None if bias is None else float32_view(bias)
    size = rows * inner * outputs
    if rows <= _FEW_ROWS and not gated and addend is None:

        def run_few(part: slice) -> None:
            kernels.functions.linear_few(
                address(inputs), stored.address, stored.kind, address(offset), address(out),
                rows, inner, outputs, part.start, part.stop,
            )  # fmt: skip

        for_each(run_few, shares(outputs, outputs) if size > _PART_PRODUCTS else spans(outputs, outputs))
        return
    half = half_products.get() and kernels.half
    panels = math.ceil(outputs / kernels.width)
    row_parts, panel_parts = _parts(rows, panels, size)
    length, stop = _length(inner, half), stop_address()

    def run(part: tuple[slice, slice]) -> None:
        some, columns = part
        kernels.functions.linear(
            address(inputs), stored.address, stored.kind, address(offset), address(addend), address(out),
            inner, outputs, some.start, some.stop, columns.start, columns.stop, half, gated,
            aligned_scratch("product", length * (kernels.width + (some.stop - some.start if half else 0))),
            stop,
        )  # fmt: skip

    for_each(run, [(some, columns) for some in row_parts for columns in panel_parts])


def _parts(rows: int, panels: int, products: int) -> tuple[list[slice], list[slice]]:
    """Parts of the rows and of the panels: some for each worker, large enough to pack weights for."""
    if products <= _PART_PRODUCTS or worker_count() == 1:
        return spans(rows, rows if products <= _PART_PRODUCTS else _ROWS), spans(panels, panels)
    row_parts = spans(rows, math.ceil(rows / max(1, round(rows / _ROWS))))
    wanted = math.ceil(4 * worker_count() / len(row_parts))
    return row_parts, spans(panels, max(1, min(_PANELS, math.ceil(panels / wanted))))


def quantized_linear(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    bias: mx.array | None,
    *,
    group_size: int,
    bits: int,
) -> mx.array:
    """As `ops.quantized_linear`, for float32 x."""
    dense = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    return linear(x, dense, None if bias is None else bias.astype(mx.float32))


def conv2d(x: mx.array, weight: mx.array, bias: mx.array | None, *, stride: int, padding: int) -> mx.array:
    """As `ops.conv2d`, for float32 x and a weight of any floating dtype."""
    outputs, kernel, kernel_width, channels = weight.shape
    if kernel != kernel_width:
        return convolution.conv2d(x, weight, bias, stride=stride, padding=padding)
    kind, pixels = (kernel, stride, padding), x.shape[1] * x.shape[2]
    if kind == (1, 1, 0):
        result, out = new_array((*x.shape[:3], outputs))
        _multiply(np.ascontiguousarray(view(x)).reshape(-1, channels), weight, bias, None, out)
        return result
    if kind == (3, 1, 1) and pixels >= _WINOGRAD_PIXELS and channels >= _FEW_CHANNELS:
        if outputs >= _FEW_CHANNELS:
            return _winograd(x, weight, bias)
        return convolution.conv2d(x, weight, bias, stride=stride, padding=padding)
    return _direct(x, weight, bias, stride=stride, padding=padding)


def _rounds(kernels: Kernels, channels: int, outputs: int) -> bool:
    """Whether a convolution is one of bfloat16; those from and to latents or pixels stay float32."""
    return half_products.get() and kernels.half and min(channels, outputs) > _FEW_CHANNELS


def _direct(x: mx.array, weight: mx.array, bias: mx.array | None, *, stride: int, padding: int) -> mx.array:
    batch, height, width, channels = x.shape
    outputs, kernel = weight.shape[:2]
    down, across = ((length + 2 * padding - kernel) // stride + 1 for length in (height, width))
    if min(down, across) < 1:
        raise ValueError(f"a picture of {height}x{width} is smaller than the kernel")
    kernels, stored = _loaded(), _stored(weight)
    half = _rounds(kernels, channels, outputs)
    result, out = new_array((batch, down, across, outputs))
    values, offset = np.ascontiguousarray(view(x)), None if bias is None else float32_view(bias)
    length, stop = _length(channels, half), stop_address()
    row_parts, panel_parts = _parts(
        down * across, math.ceil(outputs / kernels.width), out.size * kernel**2 * channels
    )
    strips = spans(down, math.ceil(down / len(row_parts)))

    def run(part: tuple[int, slice, slice]) -> None:
        picture, rows, columns = part
        strip = ((rows.stop - rows.start - 1) * stride + kernel) * (width + 2 * padding)
        kernels.functions.conv(
            address(values[picture]), stored.address, stored.kind, address(offset), None, None,
            address(out[picture]), height, width, channels, outputs, kernel, stride, padding, across,
            rows.start, rows.stop, columns.start, columns.stop, half,
            aligned_scratch("product", length * (kernel**2 * kernels.width + strip)), stop,
        )  # fmt: skip

    for_each(run, [(b, rows, columns) for b in range(batch) for rows in strips for columns in panel_parts])
    return result


def _winograd(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    kernels, stored = _loaded(), _stored(weight)
    batch, height, width, channels = x.shape
    outputs = weight.shape[0]
    half = _rounds(kernels, channels, outputs)
    m = 4 if height * width >= _LARGE_TILE_PIXELS and not half else 2
    result, out = new_array((batch, height, width, outputs))
    values, offset = np.ascontiguousarray(view(x)), None if bias is None else float32_view(bias)
    tiles = batch * math.ceil(height / m) * math.ceil(width / m)
    blocks, panels = spans(tiles, _TILES[m]), math.ceil(outputs / kernels.width)
    length = _length(channels, half) * (m + 2) ** 2
    block_bytes, panel_bytes = length * _TILES[m], length * kernels.width
    products, stop = 4 * (m + 2) ** 2 * _TILES[m] * kernels.width, stop_address()

    def transform_input(part: slice, target: int) -> None:
        kernels.functions.winograd_input(
            address(values), target, height, width, channels, part.start, part.stop, m, half
        )

    def transform_kernel(part: slice, target: int) -> None:
        kernels.functions.winograd_kernel(
            stored.address, stored.kind, target, channels, outputs, part.start, part.stop, m, half
        )

    def multiply(tiles: slice, block: int, part: slice, kernel: int) -> None:
        kernels.functions.winograd_product(
            block, kernel, address(offset), None, None, address(out), height, width, channels, outputs,
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
