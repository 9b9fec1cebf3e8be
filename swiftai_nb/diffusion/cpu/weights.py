"""Weights as the CPU multiplies them: 16-bit ones widened block by block, small ones transposed and kept.

Weights kept in 16 bits take half the memory and half the traffic; a widened block stays in the cache until
its product is done.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.diffusion.cpu.arrays import new_array
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, spans

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


def as_float32(weight: mx.array) -> mx.array:
    """The weight itself, or a float32 copy of 16-bit values."""
    if weight.dtype not in HALF_DTYPES:
        return weight.astype(mx.float32)
    bits = bit_view(weight)
    bits = np.ascontiguousarray(bits).reshape(-1)
    result, out = new_array(weight.shape)
    flat = out.reshape(-1)
    for_each(lambda part: widen(bits[part], weight.dtype, flat[part]), spans(bits.size, 1 << 16))
    return result


class TransposedWeightCache:
    """Copies by weight; an entry disappears with its weight.

    Args:
        limit_bytes: of all entries.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._entries: dict[int, tuple[weakref.ref[Any], Float32]] = {}

    def get(self, weight: mx.array, make: Callable[[], Float32], *, size_bytes: int) -> Float32 | None:
        """The copy, kept or made now; None where it would exceed the limit.

        Args:
            weight: whose copy it is.
            make: computes it.
            size_bytes: of what `make` returns.
        """
        key = id(weight)
        with self._lock:
            if key in self._entries:
                return self._entries[key][1]
            if self.size_bytes + size_bytes > self.limit_bytes:
                return None
            made = make()
            self._entries[key] = (weakref.ref(weight, lambda _: self._forget(key)), made)
            return made

    @property
    def size_bytes(self) -> int:
        """Memory of all entries."""
        return sum(entry.nbytes for _, entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _forget(self, key: int) -> None:
        with self._lock:
            self._entries.pop(key, None)
