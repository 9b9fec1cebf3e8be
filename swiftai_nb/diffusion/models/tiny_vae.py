"""The tiny autoencoder (TAESD by O. Bohan; diffusers' `AutoencoderTiny`): no attention, no norms, fast."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion.models.layers import Conv2d
from swiftai_nb.diffusion.models.vae import VAEConfig
from swiftai_nb.diffusion.preview_decoder import WIDTH, TinyBlock, TinyDecoder

_BLOCKS = (1, 3, 3, 3)


class TinyEncoder(nn.Module):  # type: ignore[misc]
    """Pixels [B, H, W, 3] in 0..1 -> latents [B, H/8, W/8, C]."""

    def __init__(self, latent_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, count in enumerate(_BLOCKS):
            layers.append(Conv2d(3, WIDTH) if stage == 0 else Conv2d(WIDTH, WIDTH, stride=2, bias=False))
            layers += [TinyBlock(WIDTH) for _ in range(count)]
        self.layers = [*layers, Conv2d(WIDTH, latent_channels)]

    def __call__(self, pixels: mx.array) -> mx.array:
        """See the class."""
        for layer in self.layers:
            pixels = layer(pixels)
        return pixels


class TinyAutoencoder(nn.Module):  # type: ignore[misc]
    """Takes the place of `Autoencoder`; its latents are those the denoiser sees."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config.latent_channels)
        self.decoder = TinyDecoder(config.latent_channels)

    def encode_moments(self, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """Pixels [B, H, W, 3] in [-1, 1] -> latents [B, h, w, C], and their deviation, which is 0."""
        latents = self.encoder((pixels.astype(mx.float32) + 1.0) / 2.0)
        return latents, mx.zeros_like(latents)

    def scale_latents(self, z: mx.array) -> mx.array:
        """Nothing to do."""
        return z

    def decode(self, latents: mx.array) -> mx.array:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3] in about [-1, 1]."""
        return self.decoder(latents.astype(mx.float32)) * 2.0 - 1.0
