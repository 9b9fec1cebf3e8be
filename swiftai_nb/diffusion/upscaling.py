"""Enlarging pictures by a network of the Real-ESRGAN family, in tiles that overlap.

A tile is enlarged with a margin of its surroundings, and its core is kept. What lies beyond the margin
changes a pixel by no more than one step of 8 bits, although RRDBNet's convolutions reach further.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import GenerationFailedError, InvalidInputError
from swiftai_nb.core.machine import MemoryPolicy
from swiftai_nb.diffusion.models.esrgan import RRDBNet, SRVGGNetCompact
from swiftai_nb.diffusion.models.vae import fold_patches
from swiftai_nb.diffusion.tiled_decoding import tiles
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.precision import resolve_dtype
from swiftai_nb.diffusion.weights.tensors import Tensors, TensorSource, kernels_last
from swiftai_nb.model_files.upscalers import UpscalerFile, read_upscaler

Pixels = NDArray[np.uint8]
OnTile = Callable[[int, int], None]
_LARGEST_OVERLAP = 24


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
        patch, (height, width) = self.file.unshuffle, pixels.shape[:2]
        rest = [(0, -height % patch), (0, -width % patch), (0, 0)]
        x = fold_patches(mx.array(np.pad(pixels, rest, mode="edge"))[None], patch)
        overlap = -(-min(self.file.reach, _LARGEST_OVERLAP) // patch)
        pieces = list(tiles(*x.shape[1:3], side=max(side // patch, 3 * overlap), overlap=overlap))
        times = self.scale * patch
        result = np.empty((x.shape[1] * times, x.shape[2] * times, 3), np.uint8)
        for index, tile in enumerate(pieces):
            if on_tile is not None:
                on_tile(index, len(pieces))
            enlarged = self._enlarge(tile.cut(x))
            top, bottom, left, right = (n * times for n in tile.core)
            y, z = top - tile.padded[0] * times, left - tile.padded[2] * times
            result[top:bottom, left:right] = enlarged[y : y + bottom - top, z : z + right - left]
            mx.clear_cache()
        return result[: height * self.scale, : width * self.scale]

    def release(self) -> None:
        """Drops the weights; the next picture reads them again."""
        self._component.release()

    def _enlarge(self, patches: mx.array) -> Pixels:
        """One tile: patches [1, h, w, 3 p^2], uint8 -> pixels, uint8."""
        values = np.array(self._component.network(patches.astype(self._dtype) / 255).astype(mx.float32))[0]
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


def load_upscaler(path: str | Path, *, dtype: str | mx.Dtype | None = None) -> Upscaler:
    """Opens an upscaler's safetensors file; see `Upscaler` and `read_upscaler` for the errors."""
    return Upscaler(read_upscaler(path), dtype=dtype)


def default_tile_side() -> int:
    """Side of a tile in pixels of the input, by the machine's memory: 256 to 512."""
    return MemoryPolicy.for_machine().decode_side // 2
