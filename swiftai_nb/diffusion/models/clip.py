"""The CLIP text transformer (Radford et al. 2021), OpenAI's and OpenCLIP's sizes alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import (
    ACTIVATIONS,
    Embedding,
    LayerNorm,
    Linear,
    NoParameters,
)


@dataclass(frozen=True)
class CLIPTextConfig:
    """The fields of a text encoder's `config.json` that shape the network."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int = 77
    layer_norm_eps: float = 1e-5
    hidden_act: str = "quick_gelu"
    eos_token_id: int | None = 2
    projection_dim: int | None = None

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> CLIPTextConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: an activation we do not have, or a missing field.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        if "CLIPTextModelWithProjection" not in config.get("architectures", ()):
            fields["projection_dim"] = None
        if fields.get("hidden_act", "quick_gelu") not in ACTIVATIONS:
            raise UnsupportedModelError(f"text encoder activation {fields['hidden_act']!r} is not supported")
        try:
            return cls(**fields)
        except TypeError as error:
            raise UnsupportedModelError(f"text encoder config.json is not CLIP's: {error}") from None


@dataclass(frozen=True)
class CLIPOutput:
    """What a text encoder gives.

    Attributes:
        hidden_states: the embeddings, then the output of every layer; each [B, L, D].
        last_hidden_state: the last of them after the final layer norm; [B, L, D].
        pooled: the end-of-text vector of last_hidden_state, projected where the model has a
            projection; [B, P].
    """

    hidden_states: tuple[mx.array, ...]
    last_hidden_state: mx.array
    pooled: mx.array


class CLIPAttention(nn.Module):  # type: ignore[misc]
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.out_proj(ops.multi_head_attention(q, k, v, heads=self.heads, mask=mask))


class CLIPMLP(nn.Module):  # type: ignore[misc]
    """fc2(act(fc1(x)))."""

    def __init__(self, width: int, inner: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class CLIPLayer(nn.Module):  # type: ignore[misc]
    """Pre-norm transformer layer."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.self_attn = CLIPAttention(width, config.num_attention_heads)
        self.layer_norm1 = LayerNorm(width, eps=eps)
        self.mlp = CLIPMLP(width, config.intermediate_size, config.hidden_act)
        self.layer_norm2 = LayerNorm(width, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        x = ops.add_into(self.self_attn(self.layer_norm1(x), mask), x)
        return ops.checkpoint(ops.add_into(self.mlp(self.layer_norm2(x)), x))


class CLIPTextModel(nn.Module):  # type: ignore[misc]
    """ids [B, L] -> `CLIPOutput`; with `text_projection` when the config asks for it."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.config = config
        body = NoParameters()
        body.embeddings = NoParameters()
        body.embeddings.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        body.embeddings.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)
        body.encoder = NoParameters()
        body.encoder.layers = [CLIPLayer(config) for _ in range(config.num_hidden_layers)]
        body.final_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.text_model = body
        if config.projection_dim is not None:
            self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def __call__(self, ids: mx.array) -> CLIPOutput:
        body, length = self.text_model, ids.shape[1]
        x = body.embeddings.token_embedding(ids) + body.embeddings.position_embedding.weight[:length]
        mask = mx.tri(length, dtype=mx.float32) > 0
        hidden_states = [x]
        for layer in body.encoder.layers:
            hidden_states.append(layer(hidden_states[-1], mask))
        last = body.final_layer_norm(hidden_states[-1])
        return CLIPOutput(tuple(hidden_states), last, self._pool(last, ids))

    def final_norm(self, hidden_state: mx.array) -> mx.array:
        """The final layer norm on an earlier layer's output (clip skip); [B, L, D]."""
        norm: LayerNorm = self.text_model.final_layer_norm
        return norm(hidden_state)

    def _pool(self, last: mx.array, ids: mx.array) -> mx.array:
        # Published files say eos_token_id 2, which no prompt contains: their end of text is the largest id.
        eos, own = self.config.eos_token_id, ids < self.config.vocab_size  # added words come behind
        ends = mx.where(own, ids, 0) if eos is None or eos == 2 else ids == eos
        pooled = last[mx.arange(len(ids)), mx.argmax(ends, axis=-1)]
        projection: Linear | None = self.get("text_projection")
        return pooled if projection is None else projection(pooled)
