"""Dense layers: large products shared among the workers, 16-bit weights widened block by block."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import float32_view, new_array, view
from swiftai_nb.diffusion.cpu.weights import HALF_DTYPES, TransposedWeightCache, bit_view, to_float32
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, shares, spans, worker_count

# Of a weight that is widened: the more rows it is multiplied with, the more it costs to read those again.
_BLOCK_ELEMENTS_PER_ROW = 1 << 12
_MAX_BLOCK_ELEMENTS = 1 << 22
_PART_PRODUCTS = 1 << 23  # multiplications worth another thread
_MIN_ROWS = 32
_MIN_COLUMNS = 128  # with fewer, the inputs are read again too often
_COPIED_ELEMENTS = 1 << 20
_COPIED_ROWS = 1 << 10

_transposed = TransposedWeightCache(limit_bytes=1 << 28)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """As `ops.linear`, for float32 x and a weight of any floating dtype."""
    result, out = new_array((*x.shape[:-1], weight.shape[0]))
    inputs = np.ascontiguousarray(view(x)).reshape(-1, x.shape[-1])
    multiply(inputs, weight, bias, out.reshape(-1, weight.shape[0]))
    return result


def matmul(a: mx.array, b: mx.array) -> mx.array:
    """As `ops.matmul`, for float32 matrices."""
    result, out = new_array((a.shape[0], b.shape[1]))
    left, right = view(a), view(b)

    def run(part: slice) -> None:
        np.matmul(left[part], right, out=out[part])

    for_each(run, shares(len(left), len(left)))
    return result


def multiply(inputs: Float32, weight: mx.array, bias: mx.array | None, out: Float32) -> None:
    """Out = inputs weight^T + bias.

    Args:
        inputs: [rows, in], contiguous.
        weight: [out, ...] with `in` elements in each row; dense or convolution.
        bias: [out].
        out: [rows, out], written.
    """
    offset = None if bias is None else float32_view(bias)
    if weight.dtype in HALF_DTYPES:
        _multiply_widened(inputs, weight, offset, out)
        return
    columns = _columns(weight, len(inputs))
    parts = max(1, len(inputs) * columns.size // _PART_PRODUCTS)
    parts = parts if parts == 1 else min(parts, worker_count())

    def run_rows(part: slice) -> None:
        np.matmul(inputs[part], columns, out=out[part])
        if offset is not None:
            out[part] += offset

    def run_columns(part: slice) -> None:
        np.matmul(inputs, columns[:, part], out=out[:, part])
        if offset is not None:
            out[:, part] += offset[part]

    # Few rows: each worker takes a part of the weight instead.
    by_rows = len(inputs) >= parts * _MIN_ROWS or parts == 1
    length = len(inputs) if by_rows else out.shape[1]
    for_each(run_rows if by_rows else run_columns, spans(length, -(-length // parts)))


def _columns(weight: mx.array, rows: int) -> Float32:
    """The weight as [in, out]; small ones are copied into that order, which OpenBLAS multiplies faster."""
    matrix = float32_view(weight).reshape(weight.shape[0], -1)
    if weight.size > _COPIED_ELEMENTS or rows > _COPIED_ROWS:
        transposed: Float32 = matrix.T
        return transposed
    kept = _transposed.get(weight, lambda: np.ascontiguousarray(matrix.T), size_bytes=matrix.nbytes)
    return matrix.T if kept is None else kept


def _multiply_widened(inputs: Float32, weight: mx.array, offset: Float32 | None, out: Float32) -> None:
    bits, dtype = bit_view(weight).reshape(weight.shape[0], -1), weight.dtype

    def run(part: slice) -> None:
        np.matmul(inputs, to_float32(bits[part], dtype, "weight").T, out=out[:, part])
        if offset is not None:
            out[:, part] += offset[part]

    if len(inputs) > len(bits) and worker_count() > 1:
        # Many rows: cheaper to widen the weight for each worker than to read all rows for each.
        rows = shares(len(inputs), len(inputs))  # two or more, so that each runs alone below
        for_each(lambda part: _multiply_widened(inputs[part], weight, offset, out[part]), rows)
        return
    elements = min(_BLOCK_ELEMENTS_PER_ROW * len(inputs), _MAX_BLOCK_ELEMENTS)
    for_each(run, shares(len(bits), max(_MIN_COLUMNS, elements // bits.shape[1])))


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
    dense = mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits).astype(mx.float32)
    return linear(x, dense, None if bias is None else bias.astype(mx.float32))
