"""Convolutions of 3x3 kernels with fewer multiplications (Winograd 1980; Lavin and Gray 2016).

F(m x m, 3x3) makes a tile of m x m outputs from (m + 2) x (m + 2) inputs with (m + 2)^2 products per
channel pair instead of 9 m^2: 2.25 times fewer for m = 2, 4 times fewer for m = 4. Tiles of several rows are
transformed together, so that all products of one transformed position are a single matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swiftai_nb.diffusion.cpu_math.workers import Float32, for_each, scratch, spans, worker_count

_TILES = 128  # per block: rows of a matrix product
_TRANSFORM_ELEMENTS = 1 << 18

# Evaluation points: 0, infinity, and +-1 (m = 2) or +-2/3, +-3/2 (m = 4). The usual +-1, +-2 for m = 4
# round five times worse.
_POINTS = {2: (1.0,), 4: (2 / 3, 3 / 2)}
_A, _B = _POINTS[4]
_A2, _B2 = np.float32(_A * _A), np.float32(_B * _B)


def _kernel_transform(m: int) -> np.ndarray:
    """G: [m + 2, 3], float64; rows (1, p, p^2) / prod(p - q) for each finite point p."""
    points = [0.0, *(sign * p for p in _POINTS[m] for sign in (1, -1))]
    rows = [[p**power / np.prod([p - q for q in points if q != p]) for power in range(3)] for p in points]
    return np.array([*rows, [0, 0, 1]])


def transform_weight(weight: Float32, m: int) -> Float32:
    """Kernels [O, 3, 3, C] -> [(m + 2)^2, C, O]."""
    out_channels, _, _, in_channels = weight.shape
    g = _kernel_transform(m)
    both = np.kron(g, g).astype(np.float32)
    result = np.empty((len(both), in_channels, out_channels), np.float32)

    def run(part: slice) -> None:
        taps = scratch("taps", (9, part.stop - part.start, out_channels))
        np.copyto(taps, weight[..., part].reshape(out_channels, 9, -1).transpose(1, 2, 0))
        result[:, part] = (both @ taps.reshape(9, -1)).reshape(len(both), -1, out_channels)

    for_each(run, spans(in_channels, max(1, _TRANSFORM_ELEMENTS // (9 * out_channels))))
    return result


def transformed_bytes(shape: Sequence[int], m: int) -> int:
    """Memory of `transform_weight` for kernels of shape [O, 3, 3, C]."""
    return 4 * (m + 2) ** 2 * shape[0] * shape[3]


@dataclass(frozen=True)
class _Block:
    """Tiles [rows, columns] of one picture."""

    batch: int
    rows: range
    columns: range


def winograd_conv(x: Float32, transformed: Float32, bias: Float32 | None, out: Float32, *, m: int) -> None:
    """Convolution with padding 1 and stride 1.

    Args:
        x: [B, H, W, C].
        transformed: [(m + 2)^2, C, O], from `transform_weight`.
        bias: [O].
        out: [B, H, W, O], written.
        m: 2 or 4.
    """
    height, width = x.shape[1:3]
    blocks = _blocks(len(x), -(-height // m), -(-width // m))

    def run(block: _Block) -> None:
        patch = _padded(x[block.batch], block, m)
        products = _multiply(_transform_input(patch, block, m), transformed)
        tile = _transform_output(products, block, m)
        top, left = block.rows.start * m, block.columns.start * m
        target = out[block.batch, top : block.rows.stop * m, left : block.columns.stop * m]
        tile = tile[: target.shape[0], : target.shape[1]]
        if bias is None:
            np.copyto(target, tile)
        else:
            np.add(tile, bias, out=target)

    for_each(run, blocks)


def _blocks(batch: int, rows: int, columns: int) -> list[_Block]:
    tiles = min(_TILES, -(-batch * rows * columns // worker_count()))
    across = min(columns, tiles)
    down = max(1, tiles // across)
    return [
        _Block(b, range(i, min(i + down, rows)), range(j, min(j + across, columns)))
        for b in range(batch)
        for i in range(0, rows, down)
        for j in range(0, columns, across)
    ]


def _padded(picture: Float32, block: _Block, m: int) -> Float32:
    """The inputs of a block with one pixel of border, zeros outside the picture."""
    height, width, channels = picture.shape
    top, left = block.rows.start * m - 1, block.columns.start * m - 1
    shape = (len(block.rows) * m + 2, len(block.columns) * m + 2)
    y0, y1 = max(top, 0), min(top + shape[0], height)
    x0, x1 = max(left, 0), min(left + shape[1], width)
    if (y1 - y0, x1 - x0) == shape:
        return picture[y0:y1, x0:x1]
    patch = scratch("patch", (*shape, channels))
    patch[: y0 - top] = 0
    patch[y1 - top :] = 0
    patch[:, : x0 - left] = 0
    patch[:, x1 - left :] = 0
    patch[y0 - top : y1 - top, x0 - left : x1 - left] = picture[y0:y1, x0:x1]
    return patch


def _transform_input(patch: Float32, block: _Block, m: int) -> Float32:
    """B^T d B for every tile: [(m + 2)^2, tiles, C]."""
    n, channels = m + 2, patch.shape[2]
    rows, columns = len(block.rows), len(block.columns)
    vertical = scratch("vertical", (n, rows, patch.shape[1], channels))
    source = [patch[a : a + m * (rows - 1) + 1 : m] for a in range(n)]
    _INPUT[m](source, list(vertical))
    result = scratch("inputs", (n, n, rows, columns, channels))
    source = [vertical[:, :, b : b + m * (columns - 1) + 1 : m] for b in range(n)]
    _INPUT[m](source, [result[:, b] for b in range(n)])
    return result.reshape(n * n, rows * columns, channels)


def _multiply(inputs: Float32, transformed: Float32) -> Float32:
    products = scratch("products", (*inputs.shape[:2], transformed.shape[2]))
    return np.matmul(inputs, transformed, out=products)


def _transform_output(products: Float32, block: _Block, m: int) -> Float32:
    """A^T p A for every tile, tiles joined: [rows m, columns m, O]."""
    n, channels = m + 2, products.shape[2]
    rows, columns = len(block.rows), len(block.columns)
    grid = products.reshape(n, n, rows, columns, channels)
    vertical = scratch("vertical", (m, n, rows, columns, channels))
    _OUTPUT[m](list(grid), list(vertical))
    tile = scratch("tile", (rows, m, columns, m, channels))
    joined = tile.transpose(1, 0, 2, 3, 4)
    _OUTPUT[m]([vertical[:, b] for b in range(n)], [joined[:, :, :, b] for b in range(m)])
    return tile.reshape(rows * m, columns * m, channels)


def _input_2(d: Sequence[Float32], out: Sequence[Float32]) -> None:
    np.subtract(d[2], d[0], out=out[0])
    np.add(d[1], d[2], out=out[1])
    np.subtract(d[2], d[1], out=out[2])
    np.subtract(d[3], d[1], out=out[3])


def _output_2(p: Sequence[Float32], out: Sequence[Float32]) -> None:
    np.add(p[0], p[1], out=out[0])
    out[0] += p[2]
    np.subtract(p[1], p[2], out=out[1])
    out[1] += p[3]


def _input_4(d: Sequence[Float32], out: Sequence[Float32]) -> None:
    """Rows B(x) / (x - p) for each point p, with B = x (x^2 - a^2) (x^2 - b^2) and a b = 1."""
    even, odd = scratch("even", d[0].shape), scratch("odd", d[0].shape)
    for p, other, pair in ((_A, _B2, out[1:3]), (_B, _A2, out[3:5])):
        np.multiply(d[2], -other, out=even)
        even += d[4]
        np.multiply(d[1], -other, out=odd)
        odd += d[3]
        odd *= np.float32(p)
        np.add(even, odd, out=pair[0])
        np.subtract(even, odd, out=pair[1])
    for row, first in ((0, 0), (5, 1)):
        np.multiply(d[first + 2], -(_A2 + _B2), out=even)
        even += d[first]
        np.add(even, d[first + 4], out=out[row])


def _output_4(p: Sequence[Float32], out: Sequence[Float32]) -> None:
    """Sums of p x^i over the points, for i = 0 .. 3."""
    shape = p[0].shape
    sum_a, difference_a, sum_b, difference_b = (scratch(f"output_{i}", shape) for i in range(4))
    np.add(p[1], p[2], out=sum_a)
    np.subtract(p[1], p[2], out=difference_a)
    np.add(p[3], p[4], out=sum_b)
    np.subtract(p[3], p[4], out=difference_b)
    np.add(p[0], sum_a, out=out[0])
    out[0] += sum_b
    _weighted(sum_a, sum_b, (_A2, _B2), out[2])
    _weighted(difference_a, difference_b, (np.float32(_A), np.float32(_B)), out[1])
    _weighted(difference_a, difference_b, (_A2, _B2), out[3])
    out[3] += p[5]


def _weighted(first: Float32, second: Float32, weights: tuple[np.float32, np.float32], out: Float32) -> None:
    """Out = weighted sum; the operands are scaled in place."""
    first *= weights[0]
    second *= weights[1]
    np.add(first, second, out=out)


_INPUT = {2: _input_2, 4: _input_4}
_OUTPUT = {2: _output_2, 4: _output_4}
