"""The FLUX.2 transformer: a rectified-flow network over text, image and reference tokens.

As FLUX.1's, with modulation shared by all blocks of a kind, gated feed-forward (SwiGLU), one fused
projection for attention and feed-forward of the single-stream blocks, no biases, and four position axes.
Parameter paths are those of diffusers' `Flux2Transformer2DModel`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.flux_transformer import (
    Rotary,
    apply_rotary,
    gated_sum,
    rotary_embedding,
    scale_shift,
)
from swiftai_nb.diffusion.models.layers import Linear, RMSNorm, sinusoidal_embedding

_FLOAT16_MAX = 65504.0
REFERENCE_TIME_STEP = 10  # reference picture i stands at 10 + 10 i on the first position axis

Modulation = tuple[mx.array, mx.array, mx.array]


@dataclass(frozen=True)
class Flux2Config:
    """The fields of a FLUX.2 transformer's `config.json` that shape it."""

    in_channels: int = 128
    out_channels: int | None = None
    num_layers: int = 8
    num_single_layers: int = 48
    attention_head_dim: int = 128
    num_attention_heads: int = 48
    joint_attention_dim: int = 15360
    timestep_guidance_channels: int = 256
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, ...] = (32, 32, 32, 32)
    rope_theta: float = 2000.0
    eps: float = 1e-6
    guidance_embeds: bool = True
    patch_size: int = 1

    @property
    def width(self) -> int:
        """Features per token."""
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Flux2Config:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: fields that contradict each other.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        try:
            fields["axes_dims_rope"] = tuple(
                int(dim) for dim in fields.get("axes_dims_rope", cls.axes_dims_rope)
            )
            result = cls(**fields)
            fits = sum(result.axes_dims_rope) == result.attention_head_dim and result.patch_size == 1
        except (TypeError, ValueError) as error:
            raise UnsupportedModelError(f"transformer config.json is not FLUX.2's: {error}") from None
        if not fits:
            raise UnsupportedModelError("this shape of a FLUX.2 transformer is not supported")
        return result


def token_ids(*, time: int, rows: int, columns: int) -> np.ndarray:
    """Positions of a picture's tokens in row order: [rows * columns, 4], float64: (time, row, column, 0)."""
    ids = np.zeros((rows, columns, 4))
    ids[..., 0] = time
    ids[..., 1] = np.arange(rows)[:, None]
    ids[..., 2] = np.arange(columns)[None, :]
    return ids.reshape(-1, 4)


def make_rotary(
    config: Flux2Config,
    *,
    text_length: int,
    size: tuple[int, int],
    references: Sequence[tuple[int, int]] = (),
) -> Rotary:
    """Rotary positions of all tokens: text, the picture, then its references.

    Args:
        config: of the transformer.
        text_length: text tokens; their position is on the last axis.
        size: (rows, columns) of the picture's latents.
        references: (rows, columns) of each reference's latents.

    Returns:
        cos and sin, each [L, attention_head_dim / 2], float32.
    """
    text = np.zeros((text_length, 4))
    text[:, 3] = np.arange(text_length)
    parts = [text, token_ids(time=0, rows=size[0], columns=size[1])]
    for index, (rows, columns) in enumerate(references):
        time = REFERENCE_TIME_STEP * (1 + index)
        parts.append(token_ids(time=time, rows=rows, columns=columns))
    return rotary_embedding(np.concatenate(parts), config.axes_dims_rope, theta=config.rope_theta)


def _modulate(x: mx.array, shift: mx.array, scale: mx.array, *, eps: float) -> mx.array:
    return scale_shift(mx.fast.layer_norm(x, None, None, eps), scale, shift)


def _swiglu(x: mx.array) -> mx.array:
    gate, value = mx.split(x, 2, axis=-1)
    return ops.silu(gate) * value


def clipped_as(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """X in another dtype; what is beyond float16's range becomes its largest number."""
    return mx.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX).astype(dtype) if dtype == mx.float16 else x.astype(dtype)


def _clipped(x: mx.array) -> mx.array:
    return mx.clip(x, -_FLOAT16_MAX, _FLOAT16_MAX) if x.dtype == mx.float16 else x


class Flux2Embedding(nn.Module):  # type: ignore[misc]
    """linear_2(silu(linear_1(features))), without biases."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(features, width, bias=False)
        self.linear_2 = Linear(width, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_2(ops.silu(self.linear_1(x)))


class Flux2TimeGuidanceEmbedding(nn.Module):  # type: ignore[misc]
    """The conditioning vector [B, width]: timestep, and guidance where the model was distilled with it."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.features = config.timestep_guidance_channels
        self.timestep_embedder = Flux2Embedding(self.features, config.width)
        if config.guidance_embeds:
            self.guidance_embedder = Flux2Embedding(self.features, config.width)

    def __call__(self, timestep: mx.array, guidance: mx.array | None, dtype: mx.Dtype) -> mx.array:
        vector = self.timestep_embedder(sinusoidal_embedding(timestep * 1000, self.features).astype(dtype))
        if guidance is not None and "guidance_embedder" in self:
            features = sinusoidal_embedding(guidance * 1000, self.features).astype(dtype)
            vector = vector + self.guidance_embedder(features)
        return vector


