"""Dense layers in C, shared among the workers by rows and panels of the weight."""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.native.loader import address, loaded
from swiftai_nb.diffusion.cpu.weights import bit_view
from swiftai_nb.diffusion.cpu.workers import (
    Float32,
    aligned_scratch,
    for_each,
    shares,
    spans,
    stop_address,
    worker_count,
)

# Whether products round their inputs to bfloat16, for the calling context.
half_products: ContextVar[bool] = ContextVar("half_products", default=False)

_KINDS = {mx.float32: 0, mx.float16: 1, mx.bfloat16: 2}
_FEW_ROWS = 4
_ROWS = 512
_PANELS = 8
_PART_PRODUCTS = 1 << 22  # multiplications worth another thread


class StoredWeight(NamedTuple):
    """A stored weight: its address and dtype as C takes them, and what keeps it in memory."""

    address: int
    kind: int
    owner: object


def stored_weight(weight: mx.array) -> StoredWeight:
    """A weight of any floating dtype; copied only where it is not contiguous."""
    if weight.dtype not in _KINDS:
        weight = weight.astype(mx.float32)
    values: np.ndarray = float32_view(weight) if weight.dtype == mx.float32 else bit_view(weight)
    values = np.ascontiguousarray(values)
    return StoredWeight(values.ctypes.data, _KINDS[weight.dtype], values)


def row_bytes(inner: int, half: bool) -> int:
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
    multiply(inputs, weight, bias, more, out.reshape(-1, width), gated=gated)
    return result


def multiply(
    inputs: Float32,
    weight: mx.array,
    bias: mx.array | None,
    addend: Float32 | None,
    out: Float32,
    *,
    gated: bool = False,
) -> None:
    """Writes the dense layer of inputs [rows, inner] to out [rows, outputs], which may begin where they do.

    Out's rows may then lie as far apart as the inputs'.
    """
    kernels, stored = loaded(), stored_weight(weight)
    rows, inner, outputs = len(inputs), inputs.shape[1], weight.shape[0]
    offset = None if bias is None else float32_view(bias)
    size = rows * inner * outputs
    stride, source, target = out.strides[0] // 4, address(inputs), address(out)
    in_place, bias_at, addend_at = source == target, address(offset), address(addend)
    if rows <= _FEW_ROWS and not gated and addend is None and not in_place:

        def run_few(part: slice) -> None:
            kernels.functions.linear_few(
                source, stored.address, stored.kind, bias_at, target,
                rows, inner, outputs, part.start, part.stop,
            )  # fmt: skip

        for_each(run_few, shares(outputs, outputs) if size > _PART_PRODUCTS else spans(outputs, outputs))
        return
    half = half_products.get() and kernels.half
    panels = math.ceil(outputs / kernels.width)
    row_parts, panel_parts = product_parts(rows, panels, size)
    panel_parts = [slice(0, panels)] if in_place else panel_parts
    length, copies, stop = row_bytes(inner, half), half or in_place, stop_address()

    def run(part: tuple[slice, slice]) -> None:
        some, columns = part
        kernels.functions.linear(
            source, stored.address, stored.kind, bias_at, addend_at, target,
            inner, outputs, stride, some.start, some.stop, columns.start, columns.stop, half, gated,
            aligned_scratch("product", length * (kernels.width + (some.stop - some.start if copies else 0))),
            stop,
        )  # fmt: skip

    for_each(run, [(some, columns) for some in row_parts for columns in panel_parts])


def product_parts(rows: int, panels: int, products: int) -> tuple[list[slice], list[slice]]:
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
