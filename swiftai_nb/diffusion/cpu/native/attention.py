"""Attention in C: keys and values are packed for each head, then workers share blocks of queries."""

from __future__ import annotations

import math
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import new_array, view
from swiftai_nb.diffusion.cpu.attention import additive_mask
from swiftai_nb.diffusion.cpu.native.loader import loaded
from swiftai_nb.diffusion.cpu.native.products import half_products
from swiftai_nb.diffusion.cpu.workers import (
    Float32,
    aligned_scratch,
    for_each,
    raise_if_stopped,
    spans,
    stop_address,
    worker_count,
)

_QUERIES, _KEYS = 96, 512  # of a block: attention.c
_TOGETHER_PRODUCTS = 1 << 19


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None) -> mx.array:
    """As `ops.attention`, for float32 arrays."""
    mx.eval(q, k, v)
    batch, heads, length, _ = q.shape
    # [B, L, heads, D] in memory: joining the heads again costs nothing
    result, out = new_array((batch, length, heads, v.shape[3]))
    _attend(view(q), view(k), view(v), out.transpose(0, 2, 1, 3), scale=scale, mask=mask)
    return result.transpose(0, 2, 1, 3)


def multi_head_attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None
) -> mx.array:
    """As `ops.multi_head_attention`, for float32 arrays."""
    mx.eval(q, k, v)
    result, out = new_array(q.shape)
    queries, keys, values, outputs = (_split(x, heads) for x in (view(q), view(k), view(v), out))
    _attend(queries, keys, values, outputs, scale=queries.shape[3] ** -0.5, mask=mask)
    return result


def _split(x: Float32, heads: int) -> Float32:
    """[B, ..., C] -> [B, heads, L, D], not copied when contiguous."""
    split: Float32 = x.reshape(len(x), -1, heads, x.shape[-1] // heads).transpose(0, 2, 1, 3)
    return split


def _rows(x: Float32) -> Float32:
    """An array whose last axis is contiguous."""
    fits = x.strides[-1] == x.itemsize and min(x.strides) >= 0
    return x if fits else np.ascontiguousarray(x)


class _Head(NamedTuple):
    """Where the heads of an array [B, heads, L, D] lie."""

    start: int
    picture_bytes: int
    head_bytes: int
    row: int  # floats between two rows

    @classmethod
    def of(cls, x: Float32) -> _Head:
        return cls(x.ctypes.data, x.strides[0], x.strides[1], x.strides[2] // 4)

    def at(self, picture: int, head: int) -> int:
        return self.start + picture * self.picture_bytes + head * self.head_bytes


def _attend(
    queries: Float32, keys: Float32, values: Float32, out: Float32, *, scale: float, mask: mx.array | None
) -> None:
    """Queries [B, heads, L, D], keys and values [B, fewer heads, S, D] -> out [B, heads, L, D]."""
    kernels = loaded()
    half = half_products.get() and kernels.half
    queries, keys, values = (_rows(x) for x in (queries, keys, values))
    batch, heads, length, width = queries.shape
    shared, count, value_width = keys.shape[1], keys.shape[2], values.shape[3]
    added = None if mask is None else _rows(additive_mask(mask, (batch, heads, length, count)))
    panel = kernels.width
    all_keys, wide = math.ceil(count / panel) * panel, math.ceil(value_width / panel) * panel
    size = 2 if half else 4
    key_bytes = size * all_keys * (width + width % 2)
    head_bytes = key_bytes + size * all_keys * wide
    packed = aligned_scratch("packed heads", batch * shared * head_bytes)
    scratch_bytes, stop = 4 * _QUERIES * (2 * _KEYS + wide + width + width % 2), stop_address()

    # addresses by arithmetic: for few tokens, making a view of each head took longer than the products
    key, value, query, target = (_Head.of(x) for x in (keys, values, queries, out))
    bias = None if added is None else _Head.of(added)

    def pack(head: tuple[int, int]) -> None:
        to = packed + (head[0] * shared + head[1]) * head_bytes
        kernels.functions.attention_pack(
            key.at(*head),
            value.at(*head),
            key.row,
            value.row,
            count,
            width,
            value_width,
            to,
            to + key_bytes,
            half,
        )

    def attend(task: tuple[int, int, slice]) -> None:
        b, h, rows = task
        source = packed + (b * shared + h * shared // heads) * head_bytes
        kernels.functions.attend(
            query.at(b, h), source, source + key_bytes, None if bias is None else bias.at(b, h),
            target.at(b, h), query.row, 0 if bias is None else bias.row, target.row,
            rows.start, rows.stop, count, width, value_width, scale, half,
            aligned_scratch("attention", scratch_bytes), stop,
        )  # fmt: skip

    heads_to_pack = [(b, h) for b in range(batch) for h in range(shared)]
    if batch * heads * length * count * width <= _TOGETHER_PRODUCTS:
        for head in heads_to_pack:
            pack(head)
        for b, h in np.ndindex(batch, heads):
            attend((b, h, slice(0, length)))
        raise_if_stopped()
        return
    for_each(pack, heads_to_pack)
    step = _QUERIES * max(1, round(length / _QUERIES * batch * heads / (16 * worker_count())))
    tasks = [(b, h, rows) for b in range(batch) for h in range(heads) for rows in spans(length, step)]
    for_each(attend, tasks)
