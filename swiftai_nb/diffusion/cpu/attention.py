"""Attention in blocks that fit a processor's cache, softmax in NumPy.

The scores of a block are exponentiated without subtracting their maximum when |q| |k| bounds them (Cauchy
and Schwarz) so that nothing can overflow: the quotient is the same and two passes are saved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.cpu.arrays import new_array, view
from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, spans, worker_count

_ROWS = 1024
_COLUMNS = 256
_TOGETHER_SCORES = 1 << 17
# exp(60) times 1e6 keys times values of 1e6 still is a float32
_SAFE_SCORE = 60.0


@dataclass(frozen=True)
class _Task:
    batch: int
    head: int
    rows: slice


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None) -> mx.array:
    """As `ops.attention`, for float32 arrays."""
    mx.eval(q, k, v)
    batch, heads, length, _ = q.shape
    # [B, L, heads, D] in memory: joining the heads again costs nothing
    result, out = new_array((batch, length, heads, v.shape[3]))
    _attend_all((view(q), view(k), view(v)), out, scale=scale, mask=mask)
    return result.transpose(0, 2, 1, 3)


def multi_head_attention(
    q: mx.array, k: mx.array, v: mx.array, *, heads: int, mask: mx.array | None
) -> mx.array:
    """As `ops.multi_head_attention`, for float32 arrays."""
    mx.eval(q, k, v)
    result, out = new_array(q.shape)
    queries, keys, values = (_split(view(x), heads).transpose(0, 2, 1, 3) for x in (q, k, v))
    _attend_all((queries, keys, values), _split(out, heads), scale=queries.shape[3] ** -0.5, mask=mask)
    return result


def _split(x: Float32, heads: int) -> Float32:
    """[B, ..., C] -> [B, L, heads, D], not copied when contiguous."""
    return x.reshape(len(x), -1, heads, x.shape[-1] // heads)


def _attend_all(
    parts: tuple[Float32, Float32, Float32], out: Float32, *, scale: float, mask: mx.array | None
) -> None:
    """Queries [B, heads, L, D], keys and values [B, fewer heads, S, D] -> out [B, L, heads, D]."""
    queries, keys, values = parts
    batch, heads, length, _ = queries.shape
    group = heads // keys.shape[1]
    shape = (batch, heads, length, keys.shape[2])
    added = None if mask is None else additive_mask(mask, shape)
    if math.prod(shape) <= _TOGETHER_SCORES:
        if group > 1:
            keys, values = (np.repeat(x, group, axis=1) for x in (keys, values))
        _attend_together(queries, keys, values, out.transpose(0, 2, 1, 3), scale=scale, mask=added)
        return

    def run(task: _Task) -> None:
        shared = (task.batch, task.head // group)
        target = out[task.batch, task.rows, task.head]
        block_mask = None if added is None else added[task.batch, task.head, task.rows]
        rows = queries[task.batch, task.head, task.rows]
        _attend(rows, keys[shared], values[shared], target, scale=scale, mask=block_mask)

    for_each(run, _tasks(batch, heads, length))


def _attend_together(
    q: Float32, k: Float32, v: Float32, out: Float32, *, scale: float, mask: Float32 | None
) -> None:
    """All heads at once: with few tokens calls cost more than the arithmetic in them."""
    scaled = np.multiply(q, np.float32(scale), out=scratch("queries", q.shape))
    scores = np.matmul(scaled, k.transpose(0, 1, 3, 2), out=scratch("scores", (*q.shape[:3], k.shape[2])))
    if mask is not None:
        scores += mask
    scores -= scores.max(axis=-1, keepdims=True)
    with np.errstate(under="ignore"):
        np.exp(scores, out=scores)
    total = np.matmul(scores, v, out=scratch("total", (*q.shape[:3], v.shape[3])))
    np.divide(total, scores.sum(axis=-1, keepdims=True), out=out)


def _tasks(batch: int, heads: int, length: int) -> list[_Task]:
    pieces = math.ceil(4 * worker_count() / (batch * heads)) if worker_count() > 1 else 1
    step = max(_ROWS, math.ceil(length / pieces))
    return [_Task(b, h, rows) for b in range(batch) for h in range(heads) for rows in spans(length, step)]


def additive_mask(mask: mx.array, shape: tuple[int, ...]) -> Float32:
    """A mask of either kind as numbers to add to scores of this shape, which it is broadcast to."""
    if mask.dtype == mx.bool_:
        # finite, so that a row that may see nothing sees everything alike, as in MLX
        mask = mx.where(mask, 0.0, float(np.finfo(np.float32).min))
    return np.broadcast_to(view(mask.astype(mx.float32)), shape)


def _attend(q: Float32, k: Float32, v: Float32, out: Float32, *, scale: float, mask: Float32 | None) -> None:
    """One head: q [L, D], k [S, D], v [S, D] -> out [L, D]."""
    longest_key = math.sqrt(float(np.einsum("ij,ij->i", k, k).max(initial=0.0)))
    keys = scratch("keys", (k.shape[1], k.shape[0]))  # in the order OpenBLAS multiplies fastest
    np.copyto(keys, k.T)
    for rows in spans(len(q), _ROWS):
        scaled = scratch("queries", (rows.stop - rows.start, q.shape[1]))
        np.multiply(q[rows], np.float32(scale), out=scaled)
        bound = longest_key * math.sqrt(float(np.einsum("ij,ij->i", scaled, scaled).max()))
        if mask is None and bound < _SAFE_SCORE:
            _bounded(scaled, keys, v, out[rows])
        else:
            _shifted(scaled, keys, v, out[rows], None if mask is None else mask[rows])


def _bounded(q: Float32, keys: Float32, v: Float32, out: Float32) -> None:
    total, part = (scratch(name, (len(q), v.shape[1])) for name in ("total", "part"))
    denominator = np.zeros(len(q), np.float32)
    total.fill(0)
    for columns in spans(len(v), _COLUMNS):
        scores = scratch("scores", (len(q), columns.stop - columns.start))
        np.matmul(q, keys[:, columns], out=scores)
        np.exp(scores, out=scores)
        # a product with ones is four times as fast as a sum along rows
        denominator += scores @ np.ones(scores.shape[1], np.float32)
        total += np.matmul(scores, v[columns], out=part)
    np.divide(total, denominator[:, None], out=out)


def _shifted(q: Float32, keys: Float32, v: Float32, out: Float32, mask: Float32 | None) -> None:
    scores = np.matmul(q, keys, out=scratch("scores", (len(q), len(v))))
    if mask is not None:
        scores += mask
    scores -= scores.max(axis=1, keepdims=True)
    with np.errstate(under="ignore"):
        np.exp(scores, out=scores)
    denominator = scores @ np.ones(len(v), np.float32)
    np.divide(np.matmul(scores, v, out=scratch("total", (len(q), v.shape[1]))), denominator[:, None], out=out)
