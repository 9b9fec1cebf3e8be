"""The FLUX.1 transformer: a rectified-flow network over text and image tokens.

Double-stream blocks keep separate weights for the two kinds of token and attend jointly (MMDiT, Esser et
al. 2024); single-stream blocks run attention and feed-forward in parallel (Dehghani et al. 2023).
Parameter paths are those of diffusers' `FluxTransformer2DModel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.gpu import fused
from swiftai_nb.diffusion.models.layers import (
    Linear,
    NoParameters,
    RMSNorm,
    TimestepEmbedding,
    sinusoidal_embedding,
)

_TIME_FEATURES = 256
_MLP_RATIO = 4
_FLOAT16_MAX = 65504.0

Rotary = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class FluxConfig:
    """The fields of a transformer's `config.json` that shape the network.

    Args:
        in_channels: features of a token: latent channels x 2 x 2.
        num_layers: blocks with separate weights for image and text.
        num_single_layers: blocks with shared weights.
        attention_head_dim: the sum of `axes_dims_rope`.
        joint_attention_dim: width of the T5 hidden states.
        pooled_projection_dim: width of CLIP's pooled vector.
        guidance_embeds: True for FLUX.1 dev, distilled to take the guidance scale as an input.
        axes_dims_rope: rotary widths of the axes (0, row, column); all even.
    """

    in_channels: int = 64
    out_channels: int | None = None
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, ...] = (16, 56, 56)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> FluxConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: a shape that is not FLUX.1's kind.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if config.get(name) is not None}
        fields["axes_dims_rope"] = tuple(fields.get("axes_dims_rope", cls.axes_dims_rope))
        result = cls(**fields)
        if config.get("patch_size", 1) != 1:
            raise UnsupportedModelError(f"FLUX patch_size {config['patch_size']} is not supported")
        if len(result.axes_dims_rope) != 3 or any(axis % 2 for axis in result.axes_dims_rope):
            raise UnsupportedModelError(f"FLUX axes_dims_rope {result.axes_dims_rope} is not supported")
        if sum(result.axes_dims_rope) != result.attention_head_dim:
            raise UnsupportedModelError(
                f"FLUX axes_dims_rope {result.axes_dims_rope} does not sum to "
                f"attention_head_dim {result.attention_head_dim}"
            )
        return result

    @property
    def width(self) -> int:
        """Features of a token inside the transformer."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def latent_channels(self) -> int:
        """Channels of the unpacked latents."""
        return self.in_channels // 4


def rotary_embedding(ids: np.ndarray, axes_dims: tuple[int, ...], *, theta: float = 10000.0) -> Rotary:
    """Rotary position embedding over several axes (Su et al. 2021), computed in float64.

    Args:
        ids: [L, axes], the position of each token on each axis.
        axes_dims: features per axis, even.
        theta: base of the frequencies.

    Returns:
        cos and sin of the angles, each [L, sum(axes_dims) / 2], float32.
    """
    angles = [
        np.outer(ids[:, axis], theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim))
        for axis, dim in enumerate(axes_dims)
    ]
    joined = np.concatenate(angles, axis=1)
    return mx.array(np.cos(joined).astype(np.float32)), mx.array(np.sin(joined).astype(np.float32))


def token_positions(text_length: int, rows: int, columns: int) -> np.ndarray:
    """Positions of `text_length` text tokens (all zero), then of the image tokens in row order.

    Returns:
        [text_length + rows * columns, 3], float64: (0, row, column).
    """
    image = np.zeros((rows, columns, 3))
    image[..., 1] = np.arange(rows)[:, None]
    image[..., 2] = np.arange(columns)[None, :]
    return np.concatenate([np.zeros((text_length, 3)), image.reshape(-1, 3)])


def apply_rotary(x: mx.array, rotary: Rotary) -> mx.array:
    """Rotates neighboring pairs of features of x: [B, heads, L, D], in float32."""
    cos, sin = rotary
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([_turned(even, odd, cos, -sin), _turned(odd, even, cos, sin)], axis=-1)
    return turned.reshape(x.shape)


