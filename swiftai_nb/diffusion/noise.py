"""Noise drawn on the host, so that one seed starts from the same latents on Metal, CUDA and CPU.

The recipe, which other programs may repeat (NumPy's Philox, Salmon et al. 2011):

    start of image k:         Generator(Philox(seed + k)).standard_normal((h, w, C), dtype=float32)
    fresh noise, draw i:      Generator(Philox([seed + k, i + 1])).standard_normal((h, w, C), dtype=float32)

Image k of a batch is therefore image 0 of seed + k: it can be remade alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def start_noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Unit-normal start latents.

    Args:
        seed: of image 0; at least 0.
        shape: [B, h, w, C].

    Returns:
        float32 of that shape.
    """
    return np.stack([_draw(np.random.Philox(seed + k), shape[1:]) for k in range(shape[0])])


def step_noise(seed: int) -> Callable[[int, tuple[int, ...]], NDArray[np.float32]]:
    """The source of fresh noise of a run: (draw index, [B, h, w, C]) -> float32 of that shape."""

    def draw(index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        # Plus one: a trailing 0 would make the same stream as the seed alone.
        streams = (np.random.Philox([seed + k, index + 1]) for k in range(shape[0]))
        return np.stack([_draw(stream, shape[1:]) for stream in streams])

    return draw


def _draw(stream: np.random.Philox, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.Generator(stream).standard_normal(shape, dtype=np.float32)
