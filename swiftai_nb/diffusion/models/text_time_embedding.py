"""A time-embedding addend pooled from the text, for UNets with addition_embed_type "text"."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import LayerNorm, Linear


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
