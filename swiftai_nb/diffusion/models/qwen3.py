"""The Qwen3 language model (Yang et al. 2025) as a text encoder: hidden states of chosen layers.

Grouped-query attention with normalized queries and keys, rotary positions over half-split features, gated
feed-forward with silu. Parameter paths are those of transformers' `Qwen3Model`; the language-model head and
the layers above the last one asked for are neither built nor loaded.
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
from swiftai_nb.diffusion.models.layers import Embedding, Linear, RMSNorm

_DEFAULT_THETA = 1_000_000.0

Rotary = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Qwen3Config:
    """The fields of a Qwen3 `config.json` that shape the network.

    Args:
        num_hidden_layers: of the whole model.
        used_layers: how many layers are built: the number of the last hidden state that is read.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = _DEFAULT_THETA
    attention_bias: bool = False
    used_layers: int = 0

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], *, used_layers: int | None = None) -> Qwen3Config:
        """Reads `config.json`.

        Args:
            config: the file's content.
            used_layers: the number of the last hidden state that is read, counted from the embeddings (0);
                None reads the second-last one of the whole model.

        Raises:
            UnsupportedModelError: not Qwen3's, or with scaled rotary positions or sliding windows.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        rope = config.get("rope_parameters") or {}  # transformers 5 nests what 4 kept at the top level
        fields.setdefault("rope_theta", rope.get("rope_theta", _DEFAULT_THETA))
        fields.setdefault(
            "head_dim", config.get("hidden_size", 0) // max(1, config.get("num_attention_heads", 1))
        )
        scaling = (config.get("rope_scaling") or rope).get("rope_type", "default")
        if config.get("model_type", "qwen3") != "qwen3" or scaling != "default":
            raise UnsupportedModelError(
                f"text encoder {config.get('model_type')!r} with {scaling!r} positions is not supported",
                hint="the text encoder of Z-Image and FLUX.2 klein is Qwen3",
            )
        if config.get("use_sliding_window") or config.get("hidden_act", "silu") != "silu":
            raise UnsupportedModelError("Qwen3 with sliding windows or another activation is not supported")
        try:
            whole = int(fields["num_hidden_layers"])
            fields["used_layers"] = whole - 1 if used_layers is None else used_layers
            result = cls(**fields)
        except (KeyError, TypeError) as error:
            raise UnsupportedModelError(f"text encoder config.json is not Qwen3's: {error}") from None
        if not 0 <= result.used_layers <= whole:
            raise UnsupportedModelError(f"hidden state {result.used_layers} of a model of {whole} layers")
        return result


class Qwen3Attention(nn.Module):  # type: ignore[misc]
    """Causal self-attention; each key and value head serves a group of query heads."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = config.head_dim**-0.5
        inner, kv_inner = self.heads * config.head_dim, self.kv_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = Linear(config.hidden_size, inner, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_inner, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_inner, bias=bias)
        self.o_proj = Linear(inner, config.hidden_size, bias=bias)
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, rotary: Rotary, mask: mx.array) -> mx.array:
        batch, length = x.shape[:2]

        def split(y: mx.array, heads: int) -> mx.array:
            return y.reshape(batch, length, heads, -1)

        q = self.q_norm(split(self.q_proj(x), self.heads)).transpose(0, 2, 1, 3)
        k = self.k_norm(split(self.k_proj(x), self.kv_heads)).transpose(0, 2, 1, 3)
        v = split(self.v_proj(x), self.kv_heads).transpose(0, 2, 1, 3)
        out = ops.attention(rotate_half(q, rotary), rotate_half(k, rotary), v, scale=self.scale, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(batch, length, -1))


class Qwen3FeedForward(nn.Module):  # type: ignore[misc]
    """down_proj(silu(gate_proj x) * up_proj x)."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.down_proj(ops.silu(self.gate_proj(x)) * self.up_proj(x))


class Qwen3Layer(nn.Module):  # type: ignore[misc]
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.self_attn = Qwen3Attention(config)
        self.mlp = Qwen3FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x: mx.array, rotary: Rotary, mask: mx.array) -> mx.array:
        x = x + self.self_attn(self.input_layernorm(x), rotary, mask)
        return ops.checkpoint(x + self.mlp(self.post_attention_layernorm(x)))


class Qwen3Encoder(nn.Module):  # type: ignore[misc]
    """ids [B, L] -> hidden states of chosen layers, each [B, L, hidden_size].

    float16 overflows in the residual stream of the published weights; use float32 or bfloat16.
    """

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = [Qwen3Layer(config) for _ in range(config.used_layers)]

    def __call__(
        self, ids: mx.array, *, layers: Sequence[int], attention_mask: np.ndarray | None = None
    ) -> list[mx.array]:
        """One pass.

        Args:
            ids: [B, L], token ids.
            layers: numbers of the hidden states to return: 0 is the embeddings, n the output of layer n - 1.
            attention_mask: [B, L], true for real tokens; padding is not attended. None: all are real.

        Returns:
            one [B, L, hidden_size] for each of `layers`, in their order, before the model's final norm.
        """
        x = self.embed_tokens(ids)
        rotary = half_split_rotary(ids.shape[1], self.config.head_dim, theta=self.config.rope_theta)
        mask = causal_mask(ids.shape[1], attention_mask)
        wanted = {0: x} if 0 in layers else {}
        for number, layer in enumerate(self.layers[: max(layers)], start=1):
            x = layer(x, rotary, mask)
            if number in layers:
                wanted[number] = x
        return [wanted[number] for number in layers]


def half_split_rotary(length: int, head_dim: int, *, theta: float) -> Rotary:
    """Cosines and sines of the positions 0..length - 1, each [length, head_dim / 2], float32."""
    inverse = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.outer(np.arange(length, dtype=np.float32), inverse)
    return mx.array(np.cos(angles)), mx.array(np.sin(angles))


def rotate_half(x: mx.array, rotary: Rotary) -> mx.array:
    """Rotates feature i with feature i + D/2 of x: [B, heads, L, D], in float32 (Su et al. 2021)."""
    cos, sin = rotary
    first, second = mx.split(x.astype(mx.float32), 2, axis=-1)
    turned = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)


def causal_mask(length: int, attention_mask: np.ndarray | None) -> mx.array:
    """[1 or B, 1, L, L], true where a token is attended: the real ones up to itself."""
    allowed = np.tril(np.ones((1, length, length), dtype=bool))
    if attention_mask is not None:
        allowed = allowed & attention_mask.astype(bool)[:, None, :]
        # A row that attends nothing (padding before the first token) attends itself, which keeps it finite.
        allowed = allowed | (np.eye(length, dtype=bool)[None] & ~allowed.any(axis=2, keepdims=True))
    return mx.array(allowed)[:, None]
