"""T2I-Adapter (Mou et al. 2023): features of a picture, made once, which are added on a UNet's way down.

Parameter paths are those of diffusers' `T2IAdapter`, without the leading `adapter`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.models.layers import Conv2d
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import fold_patches

FULL, FULL_XL, LIGHT = "full_adapter", "full_adapter_xl", "light_adapter"
_MAX_CHANNELS, _MAX_BLOCKS, _MAX_PATCH = 8192, 16, 64
_LUMA = np.array((19595, 38470, 7471), np.uint32)  # of 65536, as Pillow makes shades of gray


@dataclass(frozen=True)
class T2IAdapterConfig:
    """The fields of `config.json`.

    Attributes:
        kind: "full_adapter", "full_adapter_xl" or "light_adapter".
        in_channels: of the picture: 3, or 1 for shades of gray.
        channels: of the blocks.
        layers: residual blocks in each of them.
        patch: side of the patches of pixels that the first layer takes as one.
    """

    kind: str = FULL
    in_channels: int = 3
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers: int = 2
    patch: int = 8

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> T2IAdapterConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: another kind of adapter, or sizes that make no sense.
        """
        own = cls(
            config.get("adapter_type", FULL),
            config.get("in_channels", 3),
            tuple(config.get("channels") or (320, 640, 1280, 1280)),
            config.get("num_res_blocks", 2),
            config.get("downscale_factor", 8),
        )
        limits = [
            (own.layers, _MAX_BLOCKS),
            (own.patch, _MAX_PATCH),
            (len(own.channels), _MAX_BLOCKS),
            *((width, _MAX_CHANNELS) for width in own.channels),
        ]
        is_sane = all(type(value) is int and 0 < value <= limit for value, limit in limits)
        if own.kind not in (FULL, FULL_XL, LIGHT) or own.in_channels not in (1, 3) or not is_sane:
            raise UnsupportedModelError(
                f"this T2I-Adapter is of a kind that the local engine cannot run ({own.kind!r:.40})",
                hint="use a full_adapter, full_adapter_xl or light_adapter for pictures in color or gray",
            )
        return own

    @property
    def blocks(self) -> list[tuple[int, int, bool]]:
        """Of each block: its input's channels, its output's, and whether it halves the size first."""
        widths = self.channels
        if self.kind == LIGHT:
            inputs = (self.in_channels * self.patch**2, *widths)
            return [(a, b, i > 0) for i, (a, b) in enumerate(zip(inputs, (*widths, widths[-1]), strict=True))]
        inputs = (widths[0], *widths[:-1])
        pairs = enumerate(zip(inputs, widths, strict=True))
        if self.kind == FULL:
            return [(a, b, i > 0) for i, (a, b) in pairs]
        return [(a if i in (1, 2) else b, b, i == 2) for i, (a, b) in pairs]

    def features(self) -> list[tuple[int, int]]:
        """Channels and pixels per feature of what each block gives."""
        result, step = [], self.patch
        for _, width, halves in self.blocks:
            step *= 2 if halves else 1
            result.append((width, step))
        return result


def unet_features(config: UNetConfig, *, vae_scale: int) -> list[tuple[int, int]]:
    """Channels and pixels per feature of the places where a UNet takes an adapter's features, in order."""
    result, levels = [], len(config.block_out_channels)
    for index, width in enumerate(config.block_out_channels):
        has_attention = config.down_block_types[index].startswith("CrossAttn")
        depth = index if has_attention or index == levels - 1 else index + 1
        result.append((width, vae_scale << depth))
    return [*result, (config.block_out_channels[-1], vae_scale << (levels - 1))]


class _ResidualBlock(nn.Module):  # type: ignore[misc]
    def __init__(self, channels: int, *, kernel_size: int) -> None:
        super().__init__()
        self.block1 = Conv2d(channels, channels)
        self.block2 = Conv2d(channels, channels, kernel_size=kernel_size, padding=kernel_size // 2)

    def __call__(self, x: mx.array) -> mx.array:
        return x + self.block2(mx.maximum(self.block1(x), 0))


class _Block(nn.Module):  # type: ignore[misc]
    """[1, h, w, inputs] -> [1, h', w', outputs]; light ones compute with a quarter of the channels."""

    def __init__(self, inputs: int, outputs: int, *, halves: bool, layers: int, is_light: bool) -> None:
        super().__init__()
        self.halves, width = halves, outputs // 4 if is_light else outputs
        if is_light or inputs != outputs:
            self.in_conv = Conv2d(inputs, width, kernel_size=1, padding=0)
        self.resnets = [_ResidualBlock(width, kernel_size=3 if is_light else 1) for _ in range(layers)]
        if is_light:
            self.out_conv = Conv2d(width, outputs, kernel_size=1, padding=0)

    def __call__(self, x: mx.array) -> mx.array:
        if self.halves:
            x = _halved(x)
        if "in_conv" in self:
            x = self.in_conv(x)
        for block in self.resnets:
            x = block(x)
        return self.out_conv(x) if "out_conv" in self else x


class T2IAdapter(nn.Module):  # type: ignore[misc]
    """A picture -> what is added to a UNet's feature maps at each of its steps."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config, is_light = config, config.kind == LIGHT
        if not is_light:
            self.conv_in = Conv2d(config.in_channels * config.patch**2, config.channels[0])
        self.body = [
            _Block(inputs, outputs, halves=halves, layers=config.layers, is_light=is_light)
            for inputs, outputs, halves in config.blocks
        ]

    def __call__(self, pixels: np.ndarray) -> list[mx.array]:
        """Features [1, h, w, C], one for each block, of a picture [H, W, 3], uint8.

        Its edge is repeated where a side is no multiple of the patches.
        """
        patch = self.config.patch
        if self.config.in_channels == 1:
            pixels = ((pixels @ _LUMA + 0x8000) >> 16).astype(np.uint8)[..., None]
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, [(0, -height % patch), (0, -width % patch), (0, 0)], mode="edge")
        values = mx.array(pixels[None].astype(np.float32) / 255.0)
        x = fold_patches(values.astype(self.body[0].resnets[0].block1.weight.dtype), patch)
        if "conv_in" in self:
            x = self.conv_in(x)
        features = []
        for block in self.body:
            x = block(x)
            features.append(x)
        return features


def _halved(x: mx.array) -> mx.array:
    """The means of 2x2 pixels; at an odd edge, of those that are there."""
    x = mx.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)], mode="edge")
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
