"""The autoencoder between pictures and latents (AutoencoderKL of Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import (
    Conv2d,
    GroupNorm,
    Linear,
    upsample_nearest,
)
from swiftai_nb.diffusion.models.unet_blocks import Resampler, ResnetBlock

_EPS = 1e-6
_QUERIES_AT_ONCE = 4096


@dataclass(frozen=True)
class VAEConfig:
    """The fields of an autoencoder's `config.json` that shape the network."""

    block_out_channels: tuple[int, ...] = (64,)
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    layers_per_block: int = 1
    norm_num_groups: int = 32
    sample_size: int | None = None
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    force_upcast: bool = True
    mid_block_add_attention: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True

    @property
    def scale(self) -> int:
        """Pixels per latent in each direction."""
        return 1 << (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VAEConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: another kind of autoencoder.
        """
        kind = config.get("_class_name", "AutoencoderKL")
        blocks = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
        if kind != "AutoencoderKL" or not blocks <= {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
            raise UnsupportedModelError(f"the autoencoder is a {kind} with {sorted(blocks)}: not supported")
        if config.get("act_fn", "silu") not in ("silu", "swish"):
            raise UnsupportedModelError(f"autoencoder activation {config['act_fn']!r} is not supported")
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise UnsupportedModelError("autoencoders with latents_mean or latents_std are not supported")
        fields = {k: config[k] for k in cls.__dataclass_fields__ if config.get(k) is not None}
        if "block_out_channels" in fields:
            fields["block_out_channels"] = tuple(fields["block_out_channels"])
        return cls(**fields)


class PixelAttention(nn.Module):  # type: ignore[misc]
    """Single-head self-attention over the pixels of [B, h, w, C], residual."""

    def __init__(self, channels: int, *, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps=_EPS)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = [Linear(channels, channels)]

    def __call__(self, x: mx.array) -> mx.array:
        batch, height, width, channels = x.shape
        h = self.group_norm(x).reshape(batch, height * width, channels)
        out = self._attend(self.to_q(h), self.to_k(h), self.to_v(h))
        return ops.checkpoint(ops.add_into(self.to_out[0](out).reshape(x.shape), x))

    def _attend(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """Some queries at a time: the scores of all would take (h w)^2 numbers."""
        pieces = []
        for start in range(0, q.shape[1], _QUERIES_AT_ONCE):
            piece = ops.multi_head_attention(q[:, start : start + _QUERIES_AT_ONCE], k, v, heads=1)
            if q.shape[1] > _QUERIES_AT_ONCE:
                mx.eval(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=1)


class VAEMidBlock(nn.Module):  # type: ignore[misc]
    """Resnet, attention (where the config has it), resnet."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        self.resnets = [_resnet(config, channels, channels) for _ in range(2)]
        if config.mid_block_add_attention:
            self.attentions = [PixelAttention(channels, groups=config.norm_num_groups)]

    def __call__(self, x: mx.array) -> mx.array:
        x = self.resnets[0](x)
        if "attentions" in self:
            x = self.attentions[0](x)
        return self.resnets[1](x)


class VAEBlock(nn.Module):  # type: ignore[misc]
    """Resnets at one resolution and, by key name, a down- or upsampler after them."""

    def __init__(
        self, config: VAEConfig, in_channels: int, out_channels: int, *, layers: int, sampler: str | None
    ) -> None:
        super().__init__()
        self.resnets = [
            _resnet(config, in_channels if j == 0 else out_channels, out_channels) for j in range(layers)
        ]
        if sampler == "downsamplers":
            self.downsamplers = [Resampler(out_channels, stride=2, padding=0)]
        elif sampler == "upsamplers":
            self.upsamplers = [Resampler(out_channels)]

    def __call__(self, x: mx.array) -> mx.array:
        for resnet in self.resnets:
            x = resnet(x)
        if "downsamplers" in self:
            # The encoder pads right and bottom only.
            x = self.downsamplers[0].conv(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]))
        if "upsamplers" in self:
            x = ops.checkpoint(self.upsamplers[0].conv(upsample_nearest(x)))
        return x


