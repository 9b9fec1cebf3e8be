"""Tiny autoencoder decoders (TAESD by O. Bohan): latents to pixels in a few milliseconds, for previews."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import Conv2d, NoParameters, upsample_nearest

WIDTH = 64
BLOCKS_PER_STAGE = (3, 3, 3, 1)


def _relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


class TinyBlock(nn.Module):  # type: ignore[misc]
    """relu(conv(relu(conv(relu(conv(x))))) + x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Odd places are activations: the files count them.
        self.conv = [Conv2d(channels, channels) if i % 2 == 0 else NoParameters() for i in range(5)]

    def __call__(self, x: mx.array) -> mx.array:
        y = _relu(self.conv[0](x))
        y = _relu(self.conv[2](y))
        return _relu(self.conv[4](y) + x)


class Upsample(NoParameters):
    """Nearest-neighbor, by two."""

    def __call__(self, x: mx.array) -> mx.array:
        return ops.checkpoint(upsample_nearest(x))


class Relu(NoParameters):
    """max(x, 0)."""

    def __call__(self, x: mx.array) -> mx.array:
        return _relu(x)


class TinyDecoder(nn.Module):  # type: ignore[misc]
    """Latents [B, h, w, C] -> pixels [B, 8 h, 8 w, 3] in about 0..1.

    Latents are taken as the denoiser sees them, not divided by the big autoencoder's scaling factor.

    Args:
        latent_channels: 4 for Stable Diffusion, 16 for FLUX.
        blocks: residual blocks before each upsampling, and before the last convolution.
    """

    def __init__(self, latent_channels: int, *, blocks: Sequence[int] = BLOCKS_PER_STAGE) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.scale = 2 ** (len(blocks) - 1)
        layers: list[nn.Module] = [Conv2d(latent_channels, WIDTH), Relu()]
        for count in blocks[:-1]:
            layers += [TinyBlock(WIDTH) for _ in range(count)]
            layers += [Upsample(), Conv2d(WIDTH, WIDTH, bias=False)]
        layers += [*(TinyBlock(WIDTH) for _ in range(blocks[-1])), Conv2d(WIDTH, 3)]
        self.layers = layers

    def __call__(self, latents: mx.array) -> mx.array:
        x = mx.tanh(latents / 3) * 3
        for layer in self.layers:
            x = layer(x)
        return x
