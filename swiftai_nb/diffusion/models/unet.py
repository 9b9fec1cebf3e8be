"""The conditional UNet of Stable Diffusion (Rombach et al. 2022; Podell et al. 2023 for SDXL)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import (
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    TimestepEmbedding,
    sinusoidal_embedding,
)
from swiftai_nb.diffusion.models.unet_blocks import DownBlock, MidBlock, UpBlock
from swiftai_nb.diffusion.models.unet_config import UNetConfig


class AttentionPooling(nn.Module):  # type: ignore[misc]
    """One query, the mean token plus a learned offset, attends to all tokens: [B, L, D] -> [B, D]."""

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = mx.zeros((1, width))
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        query = mx.mean(x, axis=1, keepdims=True) + self.positional_embedding
        tokens = mx.concatenate([query, x], axis=1)
        q, k, v = self.q_proj(query), self.k_proj(tokens), self.v_proj(tokens)
        return ops.multi_head_attention(q, k, v, heads=self.heads)[:, 0]


class TextTimeEmbedding(nn.Module):  # type: ignore[misc]
    """norm, attention pooling, projection, norm: [B, L, D] -> [B, width]."""

    def __init__(self, text_width: int, width: int, *, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(text_width)
        self.pool = AttentionPooling(text_width, heads=heads)
        self.proj = Linear(text_width, width)
        self.norm2 = LayerNorm(width)

    def __call__(self, encoder_hidden_states: mx.array) -> mx.array:
        return self.norm2(self.proj(self.pool(self.norm1(encoder_hidden_states))))


class UNetEncoder(nn.Module):  # type: ignore[misc]
    """The UNet's way down, which a ControlNet has as well: embeddings, down blocks, mid block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, channels[0])
        self.time_embedding = TimestepEmbedding(
            channels[0], config.time_embedding_width, cond_features=config.time_cond_proj_dim
        )
        self._add_added_embedding()
        self.down_blocks = [DownBlock(config, i) for i in range(len(channels))]
        if config.mid_block_type is not None:
            self.mid_block = MidBlock(config)

    def _add_added_embedding(self) -> None:
        config = self.config
        if config.addition_embed_type == "text_time":
            self.add_embedding = TimestepEmbedding(
                config.projection_class_embeddings_input_dim, config.time_embedding_width
            )
        elif config.addition_embed_type == "text":
            self.add_embedding = TextTimeEmbedding(
                config.cross_attention_dims[0],
                config.time_embedding_width,
                heads=config.addition_embed_type_num_heads,
            )

    def embed(
        self,
        timestep: mx.array,
        context: mx.array,
        *,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
    ) -> mx.array:
        """What all residual blocks are given beside their input: [B, D], after its activation.

        Args:
            timestep: [B], in 0..999, float32.
            context: [B, L, D], in the dtype of the weights.
            text_embeds: see `UNet`, as the others.
            time_ids: of SDXL.
            timestep_cond: of LCM.
        """
        emb = self._embed_time(timestep, timestep_cond, context.dtype)
        if self.config.addition_embed_type is not None:
            emb = emb + self._embed_added(context, text_embeds, time_ids)
        return ops.silu(emb)

    def _embed_time(self, timestep: mx.array, condition: mx.array | None, dtype: mx.Dtype) -> mx.array:
        config = self.config
        features = sinusoidal_embedding(
            timestep,
            config.block_out_channels[0],
            cosine_first=config.flip_sin_to_cos,
            frequency_shift=config.freq_shift,
        )
        condition = None if condition is None else condition.astype(dtype)
        return self.time_embedding(features.astype(dtype), condition)

    def _embed_added(
        self, context: mx.array, text_embeds: mx.array | None, time_ids: mx.array | None
    ) -> mx.array:
        if text_embeds is None or time_ids is None:
            return self.add_embedding(context)
        batch = text_embeds.shape[0]
        sizes = sinusoidal_embedding(
            time_ids.reshape(-1),
            self.config.addition_time_embed_dim,
            cosine_first=self.config.flip_sin_to_cos,
            frequency_shift=self.config.freq_shift,
        ).reshape(batch, -1)
        joined = mx.concatenate([text_embeds.astype(context.dtype), sizes.astype(context.dtype)], axis=-1)
        return self.add_embedding(joined)

    def encode(
        self, x: mx.array, emb: mx.array, context: mx.array, features: Sequence[mx.array] = ()
    ) -> tuple[mx.array, list[mx.array]]:
        """The blocks.

        Args:
            x: [B, h, w, channels], after `conv_in`.
            emb: from `embed`.
            context: [B, L, D].
            features: of a T2I-Adapter, each [1, h', w', C']: added in a block each, and in the middle.

        Returns:
            the middle, and the skips on the way, the first being x.
        """
        skips = [x]
        for block, feature in itertools.zip_longest(self.down_blocks, features[: len(self.down_blocks)]):
            x, block_skips = block(x, emb, context, feature)
            skips.extend(block_skips)
        if "mid_block" in self:
            x = self.mid_block(x, emb, context)
        for feature in features[len(self.down_blocks) :]:
            x = x + feature
        return x, skips


class UNet(UNetEncoder):
    """Predicts noise, velocity or sample from noisy latents, a timestep and a text condition."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        channels = config.block_out_channels
        self.up_blocks = [UpBlock(config, i) for i in range(len(channels))]
        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], eps=config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels)

    def __call__(
        self,
        sample: mx.array,
        timestep: mx.array,
        encoder_hidden_states: mx.array,
        *,
        text_embeds: mx.array | None = None,
        time_ids: mx.array | None = None,
        timestep_cond: mx.array | None = None,
        additional_residuals: Sequence[mx.array] = (),
        adapter_features: Sequence[mx.array] = (),
    ) -> mx.array:
        """One network call.

        Args:
            sample: [B, h, w, C_in], already scaled by the scheduler.
            timestep: [B], in 0..999, float32.
            encoder_hidden_states: [B, L, D].
            text_embeds: [B, P], pooled text of SDXL.
            time_ids: [B, 6], the sizes of SDXL.
            timestep_cond: [B, T], the guidance embedding of LCM UNets.
            additional_residuals: of ControlNets: what is added to each skip, and last to the middle.
            adapter_features: of T2I-Adapters: what is added on the way down.

        Returns:
            [B, h, w, C_out].
        """
        dtype = self.conv_in.weight.dtype
        context = encoder_hidden_states.astype(dtype)
        emb = self.embed(
            timestep, context, text_embeds=text_embeds, time_ids=time_ids, timestep_cond=timestep_cond
        )
        x, skips = self.encode(self.conv_in(sample.astype(dtype)), emb, context, adapter_features)
        if additional_residuals:
            *skips, x = (a + b for a, b in zip((*skips, x), additional_residuals, strict=True))
        for block in self.up_blocks:
            x = block(x, skips, emb, context)
        return self.conv_out(x, norm=self.conv_norm_out)
