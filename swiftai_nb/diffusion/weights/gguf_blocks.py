"""The block formats of GGUF: codes with a factor and an offset for each group of 16 or 32.

Every format is number = factor * code + offset. With groups of 32 that is MLX's own form, so those weights
stay small; the others are widened. All of it are operations on unevaluated arrays. The layouts of the
blocks are ggml's (`ggml-quants.c`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx

from swiftai_nb.model_files.gguf import QUANTIZED


@dataclass(frozen=True)
class Groups:
    """Numbers in groups.

    Attributes:
        codes: [blocks, groups, numbers], uint8.
        factors, offsets: [blocks, groups], float32.
    """

    codes: mx.array
    factors: mx.array
    offsets: mx.array


def widen_blocks(blocks: mx.array, dtype: str) -> mx.array:
    """The numbers of blocks, exactly as ggml computes them: [blocks, numbers], float32.

    Args:
        blocks: [blocks, bytes], uint8.
        dtype: name of a quantized `BlockType`.
    """
    groups = _UNPACK[dtype](blocks)
    numbers = groups.factors[..., None] * groups.codes.astype(mx.float32) + groups.offsets[..., None]
    return numbers.reshape(blocks.shape[0], -1)


def repack_blocks(
    blocks: mx.array, dtype: str, shape: tuple[int, int]
) -> tuple[mx.array, mx.array, mx.array]:
    """The same numbers in MLX's form: (weight uint32, scales, biases), with groups of 32.

    Args:
        blocks: [blocks, bytes], uint8.
        dtype: name of a `BlockType` with `packed_bits`.
        shape: [out, in] of the weight.
    """
    groups, bits = _UNPACK[dtype](blocks), QUANTIZED[dtype].packed_bits
    codes = groups.codes.reshape(shape)
    if bits == 4:
        codes = codes[:, ::2] | (codes[:, 1::2] << 4)
    per_row = (shape[0], shape[1] // 32)
    weight = mx.contiguous(codes).view(mx.uint32)
    return weight, groups.factors.reshape(per_row), groups.offsets.reshape(per_row)


def _halves(blocks: mx.array, at: int) -> mx.array:
    """The float16 at a byte of each block, as float32: [blocks, 1]."""
    return mx.contiguous(blocks[:, at : at + 2]).view(mx.float16).astype(mx.float32)


def _nibbles(data: mx.array) -> mx.array:
    """[..., n] bytes -> [..., 2, n]: the low halves, then the high ones."""
    return mx.stack([data & 15, data >> 4], axis=-2)


def _fifth_bits(data: mx.array) -> mx.array:
    """[blocks, 4] bytes -> [blocks, 32]: their bits, each worth 16."""
    bits = (data[..., None] >> mx.arange(8, dtype=mx.uint8)) & 1
    return (bits << 4).reshape(data.shape[0], 32)


def _unpack_q4(blocks: mx.array, *, has_minimum: bool) -> Groups:
    factor = _halves(blocks, 0)
    start = 4 if has_minimum else 2
    codes = _nibbles(blocks[:, start : start + 16]).reshape(-1, 1, 32)
    return Groups(codes, factor, _halves(blocks, 2) if has_minimum else factor * -8.0)


def _unpack_q5(blocks: mx.array, *, has_minimum: bool) -> Groups:
    factor = _halves(blocks, 0)
    start = 4 if has_minimum else 2
    low = _nibbles(blocks[:, start + 4 : start + 20]).reshape(-1, 32)
    codes = low | _fifth_bits(blocks[:, start : start + 4])
    return Groups(codes[:, None], factor, _halves(blocks, 2) if has_minimum else factor * -16.0)


def _unpack_q8_0(blocks: mx.array) -> Groups:
    factor = _halves(blocks, 0)
    return Groups((blocks[:, 2:34] ^ 128)[:, None], factor, factor * -128.0)  # signed -> from 0 upwards


def _k4_factors(blocks: mx.array) -> tuple[mx.array, mx.array]:
    """Factors and offsets of Q4_K and Q5_K: eight of 6 bits each, in 12 bytes."""
    packed = blocks[:, 4:16]
    low, mid, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = mx.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=1)
    minima = mx.concatenate([mid & 63, (high >> 4) | ((mid >> 6) << 4)], axis=1)
    factors = _halves(blocks, 0) * scales.astype(mx.float32)
    return factors, -(_halves(blocks, 2) * minima.astype(mx.float32))


def _unpack_q4_k(blocks: mx.array) -> Groups:
    codes = _nibbles(blocks[:, 16:144].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return Groups(codes, *_k4_factors(blocks))


def _unpack_q5_k(blocks: mx.array) -> Groups:
    low = _nibbles(blocks[:, 48:176].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = (blocks[:, None, 16:48] >> mx.arange(8, dtype=mx.uint8)[None, :, None]) & 1
    return Groups(low | (high << 4), *_k4_factors(blocks))


def _unpack_q6_k(blocks: mx.array) -> Groups:
    low = blocks[:, :128].reshape(-1, 2, 2, 32)  # [blocks, half, part, 32]
    low = mx.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    high = (high >> mx.array([0, 2, 4, 6], dtype=mx.uint8)[None, None, :, None]) & 3
    codes = (low | (high << 4)).reshape(-1, 16, 16)
    scales = mx.contiguous(blocks[:, 192:208]).view(mx.int8).astype(mx.float32)
    factors = _halves(blocks, 208) * scales
    return Groups(codes, factors, factors * -32.0)


def _crumbs(data: mx.array) -> mx.array:
    """[blocks, 64] bytes -> [blocks, 16, 16]: pairs of bits, 32 bytes at a time, the lowest first."""
    parts = data.reshape(-1, 2, 1, 32) >> mx.array([0, 2, 4, 6], dtype=mx.uint8)[None, None, :, None]
    return (parts & 3).reshape(-1, 16, 16)


def _unpack_q2_k(blocks: mx.array) -> Groups:
    scales = blocks[:, :16]
    factors = _halves(blocks, 80) * (scales & 15).astype(mx.float32)
    offsets = -(_halves(blocks, 82) * (scales >> 4).astype(mx.float32))
    return Groups(_crumbs(blocks[:, 16:80]), factors, offsets)


def _unpack_q3_k(blocks: mx.array) -> Groups:
    high = (blocks[:, None, :32] >> mx.arange(8, dtype=mx.uint8)[None, :, None]) & 1
    codes = _crumbs(blocks[:, 32:96]) | (high.reshape(-1, 16, 16) << 2)
    low, top = blocks[:, 96:104], blocks[:, 104:108]
    tops = [(top >> shift) & 3 for shift in (0, 2, 4, 6)]
    scales = mx.concatenate([low & 15, low >> 4], axis=1) | (mx.concatenate(tops, axis=1) << 4)
    factors = _halves(blocks, 108) * (scales.astype(mx.float32) - 32.0)
    return Groups(codes, factors, factors * -4.0)


_UNPACK: dict[str, Callable[[mx.array], Groups]] = {
    "Q4_0": lambda blocks: _unpack_q4(blocks, has_minimum=False),
    "Q4_1": lambda blocks: _unpack_q4(blocks, has_minimum=True),
    "Q5_0": lambda blocks: _unpack_q5(blocks, has_minimum=False),
    "Q5_1": lambda blocks: _unpack_q5(blocks, has_minimum=True),
    "Q8_0": _unpack_q8_0,
    "Q2_K": _unpack_q2_k,
    "Q3_K": _unpack_q3_k,
    "Q4_K": _unpack_q4_k,
    "Q5_K": _unpack_q5_k,
    "Q6_K": _unpack_q6_k,
}
