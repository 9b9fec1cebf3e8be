"""The autoencoder between pictures and latents (AutoencoderKL of Rombach et al. 2022), and FLUX.2's.

FLUX.2's (`AutoencoderKLFlux2`) folds each 2x2 patch of latents into channels and normalizes them by stored
batch statistics: its denoiser works on latents [B, H/16, W/16, 128].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import Conv2d, GroupNorm, Linear
from swiftai_nb.diffusion.models.unet_blocks import Resampler, ResnetBlock

_EPS = 1e-6
_FLUX_2 = "AutoencoderKLFlux2"
_TINY = "AutoencoderTiny"
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
    decoder_block_out_channels: tuple[int, ...] | None = None
    patch_size: int = 1
    batch_norm_eps: float | None = None
    is_tiny: bool = False

    @property
    def scale(self) -> int:
        """Pixels in each direction per latent of the decoder."""
        return 1 << (len(self.block_out_channels) - 1)

    @property
    def denoiser_scale(self) -> int:
        """Pixels in each direction per latent of the denoiser, which is a patch of the decoder's."""
        return self.scale * self.patch_size

    @property
    def denoiser_channels(self) -> int:
        """Channels of the denoiser's latents."""
        return self.latent_channels * self.patch_size**2

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the decoder's levels, which may be smaller than the encoder's."""
        given = self.decoder_block_out_channels
        return self.block_out_channels if given is None else given

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> VAEConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: another kind of autoencoder.
        """
        kind = config.get("_class_name", "AutoencoderKL")
        if kind == _TINY:
            return cls._tiny(config)
        blocks = {*config.get("down_block_types", ()), *config.get("up_block_types", ())}
        if kind not in ("AutoencoderKL", _FLUX_2) or not blocks <= {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
            raise UnsupportedModelError(f"the autoencoder is a {kind} with {sorted(blocks)}: not supported")
        if config.get("act_fn", "silu") not in ("silu", "swish"):
            raise UnsupportedModelError(f"autoencoder activation {config['act_fn']!r} is not supported")
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise UnsupportedModelError("autoencoders with latents_mean or latents_std are not supported")
        fields = {k: config[k] for k in cls.__dataclass_fields__ if config.get(k) is not None}
        for name in ("block_out_channels", "decoder_block_out_channels"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if kind == _FLUX_2:
            patch = tuple(config.get("patch_size") or (2, 2))
            if len(set(patch)) != 1:
                raise UnsupportedModelError(f"autoencoder patches of {patch} are not supported")
            defaults = {
                "block_out_channels": (128, 256, 512, 512),
                "layers_per_block": 2,
                "latent_channels": 32,
            }
            fields = {**defaults, "batch_norm_eps": 1e-4, **fields, "patch_size": int(patch[0])}
            fields |= {"scaling_factor": 1.0, "shift_factor": None}
        elif "patch_size" in fields or "batch_norm_eps" in fields:
            raise UnsupportedModelError("an AutoencoderKL with patches or batch statistics is not supported")
        return cls(**fields)

    @classmethod
    def _tiny(cls, config: Mapping[str, Any]) -> VAEConfig:
        fixed = {
            "encoder_block_out_channels": [64] * 4, "decoder_block_out_channels": [64] * 4, "act_fn": "relu",
            "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1], "scaling_factor": 1.0,
        }  # fmt: skip
        other = [name for name, value in fixed.items() if (config.get(name) or value) != value]
        if other:
            raise UnsupportedModelError(f"an {_TINY} with another {', '.join(other)} is not supported")
        return cls(
            (64,) * 4, latent_channels=int(config.get("latent_channels", 4)), scaling_factor=1.0, is_tiny=True
        )


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

    def __init__(self, config: VAEConfig, channels: int) -> None:
        super().__init__()
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

    def __call__(self, x: mx.array, *, reuse: bool = False) -> mx.array:
        """reuse: see `ResnetBlock`."""
        for resnet in self.resnets:
            x, reuse = resnet(x, reuse=reuse), True
        if "downsamplers" in self:
            # The encoder pads right and bottom only.
            x = self.downsamplers[0].conv(mx.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)]))
        if "upsamplers" in self:
            x = ops.checkpoint(self.upsamplers[0].conv(x, doubled=True))
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
        self.mid_block = VAEMidBlock(config, channels[-1])
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[-1], eps=_EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels)

    def __call__(self, pixels: mx.array) -> mx.array:
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(self.mid_block(x), norm=self.conv_norm_out)


