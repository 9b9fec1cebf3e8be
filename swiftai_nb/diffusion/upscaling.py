"""Enlarging pictures by a network of the Real-ESRGAN family, in tiles, with the pixels of the whole picture.

RRDBNet sees hundreds of pixels far, each of its blocks 15. So every block runs over the whole picture, tile
by tile, before the next one begins: tiles then need no more than a block's margin, and nothing is cut off.
The feature maps of two blocks are kept whole; the last convolutions, at the size of the result, run in
smaller parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import GenerationFailedError, InvalidInputError
from swiftai_nb.diffusion.models.esrgan import RRDBNet, SRVGGNetCompact
from swiftai_nb.diffusion.models.vae import fold_patches
from swiftai_nb.diffusion.tiled_decoding import Tile, tiles
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.precision import resolve_dtype
from swiftai_nb.diffusion.weights.tensors import Tensors, TensorSource, kernels_last
from swiftai_nb.model_files.upscalers import END_SIDE, UpscalerFile, default_tile_side, read_upscaler

Pixels = NDArray[np.uint8]
OnTile = Callable[[int, int], None]
_PART_OVERLAP = 2  # in features


class Upscaler:
    """A network that enlarges pictures. All calls belong to the thread that made it (MLX arrays do).

    The weights are read on first use.

    Args:
        file: from `read_upscaler`.
        dtype: "float32", "float16", "bfloat16"; None is float32 on the CPU and float16 on a GPU.

    Raises:
        InvalidModelFilesError: tensors are missing, superfluous or misshapen; names them.
    """

    def __init__(self, file: UpscalerFile, *, dtype: str | mx.Dtype | None = None) -> None:
        self.file = file
        self._dtype = resolve_dtype(dtype)
        build = RRDBNet if file.architecture == "rrdb" else SRVGGNetCompact
        source = TensorSource("upscaler", (file.path,), self._convert)
        self._component = Component(source, lambda: build(file), dtype=self._dtype)

    @property
    def scale(self) -> int:
        """How many times larger a picture gets in each direction."""
        return self.file.scale

    def upscale(
        self, pixels: Pixels, *, tile_side: int | None = None, on_tile: OnTile | None = None
    ) -> Pixels:
        """Enlarges a picture by `scale`.

        Args:
            pixels: [H, W, 3], uint8.
            tile_side: of a tile with its margin, in pixels of the input; None follows the machine's memory.
            on_tile: called before each tile with (index, number of tiles); may raise to stop.

        Returns:
            [scale H, scale W, 3], uint8.

        Raises:
            InvalidInputError: pixels of another shape.
            GenerationFailedError: the network overflowed.
        """
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise InvalidInputError(f"pixels have shape {pixels.shape}, need [H, W, 3] of uint8")
        side = default_tile_side() if tile_side is None else tile_side
        file, network, (height, width) = self.file, self._network, pixels.shape[:2]
        rest = [(0, -height % file.unshuffle), (0, -width % file.unshuffle), (0, 0)]
        x = fold_patches(mx.array(np.pad(pixels, rest, mode="edge"))[None], file.unshuffle)
        x = x.astype(self._dtype) / 255
        middle, end = (
            list(tiles(*x.shape[1:3], side=max(side // file.unshuffle, 3 * reach), overlap=reach))
            for reach in (file.stage_reach, file.end_reach)
        )
        numbers = itertools.count()
        total = len(network.stages) * len(middle) + len(end)

        def begin_tile() -> None:
            if on_tile is not None:
                on_tile(next(numbers), total)

        y = x
        for stage in network.stages:
            y = _in_tiles(stage, y, middle, begin_tile)
        times = file.scale * file.unshuffle
        result = np.empty((x.shape[1] * times, x.shape[2] * times, 3), np.uint8)
        for tile in end:
            begin_tile()
            _paste(self._enlarge(network.join(tile.cut(x), tile.cut(y)), times), tile, times, into=result)
            mx.clear_cache()
        return result[: height * file.scale, : width * file.scale]

    def release(self) -> None:
        """Drops the weights; the next picture reads them again."""
        self._component.release()

    @property
    def _network(self) -> Any:
        return self._component.network

    def _enlarge(self, features: mx.array, times: int) -> Pixels:
        """One tile: features [1, h, w, C] -> pixels, uint8."""
        height, width = features.shape[1:3]
        is_whole = self.file.architecture == "compact"
        side, overlap = (max(height, width), 0) if is_whole else (END_SIDE, _PART_OVERLAP)
        values = np.empty((height * times, width * times, 3), np.float32)
        for part in tiles(height, width, side=side, overlap=overlap):
            pixels = np.array(self._network.reconstruct(part.cut(features)).astype(mx.float32))[0]
            _paste(pixels, part, times, into=values)
        if not np.isfinite(values).all():
            raise GenerationFailedError(
                f"the upscaler {self.file.path.name} produced values that are not numbers",
                hint="use another upscaler",
            )
        return np.asarray(np.round(values.clip(0, 1) * 255), np.uint8)

    def _convert(self, tensors: object) -> Tensors:
        stored: Tensors = dict(tensors)  # type: ignore[call-overload]
        used = {path: stored.pop(name) for path, name in self.file.names.items()}
        return kernels_last(used)


def _in_tiles(
    stage: Callable[[mx.array], mx.array], x: mx.array, pieces: Sequence[Tile], begin_tile: Callable[[], None]
) -> mx.array:
    """A stage of the network over a whole feature map [1, h, w, C], with the memory of a tile."""
    result = mx.array(0.0)
    for index, tile in enumerate(pieces):
        begin_tile()
        (top, bottom, left, right), _ = tile.window
        piece = stage(tile.cut(x))[:, top:bottom, left:right]
        if len(pieces) == 1:
            return piece
        if index == 0:
            result = mx.zeros((*x.shape[:3], piece.shape[-1]), piece.dtype)
        top, bottom, left, right = tile.core
        result[:, top:bottom, left:right] = piece
        mx.eval(result)
        mx.clear_cache()
    return result


def _paste(enlarged: NDArray[Any], tile: Tile, times: int, *, into: NDArray[Any]) -> None:
    """The core of an enlarged tile to its place."""
    top, bottom, left, right = (n * times for n in tile.core)
    y, x = top - tile.padded[0] * times, left - tile.padded[2] * times
    into[top:bottom, left:right] = enlarged[y : y + bottom - top, x : x + right - left]


def load_upscaler(path: str | Path, *, dtype: str | mx.Dtype | None = None) -> Upscaler:
    """Opens an upscaler's safetensors file; see `Upscaler` and `read_upscaler` for the errors."""
    return Upscaler(read_upscaler(path), dtype=dtype)
