"""Decoding a large picture in tiles, without seams.

Two things make tiles differ from the whole: convolutions see past a tile's edge, and group norms use the
statistics of what they are given. So tiles overlap by what the convolutions see, and all tiles are
normalised by the statistics of the whole picture, which a first pass over the tiles collects. The
attention at the decoder's start, which sees everything, runs on the whole: it is small there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.diffusion.models.layers import GroupNorm, GroupStatistics
from swiftai_nb.diffusion.models.vae import Autoencoder

# Latents past an edge that reach a pixel: 7 convolutions at the lowest resolution, and half, a quarter,
# ... of that above.
OVERLAP = 14


@dataclass(frozen=True)
class Tile:
    """A rectangle of latents, and the larger one that is decoded for it; (top, bottom, left, right)."""

    core: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]

    def cut(self, x: mx.array) -> mx.array:
        """The padded part of [B, h, w, C]."""
        top, bottom, left, right = self.padded
        return x[:, top:bottom, left:right]


def tiles(height: int, width: int, *, side: int, overlap: int = OVERLAP) -> Iterator[Tile]:
    """Covers height x width latents with cores that do not overlap; padded, none is larger than side.

    Args:
        height: of the latents.
        width: of the latents.
        side: of a padded tile; more than 2 * overlap.
        overlap: on each inner side.
    """
    for top, bottom in _spans(height, side - 2 * overlap):
        for left, right in _spans(width, side - 2 * overlap):
            padded = (
                max(top - overlap, 0),
                min(bottom + overlap, height),
                max(left - overlap, 0),
                min(right + overlap, width),
            )
            yield Tile((top, bottom, left, right), padded)


def _spans(length: int, longest: int) -> Iterator[tuple[int, int]]:
    """Even pieces of a length, none longer than `longest`."""
    count = -(-length // max(longest, 1))
    edges = [round(i * length / count) for i in range(count + 1)]
    yield from zip(edges[:-1], edges[1:], strict=True)


def decode_tiled(network: Autoencoder, latents: mx.array, *, side: int) -> NDArray[np.float32]:
    """Decodes one picture with the memory of a tile.

    Args:
        network: loaded.
        latents: [1, h, w, C], as the denoiser sees them.
        side: of a tile, in latents.

    Returns:
        Pixels [1, H, W, 3] in about [-1, 1]; within about 1/255 of decoding the whole at once.
    """
    middle = network.decode_middle(latents)
    mx.eval(middle)
    height, width = middle.shape[1:3]
    side = max(side, 2 * OVERLAP + 8)
    norms = _norms(network)
    try:
        _measure(network, middle, norms, side)
        return _decode(network, middle, list(tiles(height, width, side=side)))
    finally:
        for norm in norms:
            norm.statistics = None


def _norms(network: Autoencoder) -> list[GroupNorm]:
    decoder = network.decoder
    after_middle = [*decoder.up_blocks, decoder.conv_norm_out]
    modules = (module for part in after_middle for _, module in part.named_modules())
    return [module for module in modules if isinstance(module, GroupNorm)]


def _measure(network: Autoencoder, middle: mx.array, norms: list[GroupNorm], side: int) -> None:
    """Collects every norm's statistics over tiles without overlap, then lets them all use the sum."""
    statistics = [GroupStatistics() for _ in norms]
    for norm, collected in zip(norms, statistics, strict=True):
        norm.statistics = collected
    for tile in tiles(middle.shape[1], middle.shape[2], side=side, overlap=0):
        mx.eval(network.decode_up(tile.cut(middle)))
    for collected in statistics:
        collected.freeze()


def _decode(network: Autoencoder, middle: mx.array, pieces: list[Tile]) -> NDArray[np.float32]:
    scale = network.config.scale
    height, width = (int(n) * scale for n in middle.shape[1:3])
    picture = np.empty((1, height, width, network.config.out_channels), dtype=np.float32)
    for tile in pieces:
        pixels = np.array(network.decode_up(tile.cut(middle)))
        top, bottom, left, right = (n * scale for n in tile.core)
        y, x = top - tile.padded[0] * scale, left - tile.padded[2] * scale
        picture[:, top:bottom, left:right] = pixels[:, y : y + bottom - top, x : x + right - left]
        mx.clear_cache()
    return picture