class Flux2Modulation(nn.Module):  # type: ignore[misc]
    """`sets` triples of shift, scale and gate from the conditioning vector, each [B, 1, width]."""

    def __init__(self, width: int, sets: int) -> None:
        super().__init__()
        self.sets = sets
        self.linear = Linear(width, 3 * sets * width, bias=False)

    def __call__(self, activated: mx.array) -> list[Modulation]:
        parts = mx.split(self.linear(activated)[:, None], 3 * self.sets, axis=-1)
        return [(parts[3 * i], parts[3 * i + 1], parts[3 * i + 2]) for i in range(self.sets)]


class Flux2FeedForward(nn.Module):  # type: ignore[misc]
    """linear_out(swiglu(linear_in x))."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = Linear(width, 2 * hidden, bias=False)
        self.linear_out = Linear(hidden, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear_out(_swiglu(self.linear_in(x)))


def _split_heads(x: mx.array, head_dim: int) -> mx.array:
    return x.reshape(x.shape[0], x.shape[1], -1, head_dim).transpose(0, 2, 1, 3)


def _attend(q: mx.array, k: mx.array, v: mx.array, rotary: Rotary) -> mx.array:
    out = ops.attention(apply_rotary(q, rotary), apply_rotary(k, rotary), v, scale=q.shape[-1] ** -0.5)
    return out.transpose(0, 2, 1, 3).reshape(out.shape[0], out.shape[2], -1)


class Flux2JointAttention(nn.Module):  # type: ignore[misc]
    """Attention of image and text tokens over both; text comes first in the sequence."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        width, self.head_dim = config.width, config.attention_head_dim
        self.to_q, self.to_k, self.to_v = (Linear(width, width, bias=False) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (
            Linear(width, width, bias=False) for _ in range(3)
        )
        self.norm_q, self.norm_k = (RMSNorm(self.head_dim, eps=config.eps) for _ in range(2))
        self.norm_added_q, self.norm_added_k = (RMSNorm(self.head_dim, eps=config.eps) for _ in range(2))
        self.to_out = [Linear(width, width, bias=False)]
        self.to_add_out = Linear(width, width, bias=False)

    def __call__(self, image: mx.array, text: mx.array, rotary: Rotary) -> tuple[mx.array, mx.array]:
        """image: [B, N, width], text: [B, T, width] -> the same shapes."""

        def split(x: mx.array) -> mx.array:
            return _split_heads(x, self.head_dim)

        q = [self.norm_added_q(split(self.add_q_proj(text))), self.norm_q(split(self.to_q(image)))]
        k = [self.norm_added_k(split(self.add_k_proj(text))), self.norm_k(split(self.to_k(image)))]
        v = [split(self.add_v_proj(text)), split(self.to_v(image))]
        q_all, k_all, v_all = (mx.concatenate(pair, axis=2) for pair in (q, k, v))
        out, length = _attend(q_all, k_all, v_all, rotary), text.shape[1]
        return self.to_out[0](out[:, length:]), self.to_add_out(out[:, :length])


class Flux2DoubleBlock(nn.Module):  # type: ignore[misc]
    """Joint attention, then a feed-forward per kind of token."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.eps = config.eps
        hidden = int(config.width * config.mlp_ratio)
        self.attn = Flux2JointAttention(config)
        self.ff = Flux2FeedForward(config.width, hidden)
        self.ff_context = Flux2FeedForward(config.width, hidden)

    def __call__(
        self,
        image: mx.array,
        text: mx.array,
        *,
        image_modulation: list[Modulation],
        text_modulation: list[Modulation],
        rotary: Rotary,
    ) -> tuple[mx.array, mx.array]:
        (shift, scale, gate), (mlp_shift, mlp_scale, mlp_gate) = image_modulation
        (t_shift, t_scale, t_gate), (t_mlp_shift, t_mlp_scale, t_mlp_gate) = text_modulation
        eps = self.eps
        attended = self.attn(
            _modulate(image, shift, scale, eps=eps), _modulate(text, t_shift, t_scale, eps=eps), rotary
        )
        image, text = gated_sum(image, gate, attended[0]), gated_sum(text, t_gate, attended[1])
        image = gated_sum(image, mlp_gate, self.ff(_modulate(image, mlp_shift, mlp_scale, eps=eps)))
        text = gated_sum(
            text, t_mlp_gate, self.ff_context(_modulate(text, t_mlp_shift, t_mlp_scale, eps=eps))
        )
        return ops.checkpoint(image), _clipped(text)


class Flux2ParallelAttention(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward side by side, with one projection in and one out."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        width, self.head_dim = config.width, config.attention_head_dim
        hidden = int(width * config.mlp_ratio)
        self.to_qkv_mlp_proj = Linear(width, 3 * width + 2 * hidden, bias=False)
        self.norm_q, self.norm_k = (RMSNorm(self.head_dim, eps=config.eps) for _ in range(2))
        self.to_out = Linear(width + hidden, width, bias=False)

    def __call__(self, x: mx.array, rotary: Rotary) -> mx.array:
        width = x.shape[-1]
        fused = self.to_qkv_mlp_proj(x)
        q, k, v, mlp = mx.split(fused, [width, 2 * width, 3 * width], axis=-1)
        q, k = (_split_heads(part, self.head_dim) for part in (q, k))
        attended = _attend(self.norm_q(q), self.norm_k(k), _split_heads(v, self.head_dim), rotary)
        return self.to_out(mx.concatenate([attended, _swiglu(mlp)], axis=-1))


class Flux2SingleBlock(nn.Module):  # type: ignore[misc]
    """One stream over text and image tokens together."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.eps = config.eps
        self.attn = Flux2ParallelAttention(config)

    def __call__(self, x: mx.array, modulation: Modulation, rotary: Rotary) -> mx.array:
        shift, scale, gate = modulation
        return ops.checkpoint(
            _clipped(gated_sum(x, gate, self.attn(_modulate(x, shift, scale, eps=self.eps), rotary)))
        )


class Flux2OutputNorm(nn.Module):  # type: ignore[misc]
    """Layer norm with scale and shift from the conditioning vector."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.eps = config.eps
        self.linear = Linear(config.width, 2 * config.width, bias=False)

    def __call__(self, x: mx.array, activated: mx.array) -> mx.array:
        scale, shift = mx.split(self.linear(activated)[:, None], 2, axis=-1)
        return _modulate(x, shift, scale, eps=self.eps)


class Flux2Transformer(nn.Module):  # type: ignore[misc]
    """Predicts the flow's velocity (noise minus image) for packed latents."""

    def __init__(self, config: Flux2Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_guidance_embed = Flux2TimeGuidanceEmbedding(config)
        self.double_stream_modulation_img = Flux2Modulation(width, 2)
        self.double_stream_modulation_txt = Flux2Modulation(width, 2)
        self.single_stream_modulation = Flux2Modulation(width, 1)
        self.x_embedder = Linear(config.in_channels, width, bias=False)
        self.context_embedder = Linear(config.joint_attention_dim, width, bias=False)
        self.transformer_blocks = [Flux2DoubleBlock(config) for _ in range(config.num_layers)]
        self.single_transformer_blocks = [Flux2SingleBlock(config) for _ in range(config.num_single_layers)]
        self.norm_out = Flux2OutputNorm(config)
        out = config.in_channels if config.out_channels is None else config.out_channels
        self.proj_out = Linear(width, out, bias=False)

    def __call__(
        self,
        hidden_states: mx.array,
        *,
        encoder_hidden_states: mx.array,
        timestep: mx.array,
        rotary: Rotary,
        guidance: mx.array | None = None,
    ) -> mx.array:
        """One network call.

        Args:
            hidden_states: [B, N, in_channels]: the picture's packed latents, then those of its references.
            encoder_hidden_states: [B, T, joint_attention_dim].
            timestep: [B], sigma in 0..1.
            rotary: from `make_rotary`, of the T + N tokens.
            guidance: [B], the guidance scale; only where config.guidance_embeds.

        Returns:
            [B, N, out_channels]; the caller drops the references' part.
        """
        activated = ops.silu(self.time_guidance_embed(timestep, guidance, hidden_states.dtype))
        image_modulation = self.double_stream_modulation_img(activated)
        text_modulation = self.double_stream_modulation_txt(activated)
        (single_modulation,) = self.single_stream_modulation(activated)
        image, text = self.x_embedder(hidden_states), self.context_embedder(encoder_hidden_states)
        for block in self.transformer_blocks:
            image, text = block(
                image,
                text,
                image_modulation=image_modulation,
                text_modulation=text_modulation,
                rotary=rotary,
            )
        x, length = mx.concatenate([text, image], axis=1), text.shape[1]
        for block in self.single_transformer_blocks:
            x = block(x, single_modulation, rotary)
        return self.proj_out(self.norm_out(x[:, length:], activated))
