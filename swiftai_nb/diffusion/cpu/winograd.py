"""Convolutions of 3x3 kernels with fewer multiplications (Winograd 1980; Lavin and Gray 2016).

F(m x m, 3x3) makes a tile of m x m outputs from (m + 2) x (m + 2) inputs with (m + 2)^2 products per
channel pair instead of 9 m^2: 2.25 times fewer for m = 2, 4 times fewer for m = 4. All products of one
transformed position are a single matrix product.

Kernels are transformed at every call, some outputs at a time, while they are in the cache: that costs a
fiftieth of a denoising step, and keeping them would cost 0.7 to 2 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from swiftai_nb.diffusion.cpu.workers import Float32, for_each, scratch, shares, worker_count

Taps = Callable[[slice], Float32]

_TILES = 128  # per block: rows of a matrix product
_KERNEL_ELEMENTS = 1 << 22  # transformed together
_INPUT_ELEMENTS = 1 << 25  # of all transformed inputs, where they are kept for the whole call

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


_KERNEL = {m: np.kron(_kernel_transform(m), _kernel_transform(m)).astype(np.float32) for m in _POINTS}


@dataclass(frozen=True)
class _Block:
    """Tiles [rows, columns] of one picture."""

    batch: int
    rows: range
    columns: range


def winograd_conv(x: Float32, taps: Taps, bias: Float32 | None, out: Float32, *, m: int) -> None:
    """Convolution with padding 1 and stride 1.

    Args:
        x: [B, H, W, C].
        taps: gives the kernels [outputs, 9, C] of a part of the outputs; called by several threads.
        bias: [O].
        out: [B, H, W, O], written.
        m: 2 or 4.
    """
    batch, height, width, channels = x.shape
    rows, columns = -(-height // m), -(-width // m)
    offset = np.zeros(out.shape[3], np.float32) if bias is None else bias
    if (m + 2) ** 2 * batch * rows * columns * channels <= _INPUT_ELEMENTS:
        _by_outputs(x, taps, offset, out, m=m)
    else:
        _by_tiles(x, taps, offset, out, m=m)


def _by_outputs(x: Float32, taps: Taps, bias: Float32, out: Float32, *, m: int) -> None:
    """Inputs are transformed once; each worker takes some outputs and all tiles."""
    n, (batch, height, width, channels) = m + 2, x.shape
    rows, columns = -(-height // m), -(-width // m)
    inputs = np.empty((n, n, batch, rows, columns, channels), np.float32)

    def transform(block: _Block) -> None:
        target = inputs[:, :, block.batch, block.rows.start : block.rows.stop]
        target = target[..., block.columns.start : block.columns.stop, :]
        _transform_input(_padded(x[block.batch], block, m), target)

    for_each(transform, _blocks(batch, rows, columns))
    positions = inputs.reshape(n * n, -1, channels)

    def run(part: slice) -> None:
        products = _multiply(positions, _transform_kernels(taps(part), m))
        tiles = _transform_output(products, (batch * rows, columns), m).reshape(
            batch, rows * m, columns * m, -1
        )
        np.add(tiles[:, :height, :width], bias[part], out=out[..., part])

    for_each(run, shares(out.shape[3], _outputs_together(channels, m)))


def _by_tiles(x: Float32, taps: Taps, bias: Float32, out: Float32, *, m: int) -> None:
    """Kernels are transformed once; each worker takes some tiles and all outputs."""
    n, (batch, height, width, channels) = m + 2, x.shape
    kernels = np.empty((n * n, out.shape[3], channels), np.float32)

    def transform(part: slice) -> None:
        kernels[:, part] = _transform_kernels(taps(part), m)

    for_each(transform, shares(out.shape[3], _outputs_together(channels, m)))

    def run(block: _Block) -> None:
        shape = (len(block.rows), len(block.columns))
        inputs = scratch("inputs", (n, n, *shape, channels))
        _transform_input(_padded(x[block.batch], block, m), inputs)
        products = _multiply(inputs.reshape(n * n, -1, channels), kernels)
        tile = _transform_output(products, shape, m)
        top, left = block.rows.start * m, block.columns.start * m
        target = out[block.batch, top : block.rows.stop * m, left : block.columns.stop * m]
        np.add(tile[: target.shape[0], : target.shape[1]], bias, out=target)

    for_each(run, _blocks(batch, -(-height // m), -(-width // m)))


def _outputs_together(channels: int, m: int) -> int:
    return max(16, _KERNEL_ELEMENTS // ((m + 2) ** 2 * channels))


def _transform_kernels(taps: Float32, m: int) -> Float32:
    """G g G^T for every kernel: [outputs, 9, C] -> [(m + 2)^2, outputs, C]."""
    outputs, _, channels = taps.shape
    kernels = scratch("kernels", ((m + 2) ** 2, outputs, channels))
    np.matmul(_KERNEL[m], taps, out=kernels.transpose(1, 0, 2))
    return kernels


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


def _transform_input(patch: Float32, out: Float32) -> None:
    """B^T d B for every tile; out: [m + 2, m + 2, rows, columns, C], written."""
    n, rows, columns, channels = len(out), *out.shape[2:]
    m = n - 2
    vertical = scratch("vertical", (n, rows, patch.shape[1], channels))
    source = [patch[a : a + m * (rows - 1) + 1 : m] for a in range(n)]
    _INPUT[m](source, list(vertical))
    source = [vertical[:, :, b : b + m * (columns - 1) + 1 : m] for b in range(n)]
    _INPUT[m](source, [out[:, b] for b in range(n)])


def _multiply(inputs: Float32, kernels: Float32) -> Float32:
    """Positions [(m + 2)^2, tiles, C] and [(m + 2)^2, outputs, C] -> [(m + 2)^2, tiles, outputs]."""
    products = scratch("products", (*inputs.shape[:2], kernels.shape[1]))
    return np.matmul(inputs, kernels.transpose(0, 2, 1), out=products)


def _transform_output(products: Float32, tiles: tuple[int, int], m: int) -> Float32:
    """A^T p A for every tile, tiles [rows, columns] joined: [rows m, columns m, O]."""
    n, channels, (rows, columns) = m + 2, products.shape[2], tiles
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
