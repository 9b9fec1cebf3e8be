"""ControlNet (Zhang et al. 2023): a copy of a UNet's way down, which adds to the UNet's skips.

Parameter paths are those of diffusers' `ControlNetModel`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import Conv2d
from swiftai_nb.diffusion.models.unet import UNetEncoder
from swiftai_nb.diffusion.models.unet_config import UNetConfig


@dataclass(frozen=True)
class ControlNetConfig:
    """The fields of a ControlNet's `config.json` that shape it.

    Attributes:
        unet: of the UNet whose way down it copies.
        conditioning_channels: of the picture.
        embedding_channels: of the layers that bring the picture to the latents' size.
        is_bgr: whether the picture's colors are read in the order blue, green, red.
        pools_conditions: whether what it adds is averaged over the picture ("shuffle" ControlNets).
    """

    unet: UNetConfig
    conditioning_channels: int = 3
    embedding_channels: tuple[int, ...] = (16, 32, 96, 256)
    is_bgr: bool = False
    pools_conditions: bool = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ControlNetConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: a field asks for something this engine lacks; names it.
            InvalidModelFilesError: lists of different lengths.
        """
        kind = config.get("_class_name", "ControlNetModel")
        if kind != "ControlNetModel":
            raise UnsupportedModelError(
                f"this ControlNet is a {kind}, which the local engine cannot run",
                hint="use a ControlNetModel of Stable Diffusion or SDXL",
            )
        levels = len(config.get("block_out_channels", (320, 640, 1280, 1280)))
        unet = UNetConfig.from_dict({**config, "up_block_types": ["UpBlock2D"] * levels})
        return cls(
            unet,
            conditioning_channels=config.get("conditioning_channels") or 3,
            embedding_channels=tuple(config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)),
            is_bgr=config.get("controlnet_conditioning_channel_order") == "bgr",
            pools_conditions=bool(config.get("global_pool_conditions")),
        )


class ConditioningEmbedding(nn.Module):  # type: ignore[misc]
    """From a picture [B, H, W, 3] in 0..1 to [B, h, w, width]: every other convolution halves the size."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        channels, width = config.embedding_channels, config.unet.block_out_channels[0]
        self.conv_in = Conv2d(config.conditioning_channels, channels[0])
        self.blocks = [
            layer
            for before, after in itertools.pairwise(channels)
            for layer in (Conv2d(before, before), Conv2d(before, after, stride=2))
        ]
        self.conv_out = Conv2d(channels[-1], width)

    def __call__(self, picture: mx.array) -> mx.array:
        x = ops.silu(self.conv_in(picture))
        for block in self.blocks:
            x = ops.silu(block(x))
        return self.conv_out(x)


class ControlNet(UNetEncoder):
    """What to add to a UNet's skips and middle so that its picture follows another one."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__(config.unet)
        self.control_config = config
        channels, layers = config.unet.block_out_channels, config.unet.layers_per_block
        self.controlnet_cond_embedding = ConditioningEmbedding(config)
        widths = [channels[0]]
        for index, width in enumerate(channels):
            is_last = index == len(channels) - 1
            widths += [width] * (layers[index] + (not is_last))
        self.controlnet_down_blocks = [_one_by_one(width) for width in widths]
        self.controlnet_mid_block = _one_by_one(channels[-1])

    def embed_picture(self, pixels: np.ndarray) -> mx.array:
        """A picture [H, W, 3], uint8, as the network adds it to its input: [1, h, w, width].

        It is the same at every step.
        """
        if self.control_config.is_bgr:
            pixels = pixels[..., ::-1]
        values = mx.array(pixels[None].astype(np.float32) / 255.0)
        return self.controlnet_cond_embedding(values.astype(self.conv_in.weight.dtype))

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array,
        encoder_hidden_states: mx.array,
        *,
        picture: mx.array,
        scales: Sequence[float],
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
    ) -> list[mx.array]:
        """One network call.

        Args:
            sample: [B, h, w, C], already scaled by the scheduler.
            timestep: [B], in 0..999, float32.
            encoder_hidden_states: [B, L, D].
            picture: from `embed_picture`.
            scales: of each residual.
            text_embeds: [B, P], pooled text of SDXL.
            time_ids: [B, 6], the sizes of SDXL.

        Returns:
            what is added to each of the UNet's skips, and last to its middle.
        """
        dtype = self.conv_in.weight.dtype
        context = encoder_hidden_states.astype(dtype)
        emb = self.embed(timestep, context, text_embeds=text_embeds, time_ids=time_ids)
        x, skips = self.encode(self.conv_in(sample.astype(dtype)) + picture, emb, context)
        convolutions = (*self.controlnet_down_blocks, self.controlnet_mid_block)
        values = zip(convolutions, (*skips, x), scales, strict=True)
        residuals = [convolution(value) * scale for convolution, value, scale in values]
        if self.control_config.pools_conditions:
            residuals = [mx.mean(residual, axis=(1, 2), keepdims=True) for residual in residuals]
        return residuals

    def residual_scales(self, scale: float, *, is_guess: bool) -> list[float]:
        """One scale for each residual: all the same, or from a tenth to all of it, the deeper the stronger.

        Args:
            scale: of the control.
            is_guess: whether the picture alone shall be followed, with a weak prompt or none.
        """
        count = len(self.controlnet_down_blocks) + 1
        if not is_guess or self.control_config.pools_conditions:
            return [scale] * count
        return [float(share * scale) for share in np.logspace(-1, 0, count)]


def _one_by_one(channels: int) -> Conv2d:
    return Conv2d(channels, channels, kernel_size=1, padding=0)