class Decoder(nn.Module):  # type: ignore[misc]
    """Latents [B, h, w, C] -> pixels [B, H, W, 3]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, n = config.decoder_channels[::-1], len(config.decoder_channels)
        self.conv_in = Conv2d(config.latent_channels, channels[0])
        self.mid_block = VAEMidBlock(config, channels[0])
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
        for i, block in enumerate(self.up_blocks):
            x = block(x, reuse=i > 0)
        return self.conv_out(x, norm=self.conv_norm_out)


class BatchStatistics(nn.Module):  # type: ignore[misc]
    """The mean and variance of each channel over a training set, as files name them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean = mx.zeros((channels,))
        self.running_var = mx.ones((channels,))


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
        if config.batch_norm_eps is not None:
            self.bn = BatchStatistics(config.denoiser_channels)

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
        """Encoder's latents [B, h, w, C] -> the denoiser's."""
        shift = self.config.shift_factor
        z = (z if shift is None else z - shift) * self.config.scaling_factor
        z = fold_patches(z, self.config.patch_size)
        return z if self.config.batch_norm_eps is None else (z - self._mean()) / self._deviation()

    def unscale_latents(self, latents: mx.array) -> mx.array:
        """The inverse of `scale_latents`, float32."""
        z = latents.astype(mx.float32)
        if self.config.batch_norm_eps is not None:
            z = z * self._deviation() + self._mean()
        z = unfold_patches(z, self.config.patch_size) / self.config.scaling_factor
        return z if self.config.shift_factor is None else z + self.config.shift_factor

    def _mean(self) -> mx.array:
        return self.bn.running_mean.astype(mx.float32)

    def _deviation(self) -> mx.array:
        eps = 0.0 if self.config.batch_norm_eps is None else self.config.batch_norm_eps
        return mx.sqrt(self.bn.running_var.astype(mx.float32) + eps)

    def decode(self, latents: mx.array) -> mx.array:
        """Latents [B, h, w, C] as the denoiser sees them -> pixels [B, H, W, 3] in about [-1, 1]."""
        return self.decode_up(self.decode_middle(latents))

    def decode_middle(self, latents: mx.array) -> mx.array:
        """The part of `decode` that sees the whole picture: [B, h, w, D]."""
        z = self.unscale_latents(latents).astype(self.dtype)
        z = self.post_quant_conv(z) if "post_quant_conv" in self else z
        return self.decoder.middle(z)

    def decode_up(self, x: mx.array) -> mx.array:
        """The rest of `decode`, which sees only a neighborhood: [B, h, w, D] -> [B, H, W, 3]."""
        return self.decoder.up(x).astype(mx.float32)


def fold_patches(x: mx.array, patch: int) -> mx.array:
    """[B, h, w, C] -> [B, h / patch, w / patch, C patch^2]; within a patch channel by channel."""
    if patch == 1:
        return x
    batch, height, width, channels = x.shape
    patches = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return patches.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // patch, width // patch, -1)


def unfold_patches(x: mx.array, patch: int) -> mx.array:
    """The inverse of `fold_patches`."""
    if patch == 1:
        return x
    batch, rows, columns, _ = x.shape
    patches = x.reshape(batch, rows, columns, -1, patch, patch)
    return patches.transpose(0, 1, 4, 2, 5, 3).reshape(batch, rows * patch, columns * patch, -1)


def _resnet(config: VAEConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(in_channels, out_channels, time_width=None, groups=config.norm_num_groups, eps=_EPS)