@fused
def _turned(x: mx.array, other: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    turned = x.astype(mx.float32) * cos + other.astype(mx.float32) * sin
    return turned.astype(x.dtype)


def _layer_norm(x: mx.array) -> mx.array:
    return mx.fast.layer_norm(x, None, None, 1e-6)


def _modulate(x: mx.array, shift: mx.array, scale: mx.array) -> mx.array:
    return scale_shift(_layer_norm(x), scale, shift)


@fused
def scale_shift(x: mx.array, scale: mx.array, shift: mx.array) -> mx.array:
    """X (1 + scale) + shift: [B, L, width], with scale and shift [B, 1, width]."""
    return x * (1 + scale) + shift


@fused
def gated_sum(x: mx.array, gate: mx.array, y: mx.array) -> mx.array:
    """X + gate y: [B, L, width], with the gate [B, 1, width]."""
    return x + gate * y


class FluxModulation(nn.Module):  # type: ignore[misc]
    """`count` vectors of shift, scale and gate from the conditioning vector, each [B, 1, width]."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = Linear(width, count * width)

    def __call__(self, activated: mx.array) -> list[mx.array]:
        return list(mx.split(self.linear(activated)[:, None], self.count, axis=-1))


class FluxFeedForward(nn.Module):  # type: ignore[misc]
    """net.2(gelu_tanh(net.0.proj(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        entry = NoParameters()
        entry.proj = Linear(width, _MLP_RATIO * width)
        self.net: list[Any] = [entry, NoParameters(), Linear(_MLP_RATIO * width, width)]

    def __call__(self, x: mx.array) -> mx.array:
        first, _, last = self.net
        return cast(mx.array, last(ops.gelu_tanh(first.proj(x))))


class FluxAttention(nn.Module):  # type: ignore[misc]
    """Attention over image tokens, jointly with text tokens where `joint`."""

    def __init__(self, config: FluxConfig, *, joint: bool) -> None:
        super().__init__()
        width, head_dim = config.width, config.attention_head_dim
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        if joint:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (Linear(width, width) for _ in range(3))
            self.norm_added_q, self.norm_added_k = RMSNorm(head_dim), RMSNorm(head_dim)
            self.to_out = [Linear(width, width)]
            self.to_add_out = Linear(width, width)

    def _split(self, x: mx.array) -> mx.array:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(0, 2, 1, 3)

    def _attend(self, q: mx.array, k: mx.array, v: mx.array, rotary: Rotary) -> mx.array:
        q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        out = ops.attention(q, k, v, scale=q.shape[-1] ** -0.5)
        return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)

    def __call__(self, x: mx.array, rotary: Rotary) -> mx.array:
        """x: [B, L, width] of all tokens -> [B, L, width], without an output projection."""
        q = self.norm_q(self._split(self.to_q(x)))
        k = self.norm_k(self._split(self.to_k(x)))
        return self._attend(q, k, self._split(self.to_v(x)), rotary)

    def joint(self, image: mx.array, text: mx.array, rotary: Rotary) -> tuple[mx.array, mx.array]:
        """image: [B, N, width], text: [B, T, width] -> the same shapes; text comes first in the sequence."""
        split, length = self._split, text.shape[1]
        q = [self.norm_added_q(split(self.add_q_proj(text))), self.norm_q(split(self.to_q(image)))]
        k = [self.norm_added_k(split(self.add_k_proj(text))), self.norm_k(split(self.to_k(image)))]
        v = [split(self.add_v_proj(text)), split(self.to_v(image))]
        q_all, k_all, v_all = (mx.concatenate(pair, axis=2) for pair in (q, k, v))
        out = self._attend(q_all, k_all, v_all, rotary)
        return self.to_out[0](out[:, length:]), self.to_add_out(out[:, :length])


class FluxDoubleBlock(nn.Module):  # type: ignore[misc]
    """Joint attention, then a feed-forward per kind of token."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.norm1 = FluxModulation(config.width, 6)
        self.norm1_context = FluxModulation(config.width, 6)
        self.attn = FluxAttention(config, joint=True)
        self.ff = FluxFeedForward(config.width)
        self.ff_context = FluxFeedForward(config.width)

    def __call__(
        self, image: mx.array, text: mx.array, activated: mx.array, rotary: Rotary
    ) -> tuple[mx.array, mx.array]:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(activated)
        t_shift, t_scale, t_gate, t_mlp_shift, t_mlp_scale, t_mlp_gate = self.norm1_context(activated)
        attended = self.attn.joint(_modulate(image, shift, scale), _modulate(text, t_shift, t_scale), rotary)
        image, text = gated_sum(image, gate, attended[0]), gated_sum(text, t_gate, attended[1])
        image = gated_sum(image, mlp_gate, self.ff(_modulate(image, mlp_shift, mlp_scale)))
        text = gated_sum(text, t_mlp_gate, self.ff_context(_modulate(text, t_mlp_shift, t_mlp_scale)))
        if text.dtype == mx.float16:
            text = mx.clip(text, -_FLOAT16_MAX, _FLOAT16_MAX)
        return ops.checkpoint(image), text


class FluxSingleBlock(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward side by side over text and image tokens together."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        width = config.width
        self.norm = FluxModulation(width, 3)
        self.attn = FluxAttention(config, joint=False)
        self.proj_mlp = Linear(width, _MLP_RATIO * width)
        self.proj_out = Linear((1 + _MLP_RATIO) * width, width)

    def __call__(self, x: mx.array, activated: mx.array, rotary: Rotary) -> mx.array:
        shift, scale, gate = self.norm(activated)
        y = _modulate(x, shift, scale)
        y = mx.concatenate([self.attn(y, rotary), ops.gelu_tanh(self.proj_mlp(y))], axis=-1)
        x = gated_sum(x, gate, self.proj_out(y))
        if x.dtype == mx.float16:
            x = mx.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX)
        return ops.checkpoint(x)


class FluxConditionEmbedding(nn.Module):  # type: ignore[misc]
    """The conditioning vector [B, width]: timestep, guidance (dev only) and pooled text, added."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedding(_TIME_FEATURES, config.width)
        if config.guidance_embeds:
            self.guidance_embedder = TimestepEmbedding(_TIME_FEATURES, config.width)
        self.text_embedder = TimestepEmbedding(config.pooled_projection_dim, config.width)

    def __call__(self, timestep: mx.array, guidance: mx.array | None, pooled: mx.array) -> mx.array:
        def features(values: mx.array) -> mx.array:
            return sinusoidal_embedding(values * 1000, _TIME_FEATURES).astype(pooled.dtype)

        vector = self.timestep_embedder(features(timestep))
        if guidance is not None:
            vector = vector + self.guidance_embedder(features(guidance))
        return vector + self.text_embedder(pooled)


class FluxTransformer(nn.Module):  # type: ignore[misc]
    """Predicts the flow's velocity (noise minus image) for packed latents."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_text_embed = FluxConditionEmbedding(config)
        self.context_embedder = Linear(config.joint_attention_dim, width)
        self.x_embedder = Linear(config.in_channels, width)
        self.transformer_blocks = [FluxDoubleBlock(config) for _ in range(config.num_layers)]
        self.single_transformer_blocks = [FluxSingleBlock(config) for _ in range(config.num_single_layers)]
        self.norm_out = FluxModulation(width, 2)
        self.proj_out = Linear(width, config.out_channels or config.in_channels)

    def __call__(
        self,
        hidden_states: mx.array,
        *,
        encoder_hidden_states: mx.array,
        pooled_projections: mx.array,
        timestep: mx.array,
        rotary: Rotary,
        guidance: mx.array | None = None,
    ) -> mx.array:
        """One network call.

        Args:
            hidden_states: [B, N, in_channels], packed latents.
            encoder_hidden_states: [B, T, joint_attention_dim], from T5.
            pooled_projections: [B, pooled_projection_dim], from CLIP.
            timestep: [B], sigma in 0..1.
            rotary: of the T text tokens, then the N image tokens.
            guidance: [B], the guidance scale; only where config.guidance_embeds.

        Returns:
            [B, N, out_channels].
        """
        vector = self.time_text_embed(timestep, guidance, pooled_projections)
        activated = ops.silu(vector)
        image, text = self.x_embedder(hidden_states), self.context_embedder(encoder_hidden_states)
        for block in self.transformer_blocks:
            image, text = block(image, text, activated, rotary)
        x, length = mx.concatenate([text, image], axis=1), text.shape[1]
        for block in self.single_transformer_blocks:
            x = block(x, activated, rotary)
        scale, shift = self.norm_out(activated)
        return self.proj_out(_modulate(x[:, length:], shift, scale))
