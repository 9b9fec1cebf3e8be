"""Decoding a large picture in tiles, without seams.

Two things make tiles differ from the whole: convolutions see past a tile's edge, and group norms use the
statistics of what they are given. So tiles overlap by what the convolutions see, and all tiles are
normalized by the same statistics, those of the whole picture, which a first pass over the tiles collects
(nearly: inside it each tile still has its own). The attention at the decoder's start, which sees
everything, runs on the whole: it is small there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from swiftai_nb.diffusion.models.layers import GroupNorm, GroupStatistics
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig

_SMALLEST_CORE = 8


@dataclass(frozen=True)
class Tile:
    """A rectangle of latents, and the larger one that is decoded for it; (top, bottom, left, right)."""

    core: tuple[int, int, int, int]
    padded: tuple[int, int, int, int]

    @property
    def window(self) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        """The core within the padded part, and the padded part's (height, width)."""
        (top, bottom, left, right), (y, y_end, x, x_end) = self.core, self.padded
        return (top - y, bottom - y, left - x, right - x), (y_end - y, x_end - x)

    def cut(self, x: mx.array) -> mx.array:
        """The padded part of [B, h, w, C]."""
        top, bottom, left, right = self.padded
        return x[:, top:bottom, left:right]


def tiles(height: int, width: int, *, side: int, overlap: int) -> Iterator[Tile]:
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
    yield from pairwise(edges)


def reach(config: VAEConfig) -> int:
    """How many latents past an edge reach a pixel through the decoder's 3x3 convolutions."""
    levels = len(config.block_out_channels)
    convolutions = [2 * (config.layers_per_block + 1) + (level < levels - 1) for level in range(levels)]
    convolutions[-1] += 1
    return math.ceil(sum(count / (1 << level) for level, count in enumerate(convolutions)))


def decode_tiled(network: Autoencoder, latents: mx.array, *, side: int) -> NDArray[np.float32]:
    """Decodes one picture with the memory of a tile.

    Args:
        network: loaded.
        latents: [1, h, w, C], as the denoiser sees them.
        side: of a tile, in latents of the decoder.

    Returns:
        Pixels [1, H, W, 3] in about [-1, 1]. Against decoding the whole at once: no edges between
        tiles, tones within about 2/255 on average, two to three times the time.
    """
    middle = network.decode_middle(latents)
    mx.eval(middle)
    height, width = middle.shape[1:3]
    overlap = reach(network.config)
    side = max(side, 2 * overlap + _SMALLEST_CORE)
    norms = _norms(network)
    try:
        pieces = list(tiles(height, width, side=side, overlap=overlap))
        _measure(network, middle, norms, pieces)
        return _decode(network, middle, pieces)
    finally:
        for norm in norms:
            norm.statistics = None


def _norms(network: Autoencoder) -> list[GroupNorm]:
    decoder = network.decoder
    after_middle = [*decoder.up_blocks, decoder.conv_norm_out]
    modules = (module for part in after_middle for _, module in cast(nn.Module, part).named_modules())
    return [module for module in modules if isinstance(module, GroupNorm)]


def _measure(network: Autoencoder, middle: mx.array, norms: list[GroupNorm], pieces: list[Tile]) -> None:
    """Collects every norm's statistics over the cores of all tiles, then lets them all use the sum."""
    statistics = [GroupStatistics() for _ in norms]
    for norm, collected in zip(norms, statistics, strict=True):
        norm.statistics = collected
    for tile in pieces:
        for collected in statistics:
            collected.window = tile.window
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
