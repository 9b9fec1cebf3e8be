"""The building blocks of the UNet: residual blocks, spatial transformers, and the three stages."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.gpu import on_cpu
from swiftai_nb.diffusion.models.layers import (
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    NoParameters,
    upsample_nearest,
)
from swiftai_nb.diffusion.models.unet_config import UNetConfig


class ResnetBlock(nn.Module):  # type: ignore[misc]
    """x + conv2(silu(norm2(conv1(silu(norm1(x))) + time))); [B, h, w, C_in] -> [B, h, w, C_out].

    Args:
        in_channels: C_in; a 1x1 shortcut is added when it differs from C_out.
        out_channels: C_out.
        time_width: width of the time embedding, or None without one (the autoencoder).
        groups: of the two group norms.
        eps: 1e-5 in UNets, 1e-6 in autoencoders.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, time_width: int | None, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels)
        if time_width is not None:
            self.time_emb_proj = Linear(time_width, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = Conv2d(in_channels, out_channels, kernel_size=1, padding=0)

    def __call__(self, x: mx.array, emb: mx.array | None = None, *, reuse: bool = False) -> mx.array:
        """reuse: whether the result may be made in the memory of x, which nothing else uses then."""
        offsets = None if emb is None else self.time_emb_proj(emb)
        h = self.conv1(x, norm=self.norm1, offsets=offsets)
        if "conv_shortcut" in self:
            x, reuse = self.conv_shortcut(x, reuse=reuse), True
        return ops.checkpoint(self.conv2(h, norm=self.norm2, residual=x, reuse=reuse))


class CrossAttention(nn.Module):  # type: ignore[misc]
    """Attention from x [B, ..., C] to a context [B, S, D]; self-attention when context is None."""

    def __init__(self, width: int, context_width: int, *, heads: int, upcast: bool) -> None:
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_width, width, bias=False)
        self.to_v = Linear(context_width, width, bias=False)
        self.to_out = [Linear(width, width)]

    def __call__(self, x: mx.array, context: mx.array | None = None) -> mx.array:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.upcast and on_cpu():
            # SD 2.1 overflows float16 in its scores; a GPU's fused kernels add in float32.
            q, k, v = (a.astype(mx.float32) for a in (q, k, v))
        out = ops.multi_head_attention(q, k, v, heads=self.heads)
        return self.to_out[0](out.astype(x.dtype))


