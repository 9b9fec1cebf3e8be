"""Cheap previews: a linear map from latents to RGB, never the full autoencoder per step."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError


@dataclass(frozen=True)
class LinearPreview:
    """rgb = latents @ factors + bias, in about [-1, 1].

    Attributes:
        factors: C rows of (r, g, b).
        bias: (r, g, b).
    """

    factors: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __call__(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latents [B, h, w, C], as the denoiser sees them -> pixels [B, h, w, 3], uint8."""
        rgb = np.asarray(latents, dtype=np.float32) @ np.asarray(self.factors, dtype=np.float32)
        return to_uint8(rgb + np.asarray(self.bias, dtype=np.float32))


def to_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[-1, 1] -> 0..255, rounded; not-a-number becomes 0."""
    scaled = np.nan_to_num(values, nan=-1.0, posinf=1.0, neginf=-1.0) * 0.5 + 0.5
    return np.asarray(np.round(np.clip(scaled, 0.0, 1.0) * 255), dtype=np.uint8)


# Fitted by the ComfyUI project for the published autoencoders.
SD_PREVIEW = LinearPreview(
    (
        (0.3512, 0.2297, 0.3227),
        (0.3250, 0.4974, 0.2350),
        (-0.2829, 0.1762, 0.2721),
        (-0.2120, -0.2616, -0.7177),
    )
)
SDXL_PREVIEW = LinearPreview(
    (
        (0.3651, 0.4232, 0.4341),
        (-0.2533, -0.0042, 0.1068),
        (0.1076, 0.1111, -0.0362),
        (-0.3165, -0.2492, -0.2188),
    ),
    (0.1084, -0.0175, -0.0011),
)


def fit_preview(
    decode: Callable[[NDArray[np.float32]], NDArray[np.uint8]], *, channels: int, scale: int, size: int = 16
) -> LinearPreview:
    """Least-squares map for an autoencoder of which nothing is published.

    Decodes a few smooth latents of unit variance once and finds the map from latents to the mean
    colour of the pixels under each. Decoding keeps to what the autoencoder was trained for; encoding
    made-up colour patches instead misses a narrowly trained one's colours by twice as much.

    Args:
        decode: latents [B, h, w, C] -> pixels [B, H, W, 3], uint8.
        channels: C.
        scale: pixels per latent.
        size: h and w.
    """
    latents = _smooth_latents(size, channels)
    pixels = decode(latents)
    b, h, w, _ = latents.shape
    means = pixels.reshape(b, h, scale, w, scale, 3).mean(axis=(2, 4)).reshape(-1, 3) / 127.5 - 1
    columns = np.concatenate([latents.reshape(-1, channels), np.ones((b * h * w, 1), np.float32)], axis=1)
    solution = np.linalg.lstsq(columns, means, rcond=None)[0]
    rows = [tuple(float(v) for v in row) for row in solution]
    return LinearPreview(tuple(rows[:-1]), rows[-1])


def _smooth_latents(side: int, channels: int, *, pictures: int = 4, knots: int = 4) -> NDArray[np.float32]:
    """[pictures, side, side, channels]: bilinear between `knots` x `knots` standard normal values."""
    generator = np.random.Generator(np.random.Philox(0))
    values = generator.standard_normal((pictures, knots, knots, channels)).astype(np.float32)
    at = np.linspace(0, knots - 1, side, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(knots, dtype=np.float32)))
    return np.asarray(np.einsum("yk,xl,bklc->byxc", weights, weights, values), dtype=np.float32)


def read_preview(folder: Path, channels: int) -> LinearPreview | None:
    """The map in `<folder>/preview.json` ({"factors": [[r, g, b], ...], "bias": [r, g, b]}), or None.

    Raises:
        InvalidModelFilesError: the file is there and not of that form.
    """
    path = folder / "preview.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        factors = tuple(_triple(row) for row in data["factors"])
        bias = _triple(data.get("bias", (0.0, 0.0, 0.0)))
    except (ValueError, KeyError, TypeError):
        raise InvalidModelFilesError(f"{path} needs factors, C rows of 3 numbers, and a bias of 3") from None
    if len(factors) != channels:
        raise InvalidModelFilesError(f"{path} has {len(factors)} factors for {channels} latent channels")
    return LinearPreview(factors, bias)


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in values)
    return r, g, b