class Encoder(nn.Module):  # type: ignore[misc]
    """Pixels [B, H, W, 3] -> mean and log variance [B, h, w, 2 C]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, n = config.block_out_channels, len(config.block_out_channels)
        self.conv_in = Conv2d(config.in_channels, channels[0])
        self.down_blocks = [
            VAEBlock(
                config,
                channels[max(i - 1, 0)],
                channels[i],
                layers=config.layers_per_block,
                sampler="downsamplers" if i < n - 1 else None,
            )
            for i in range(n)
        ]
        self.mid_block = VAEMidBlock(config)
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[-1], eps=_EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(self.mid_block(x), apply_silu=True))


class Decoder(nn.Module):  # type: ignore[misc]
    """Latents [B, h, w, C] -> pixels [B, H, W, 3]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, n = config.block_out_channels[::-1], len(config.block_out_channels)
        self.conv_in = Conv2d(config.latent_channels, channels[0])
        self.mid_block = VAEMidBlock(config)
        self.up_blocks = [
            VAEBlock(
                config,
                channels[max(i - 1, 0)],
                channels[i],
                layers=config.layers_per_block + 1,
                sampler="upsamplers" if i < n - 1 else None,
            )
            for i in range(n)
        ]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[-1], eps=_EPS)
        self.conv_out = Conv2d(channels[-1], config.out_channels)

    def __call__(self, latents: mx.array) -> mx.array:
        return self.up(self.middle(latents))

    def middle(self, latents: mx.array) -> mx.array:
        """The part at the latents' resolution, which sees the whole picture: [B, h, w, D]."""
        return self.mid_block(self.conv_in(latents))

    def up(self, x: mx.array) -> mx.array:
        """The rest, which sees only a neighborhood: [B, h, w, D] -> [B, H, W, 3]."""
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x, apply_silu=True))


class Autoencoder(nn.Module):  # type: ignore[misc]
    """Encoder, decoder and the 1x1 maps around the latents, in latents as the denoiser sees them."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        if config.use_quant_conv:
            self.quant_conv = Conv2d(2 * c, 2 * c, kernel_size=1, padding=0)
        if config.use_post_quant_conv:
            self.post_quant_conv = Conv2d(c, c, kernel_size=1, padding=0)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype of the weights."""
        return self.decoder.conv_in.weight.dtype

    def encode_moments(self, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """Pixels [B, H, W, 3] in [-1, 1] -> mean and standard deviation, each [B, h, w, C], unscaled."""
        moments = self.encoder(pixels.astype(self.dtype))
        moments = self.quant_conv(moments) if "quant_conv" in self else moments
        mean, log_variance = mx.split(moments.astype(mx.float32), 2, axis=-1)
        return mean, mx.exp(0.5 * mx.clip(log_variance, -30.0, 20.0))

    def scale_latents(self, z: mx.array) -> mx.array:
        """Encoder's latents -> the denoiser's."""
        shift = self.config.shift_factor
        return (z if shift is None else z - shift) * self.config.scaling_factor

    def decode(self, latents: mx.array) -> mx.array:
        """Latents [B, h, w, C] as the denoiser sees them -> pixels [B, H, W, 3] in about [-1, 1]."""
        return self.decode_up(self.decode_middle(latents))

    def decode_middle(self, latents: mx.array) -> mx.array:
        """The part of `decode` that sees the whole picture: [B, h, w, D]."""
        z = latents.astype(mx.float32) / self.config.scaling_factor
        z = z if self.config.shift_factor is None else z + self.config.shift_factor
        z = z.astype(self.dtype)
        z = self.post_quant_conv(z) if "post_quant_conv" in self else z
        return self.decoder.middle(z)

    def decode_up(self, x: mx.array) -> mx.array:
        """The rest of `decode`, which sees only a neighborhood: [B, h, w, D] -> [B, H, W, 3]."""
        return self.decoder.up(x).astype(mx.float32)


def _resnet(config: VAEConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(in_channels, out_channels, time_width=None, groups=config.norm_num_groups, eps=_EPS)
