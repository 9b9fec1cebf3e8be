"""Dense layers whose weights are not float32: widened or dequantised by blocks, then multiplied."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu_math.arrays import new_array, view
from swiftai_nb.diffusion.cpu_math.halves import bit_view, widened
from swiftai_nb.diffusion.cpu_math.workers import for_each, spans, worker_count

_BLOCK_ELEMENTS = 1 << 18


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """As `ops.linear`, for float32 x and a float16 or bfloat16 weight."""
    out_features, in_features = weight.shape
    bits, dtype = bit_view(weight), weight.dtype
    inputs = np.ascontiguousarray(view(x)).reshape(-1, in_features)
    offset = None if bias is None else view(bias.astype(mx.float32))
    result, out = new_array((*x.shape[:-1], out_features))
    rows = out.reshape(-1, out_features)

    def run(part: slice) -> None:
        target = rows[:, part]
        np.matmul(inputs, widened(bits[part], dtype, "weight").T, out=target)
        if offset is not None:
            target += offset[part]

    step = min(max(1, _BLOCK_ELEMENTS // in_features), -(-out_features // worker_count()))
    for_each(run, spans(out_features, step))
    return result


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
    return x @ dense.T if bias is None else mx.addmm(bias.astype(mx.float32), x, dense.T)
