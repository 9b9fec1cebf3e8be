"""The encoder of T5 v1.1 (Raffel et al. 2020; Shazeer 2020 for the gated activation)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import ACTIVATIONS, Embedding, Linear, NoParameters, RMSNorm

_GATED = "gated-"


@dataclass(frozen=True)
class T5Config:
    """The fields of a T5 `config.json` that shape its encoder."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "gated-gelu"

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> T5Config:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: an ungated or unknown activation, or a missing field.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        try:
            result = cls(**fields)
        except TypeError as error:
            raise UnsupportedModelError(f"text encoder config.json is not T5's: {error}") from None
        if not result.feed_forward_proj.startswith(_GATED) or result.activation not in ACTIVATIONS:
            raise UnsupportedModelError(
                f"T5 feed_forward_proj {result.feed_forward_proj!r} is not supported",
                hint="FLUX uses T5 v1.1, whose value is 'gated-gelu'",
            )
        return result

    @property
    def activation(self) -> str:
        """The gate's activation; T5's "gelu" is the tanh approximation."""
        name = self.feed_forward_proj.removeprefix(_GATED)
        return "gelu_new" if name == "gelu" else name


class T5Attention(nn.Module):  # type: ignore[misc]
    """Self-attention without 1/sqrt(d) and without biases."""

    def __init__(self, config: T5Config, *, has_relative_bias: bool) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        if has_relative_bias:
            buckets = config.relative_attention_num_buckets
            self.relative_attention_bias = Embedding(buckets, config.num_heads)

    def __call__(self, x: mx.array, position_bias: mx.array) -> mx.array:
        batch, length = x.shape[:2]

        def split(y: mx.array) -> mx.array:
            return y.reshape(batch, length, self.heads, -1).transpose(0, 2, 1, 3)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        out = ops.attention(q, k, v, scale=1.0, mask=position_bias)
        return self.o(out.transpose(0, 2, 1, 3).reshape(batch, length, -1))


class T5GatedFeedForward(nn.Module):  # type: ignore[misc]
    """wo(act(wi_0 x) * wi_1 x)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.activation = config.activation
        self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
        self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.wo(ACTIVATIONS[self.activation](self.wi_0(x)) * self.wi_1(x))


class T5Block(nn.Module):  # type: ignore[misc]
    """Pre-norm attention and feed-forward; `layer.0` and `layer.1` in the files."""

    def __init__(self, config: T5Config, *, has_relative_bias: bool) -> None:
        super().__init__()
        attention, feed_forward = NoParameters(), NoParameters()
        attention.SelfAttention = T5Attention(config, has_relative_bias=has_relative_bias)
        attention.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        feed_forward.DenseReluDense = T5GatedFeedForward(config)
        feed_forward.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.layer = [attention, feed_forward]

    def __call__(self, x: mx.array, position_bias: mx.array) -> mx.array:
        attention, feed_forward = self.layer
        x = x + attention.SelfAttention(attention.layer_norm(x), position_bias)
        return ops.checkpoint(x + feed_forward.DenseReluDense(feed_forward.layer_norm(x)))


class T5Encoder(nn.Module):  # type: ignore[misc]
    """ids [B, L] -> hidden states [B, L, d_model].

    Every position is attended, padding included: FLUX was trained so, and passes no mask. float16
    overflows in the feed-forward; use float32 or bfloat16.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model)
        body = NoParameters()
        body.block = [T5Block(config, has_relative_bias=i == 0) for i in range(config.num_layers)]
        body.final_layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.encoder = body

    def __call__(self, ids: mx.array) -> mx.array:
        x = self.shared(ids)
        position_bias = self._position_bias(ids.shape[1]).astype(x.dtype)
        for block in self.encoder.block:
            x = block(x, position_bias)
        return cast(mx.array, self.encoder.final_layer_norm(x))

    def _position_bias(self, length: int) -> mx.array:
        # Only the first block owns the table; all blocks add it. [1, heads, L, L]
        positions = np.arange(length)
        buckets = relative_position_buckets(
            positions[None, :] - positions[:, None],
            buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        return cast(mx.array, table(mx.array(buckets)).transpose(2, 0, 1)[None])


def relative_position_buckets(
    relative_position: np.ndarray, *, buckets: int = 32, max_distance: int = 128
) -> np.ndarray:
    """T5's bidirectional buckets: exact up to buckets/4, then logarithmic up to `max_distance`.

    Args:
        relative_position: key position minus query position, integers of any shape.
        buckets: in all; the upper half is for keys to the right.
        max_distance: where the last bucket begins.

    Returns:
        bucket numbers in [0, buckets), int32, the same shape.
    """
    half, exact = buckets // 2, buckets // 4
    distance = np.abs(relative_position)
    # float32 throughout: the published models were trained with its rounding at bucket edges.
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(max_distance / exact)) * (half - exact)).astype(np.int32)
    near_or_far = np.where(distance < exact, distance, np.minimum(far, half - 1))
    return np.asarray((relative_position > 0) * half + near_or_far, dtype=np.int32)
