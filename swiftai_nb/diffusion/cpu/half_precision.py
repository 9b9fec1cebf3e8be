"""Weights kept in 16 bits and widened to float32 block by block where they are used.

Half the memory and half the traffic; a widened block stays in the cache until its product is done.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.diffusion.cpu.workers import Float32, scratch, spans

_BLOCK_ELEMENTS = 1 << 19  # what stays in a cache between the passes
_SIGN_AND_VALUE = np.int32(np.uint32(0x8FFFE000).astype(np.int32))
_EXPONENT_SHIFT = np.float32(2.0**112)  # between the exponent biases 15 and 127

HALF_DTYPES = (mx.float16, mx.bfloat16)

Bits16 = NDArray[np.int16]


def bit_view(x: mx.array) -> Bits16:
    """The bits of an evaluated float16 or bfloat16 array, not copied."""
    bits = x.view(mx.int16)
    mx.eval(bits)
    values: Bits16 = np.asarray(bits)
    return values


def widen(bits: Bits16, dtype: mx.Dtype, out: Float32) -> None:
    """Exact float32 values of finite halves; twenty times faster than a scalar conversion.

    Args:
        bits: any shape.
        dtype: float16 or bfloat16.
        out: the same shape, contiguous, written.
    """
    words = out.view(np.int32)
    np.copyto(words, bits)
    if dtype == mx.bfloat16:
        words <<= 16
    else:
        words <<= 13
        words &= _SIGN_AND_VALUE
        out *= _EXPONENT_SHIFT


def to_float32(bits: Bits16, dtype: mx.Dtype, name: str) -> Float32:
    """`widen` into this thread's scratch array `name`; bits: [rows, columns]."""
    out = scratch(name, bits.shape)
    for rows in spans(len(bits), max(1, _BLOCK_ELEMENTS // bits.shape[1])):
        widen(bits[rows], dtype, out[rows])
    return out