class GEGLU(nn.Module):  # type: ignore[misc]
    """value * gelu(gate), the first half of the projection being the value (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def __call__(self, x: mx.array) -> mx.array:
        if isinstance(self.proj, Linear):
            return ops.geglu_linear(x, self.proj.weight, self.proj.get("bias"))
        return ops.geglu(self.proj(x))


class FeedForward(nn.Module):  # type: ignore[misc]
    """GEGLU and a linear map back; the hidden width is four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net: list[Any] = [GEGLU(width, 4 * width), NoParameters(), Linear(4 * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        gated: GEGLU = self.net[0]
        back: Linear = self.net[2]
        return back(gated(x))


class TransformerBlock(nn.Module):  # type: ignore[misc]
    """Self-attention, cross-attention, feed-forward; each pre-normed and residual."""

    def __init__(self, width: int, context_width: int, *, heads: int, upcast: bool) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn1 = CrossAttention(width, width, heads=heads, upcast=upcast)
        self.norm2 = LayerNorm(width)
        self.attn2 = CrossAttention(width, context_width, heads=heads, upcast=upcast)
        self.norm3 = LayerNorm(width)
        self.ff = FeedForward(width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        x = ops.add_into(self.attn1(self.norm1(x)), x)
        x = ops.add_into(self.attn2(self.norm2(x), context), x)
        return ops.checkpoint(ops.add_into(self.ff(self.norm3(x)), x))


class SpatialTransformer(nn.Module):  # type: ignore[misc]
    """Transformer blocks over the pixels of a feature map [B, h, w, C]."""

    def __init__(
        self, config: UNetConfig, width: int, *, heads: int, context_width: int, layers: int
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(config.norm_num_groups, width, eps=1e-6)
        # Files hold 1x1 convolutions or linear maps here; both are this linear map.
        self.proj_in = Linear(width, width)
        self.transformer_blocks = [
            TransformerBlock(width, context_width, heads=heads, upcast=config.upcast_attention)
            for _ in range(layers)
        ]
        self.proj_out = Linear(width, width)

    def __call__(self, x: mx.array, context: mx.array) -> mx.array:
        h = self.proj_in(self.norm(x))
        for block in self.transformer_blocks:
            h = block(h, context)
        return ops.add_into(self.proj_out(h), x)


class Resampler(nn.Module):  # type: ignore[misc]
    """The convolution of a down- or upsampler, under the key `conv`."""

    def __init__(self, channels: int, *, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, stride=stride, padding=padding)


def _resnet(config: UNetConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(
        in_channels,
        out_channels,
        time_width=config.time_embedding_width,
        groups=config.norm_num_groups,
        eps=config.norm_eps,
    )


class DownBlock(nn.Module):  # type: ignore[misc]
    """One resolution on the way down; returns x and the skips it leaves."""

    def __init__(self, config: UNetConfig, index: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        width, inputs = channels[index], channels[max(index - 1, 0)]
        layers = config.layers_per_block[index]
        self.resnets = [_resnet(config, inputs if j == 0 else width, width) for j in range(layers)]
        if config.down_block_types[index].startswith("CrossAttn"):
            self.attentions = [
                SpatialTransformer(
                    config,
                    width,
                    heads=config.heads[index],
                    context_width=config.cross_attention_dims[index],
                    layers=config.transformer_layers[index],
                )
                for _ in range(layers)
            ]
        if index < len(channels) - 1:
            self.downsamplers = [Resampler(width, stride=2)]

    def __call__(
        self, x: mx.array, emb: mx.array, context: mx.array, feature: mx.array | None = None
    ) -> tuple[mx.array, list[mx.array]]:
        skips = []
        has_attention = "attentions" in self
        for j, resnet in enumerate(self.resnets):
            x = resnet(x, emb)
            if has_attention:
                x = self.attentions[j](x, context)
            skips.append(x)
        # Where diffusers adds a T2I-Adapter's feature: with attention before the size is halved.
        if feature is not None and has_attention:
            x = skips[-1] = x + feature
        if "downsamplers" in self:
            x = self.downsamplers[0].conv(x)
            skips.append(x)
        if feature is not None and not has_attention:
            x = skips[-1] = x + feature
        return x, skips


class MidBlock(nn.Module):  # type: ignore[misc]
    """Resnet, transformer, resnet at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.resnets = [_resnet(config, width, width) for _ in range(2)]
        self.attentions = [
            SpatialTransformer(
                config,
                width,
                heads=config.heads[-1],
                context_width=config.cross_attention_dims[-1],
                layers=config.transformer_layers[-1],
            )
        ]

    def __call__(self, x: mx.array, emb: mx.array, context: mx.array) -> mx.array:
        x = self.attentions[0](self.resnets[0](x, emb), context)
        return self.resnets[1](x, emb)


class UpBlock(nn.Module):  # type: ignore[misc]
    """One resolution on the way up; takes its skips from the end of the list."""

    def __init__(self, config: UNetConfig, index: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        below, n = channels[::-1], len(channels)
        width, previous, source = below[index], below[max(index - 1, 0)], below[min(index + 1, n - 1)]
        layers = config.layers_per_block[::-1][index] + 1
        self.resnets = []
        for j in range(layers):
            inputs = (previous if j == 0 else width) + (source if j == layers - 1 else width)
            self.resnets.append(_resnet(config, inputs, width))
        if config.up_block_types[index].startswith("CrossAttn"):
            self.attentions = [
                SpatialTransformer(
                    config,
                    width,
                    heads=config.heads[::-1][index],
                    context_width=config.cross_attention_dims[::-1][index],
                    layers=config.up_transformer_layers[index],
                )
                for _ in range(layers)
            ]
        if index < n - 1:
            self.upsamplers = [Resampler(width)]

    def __call__(self, x: mx.array, skips: list[mx.array], emb: mx.array, context: mx.array) -> mx.array:
        for j, resnet in enumerate(self.resnets):
            x = resnet(ops.concatenate_channels([x, skips.pop()]), emb)
            if "attentions" in self:
                x = self.attentions[j](x, context)
        if "upsamplers" in self:
            # Odd sizes: the next skip is not exactly twice as large.
            _, height, width, _ = skips[-1].shape
            if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
                x = self.upsamplers[0].conv(x, doubled=True)
            else:
                x = self.upsamplers[0].conv(upsample_nearest(x, (height, width)))
        return x
