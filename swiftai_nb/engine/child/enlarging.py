"""Larger pictures: the upscaler that stays loaded, the picture enlarged by it, and the hires pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swiftai_nb.core.enlargement import lanczos, network_inputs
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.engine.child.run import GenerationRun, Pixels
from swiftai_nb.engine.messages import Generate

if TYPE_CHECKING:
    from swiftai_nb.diffusion.upscaling import Upscaler


class Enlarger:
    """Enlarges pictures, with the last upscaler kept open."""

    def __init__(self) -> None:
        self._upscaler: tuple[tuple[Any, ...], Upscaler] | None = None

    def enlarge(
        self, pixels: Pixels, size: tuple[int, int], *, file: str | None, run: GenerationRun
    ) -> Pixels:
        """A picture at another size.

        The network runs as often as its scale demands, then Lanczos' filter gives the exact size.

        Args:
            pixels: [H, W, 3], uint8.
            size: (width, height).
            file: of the upscaler; None is Lanczos' filter alone.
            run: gets a stage for each tile, and is asked whether it was cancelled.

        Raises:
            AIError: the upscaler cannot be used.
        """
        from PIL import Image

        run.enter_stage(GenerationStage.UPSCALING)
        if file is not None:
            upscaler = self._open(file)
            height, width = pixels.shape[:2]
            for _ in network_inputs((width, height), size, upscaler.scale):
                pixels = upscaler.upscale(
                    pixels,
                    on_tile=lambda index, count: run.enter_stage(
                        GenerationStage.UPSCALING, detail=f"tile {index + 1} of {count}"
                    ),
                )
        return np.asarray(lanczos(Image.fromarray(pixels), size))

    def release(self) -> None:
        """Drops the upscaler's weights."""
        self._upscaler = None

    def _open(self, file: str) -> Upscaler:
        from swiftai_nb.diffusion.upscaling import load_upscaler

        stat = Path(file).stat()
        key = (file, stat.st_size, stat.st_mtime_ns)
        if self._upscaler is None or self._upscaler[0] != key:
            self._upscaler = None
            self._upscaler = (key, load_upscaler(file))
        return self._upscaler[1]


def hires_pass(command: Generate) -> Generate:
    """The second pass of a command: larger, and from the first picture."""
    return replace(
        command,
        width=command.hires_width,
        height=command.hires_height,
        steps=command.hires_steps,
        strength=command.hires_strength,
    )
