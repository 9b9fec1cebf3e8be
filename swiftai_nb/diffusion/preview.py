"""Cheap previews: a linear map from latents to RGB, never the full autoencoder per step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.json_file import parse_json


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
FLUX_PREVIEW = LinearPreview(
    (
        (-0.0346, 0.0244, 0.0681),
        (0.0034, 0.0210, 0.0687),
        (0.0275, -0.0668, -0.0433),
        (-0.0174, 0.0160, 0.0617),
        (0.0859, 0.0721, 0.0329),
        (0.0004, 0.0383, 0.0115),
        (0.0405, 0.0861, 0.0915),
        (-0.0236, -0.0185, -0.0259),
        (-0.0245, 0.0250, 0.1180),
        (0.1008, 0.0755, -0.0421),
        (-0.0515, 0.0201, 0.0011),
        (0.0428, -0.0012, -0.0036),
        (0.0817, 0.0765, 0.0749),
        (-0.1264, -0.0522, -0.1103),
        (-0.0280, -0.0881, -0.0499),
        (-0.1262, -0.0982, -0.0778),
    ),
    (-0.0329, -0.0718, -0.0851),
)
SD3_PREVIEW = LinearPreview(
    (
        (-0.0922, -0.0175, 0.0749),
        (0.0311, 0.0633, 0.0954),
        (0.1994, 0.0927, 0.0458),
        (0.0856, 0.0339, 0.0902),
        (0.0587, 0.0272, -0.0496),
        (-0.0006, 0.1104, 0.0309),
        (0.0978, 0.0306, 0.0427),
        (-0.0042, 0.1038, 0.1358),
        (-0.0194, 0.0020, 0.0669),
        (-0.0488, 0.0130, -0.0268),
        (0.0922, 0.0988, 0.0951),
        (-0.0278, 0.0524, -0.0542),
        (0.0332, 0.0456, 0.0895),
        (-0.0069, -0.0030, -0.0810),
        (-0.0596, -0.0465, -0.0293),
        (-0.1448, -0.1463, -0.1189),
    ),
    (0.2394, 0.2135, 0.1925),
)


def fit_preview(
    decode: Callable[[NDArray[np.float32]], NDArray[np.uint8]],
    *,
    channels: int,
    scale: int,
    size: int | None = None,
) -> LinearPreview:
    """Least-squares map for an autoencoder of which nothing is published.

    Decodes a few smooth latents of unit variance once and finds the map from latents to the mean
    color of the pixels under each. Decoding keeps to what the autoencoder was trained for; encoding
    made-up color patches instead misses a narrowly trained one's colors by twice as much.

    Args:
        decode: latents [B, h, w, C] -> pixels [B, H, W, 3], uint8.
        channels: C.
        scale: pixels per latent.
        size: h and w; None is what makes 128 pixels, and at least 8.
    """
    latents = _smooth_latents(max(8, 128 // scale) if size is None else size, channels)
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
        data = parse_json(path.read_text(encoding="utf-8"))
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
