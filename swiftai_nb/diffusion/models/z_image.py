"""The Z-Image transformer (Z-Image Team 2025): one stream over image and caption tokens.

Image and caption tokens first pass refiners of their own, then all layers together. Each kind is filled up to
a multiple of 32 tokens with a learned token, which is attended like any other. Parameter paths are those of
diffusers' `ZImageTransformer2DModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.flux_transformer import Rotary, apply_rotary, gated_sum, rotary_embedding
from swiftai_nb.diffusion.models.layers import Linear, NoParameters, RMSNorm, sinusoidal_embedding

TOKEN_MULTIPLE = 32
_TIME_FEATURES = 256
_TIME_WIDTH = 1024
_MODULATION_WIDTH = 256
_ATTENTION_EPS = 1e-5
_FINAL_EPS = 1e-6


@dataclass(frozen=True)
class ZImageConfig:
    """The fields of a Z-Image transformer's `config.json` that shape it."""

    in_channels: int = 16
    dim: int = 3840
    n_layers: int = 30
    n_refiner_layers: int = 2
    n_heads: int = 30
    n_kv_heads: int = 30
    norm_eps: float = 1e-5
    qk_norm: bool = True
    cap_feat_dim: int = 2560
    rope_theta: float = 256.0
    t_scale: float = 1000.0
    axes_dims: tuple[int, ...] = (32, 48, 48)
    patch_size: int = 2

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ZImageConfig:
        """Reads `config.json`.

        Raises:
            UnsupportedModelError: the Omni variant, another patch size, or fields that contradict each other.
        """
        fields = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        if config.get("siglip_feat_dim") is not None:
            raise UnsupportedModelError("Z-Image Omni is not supported", hint="use Z-Image or Z-Image-Turbo")
        sizes, frames = config.get("all_patch_size", (2,)), config.get("all_f_patch_size", (1,))
        if list(sizes) != [2] or list(frames) != [1]:
            raise UnsupportedModelError(f"Z-Image with patches of {sizes} by {frames} is not supported")
        try:
            fields["axes_dims"] = tuple(int(dim) for dim in fields.get("axes_dims", cls.axes_dims))
            result = cls(**fields)
            head_dim = result.dim // result.n_heads
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise UnsupportedModelError(f"transformer config.json is not Z-Image's: {error}") from None
        if head_dim != sum(result.axes_dims) or result.n_kv_heads != result.n_heads or not result.qk_norm:
            raise UnsupportedModelError("this shape of a Z-Image transformer is not supported")
        return result


class ZImageAttention(nn.Module):  # type: ignore[misc]
    """Self-attention with normalized queries and keys and rotary positions."""

    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.heads = config.n_heads
        width, head_dim = config.dim, config.dim // config.n_heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width, bias=False) for _ in range(3))
        self.norm_q, self.norm_k = (
            RMSNorm(head_dim, eps=_ATTENTION_EPS),
            RMSNorm(head_dim, eps=_ATTENTION_EPS),
        )
        self.to_out = [Linear(width, width, bias=False)]

    def __call__(self, x: mx.array, rotary: Rotary, mask: mx.array | None) -> mx.array:
        """x: [B, L, dim] -> the same shape, times `_branch_scale(x.dtype)`."""

        def split(y: mx.array) -> mx.array:
            return y.reshape(y.shape[0], y.shape[1], self.heads, -1).transpose(0, 2, 1, 3)

        q = apply_rotary(self.norm_q(split(self.to_q(x))), rotary)
        k = apply_rotary(self.norm_k(split(self.to_k(x))), rotary)
        out = ops.attention(q, k, split(self.to_v(x)), scale=q.shape[-1] ** -0.5, mask=mask)
        return self.to_out[0](_scaled(out.transpose(0, 2, 1, 3).reshape(x.shape)))


def _branch_scale(dtype: mx.Dtype) -> float:
    """What the outputs of attention and feed-forward are scaled by before the norms behind them.

    Their range exceeds float16 (ComfyUI pull request 11187). A norm takes any factor out again, if its eps is
    scaled too: see `_unscaled_norm`.
    """
    return 1 / 64 if dtype == mx.float16 else 1.0


def _scaled(x: mx.array) -> mx.array:
    return x * _branch_scale(x.dtype) if x.dtype == mx.float16 else x


def _unscaled_norm(norm: RMSNorm, y: mx.array) -> mx.array:
    """The norm of y / `_branch_scale`."""
    return mx.fast.rms_norm(y, norm.weight, norm.eps * _branch_scale(y.dtype) ** 2)


class ZImageFeedForward(nn.Module):  # type: ignore[misc]
    """w2(silu(w1 x) * w3 x), times `_branch_scale(x.dtype)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(width / 3 * 8)
        self.w1, self.w3 = (Linear(width, hidden, bias=False) for _ in range(2))
        self.w2 = Linear(hidden, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        return self.w2(ops.silu(self.w1(x)) * _scaled(self.w3(x)))


class ZImageBlock(nn.Module):  # type: ignore[misc]
    """Attention and feed-forward between norms; scaled and gated (tanh) by the timestep where `modulated`."""

    def __init__(self, config: ZImageConfig, *, modulated: bool) -> None:
        super().__init__()
        width, eps = config.dim, config.norm_eps
        self.attention = ZImageAttention(config)
        self.feed_forward = ZImageFeedForward(width)
        self.attention_norm1, self.attention_norm2 = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)
        self.ffn_norm1, self.ffn_norm2 = RMSNorm(width, eps=eps), RMSNorm(width, eps=eps)
        if modulated:
            self.adaLN_modulation = [Linear(min(width, _MODULATION_WIDTH), 4 * width)]

    def __call__(
        self, x: mx.array, rotary: Rotary, mask: mx.array | None, condition: mx.array | None = None
    ) -> mx.array:
        """x: [B, L, dim], condition: [B, 256] -> [B, L, dim]."""
        if condition is None:
            attended = self.attention(self.attention_norm1(x), rotary, mask)
            x = x + _unscaled_norm(self.attention_norm2, attended)
            y = self.feed_forward(self.ffn_norm1(x))
            return ops.checkpoint(x + _unscaled_norm(self.ffn_norm2, y))
        parts = mx.split(self.adaLN_modulation[0](condition)[:, None], 4, axis=-1)
        scale, gate, mlp_scale, mlp_gate = parts
        attended = self.attention(self.attention_norm1(x) * (1 + scale), rotary, mask)
        x = gated_sum(x, mx.tanh(gate), _unscaled_norm(self.attention_norm2, attended))
        y = self.feed_forward(self.ffn_norm1(x) * (1 + mlp_scale))
        return ops.checkpoint(gated_sum(x, mx.tanh(mlp_gate), _unscaled_norm(self.ffn_norm2, y)))


class ZImageFinalLayer(nn.Module):  # type: ignore[misc]
    """Layer norm scaled by the timestep, then the projection to patches."""

    def __init__(self, width: int, out_features: int) -> None:
        super().__init__()
        self.linear = Linear(width, out_features)
        self.adaLN_modulation: list[Any] = [NoParameters(), Linear(min(width, _MODULATION_WIDTH), width)]

    def __call__(self, x: mx.array, condition: mx.array) -> mx.array:
        scale = 1 + self.adaLN_modulation[1](ops.silu(condition))[:, None]
        return self.linear(mx.fast.layer_norm(x, None, None, _FINAL_EPS) * scale)


class ZImageTimestepEmbedder(nn.Module):  # type: ignore[misc]
    """mlp.2(silu(mlp.0(features))): [B] -> [B, 256]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp: list[Any] = [
            Linear(_TIME_FEATURES, _TIME_WIDTH),
            NoParameters(),
            Linear(_TIME_WIDTH, width),
        ]

    def __call__(self, values: mx.array, dtype: mx.Dtype) -> mx.array:
        first, _, last = self.mlp
        features = sinusoidal_embedding(values, _TIME_FEATURES).astype(dtype)
        out: mx.array = last(ops.silu(first(features)))
        return out


@dataclass(frozen=True)
class ZImageLayout:
    """Positions and masks of one picture size and one set of captions; made once for all steps.

    Attributes:
        image_rotary, caption_rotary, joint_rotary: cos and sin, each [1 or B, 1, L, head_dim / 2].
        caption_pads: [B, C, 1], true where the caption's own tokens have ended (up to its multiple of 32).
        caption_mask, joint_mask: [B, 1, 1, L], false where a shorter caption is filled up to the longest one;
            None where all have one length.
    """

    image_rotary: Rotary
    caption_rotary: Rotary
    joint_rotary: Rotary
    caption_pads: mx.array
    caption_mask: mx.array | None
    joint_mask: mx.array | None


class ZImageTransformer(nn.Module):  # type: ignore[misc]
    """Predicts image minus noise, the negative of the flow's velocity."""

    def __init__(self, config: ZImageConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.dim, config.patch_size**2 * config.in_channels
        self.all_x_embedder = {"2-1": Linear(patch, width)}
        self.all_final_layer = {"2-1": ZImageFinalLayer(width, patch)}
        self.noise_refiner = [ZImageBlock(config, modulated=True) for _ in range(config.n_refiner_layers)]
        self.context_refiner = [ZImageBlock(config, modulated=False) for _ in range(config.n_refiner_layers)]
        self.t_embedder = ZImageTimestepEmbedder(min(width, _MODULATION_WIDTH))
        self.cap_embedder: list[Any] = [
            RMSNorm(config.cap_feat_dim, eps=config.norm_eps),
            Linear(config.cap_feat_dim, width),
        ]
        self.x_pad_token = mx.zeros((1, width))
        self.cap_pad_token = mx.zeros((1, width))
        self.layers = [ZImageBlock(config, modulated=True) for _ in range(config.n_layers)]

    def refine_captions(self, captions: mx.array, layout: ZImageLayout) -> mx.array:
        """Captions before the joint layers; they do not depend on the timestep, so once for all steps.

        Args:
            captions: [B, C, cap_feat_dim], C the longest caption's padded length.
            layout: of these captions.

        Returns:
            [B, C, dim].
        """
        norm, linear = self.cap_embedder
        pad = self.cap_pad_token
        embedded = linear(norm(captions).astype(pad.dtype))  # captions may exceed float16, normed ones do not
        x = mx.where(layout.caption_pads, pad, embedded)
        for block in self.context_refiner:
            x = block(x, layout.caption_rotary, layout.caption_mask)
        return x

    def __call__(
        self,
        latents: mx.array,
        *,
        captions: mx.array,
        timestep: mx.array,
        layout: ZImageLayout,
        controls: Sequence[Callable[..., Mapping[int, mx.array]]] = (),
    ) -> mx.array:
        """One network call.

        Args:
            latents: [B, h, w, in_channels], h and w even.
            captions: [B, C, dim], from `refine_captions`.
            timestep: [B], 1 - sigma, in 0..1.
            layout: of this size and these captions.
            controls: ControlNets with their pictures; what they add to the layers' outputs is summed.

        Returns:
            [B, h, w, in_channels].
        """
        batch, height, width, channels = latents.shape
        rows, columns = height // 2, width // 2
        count = rows * columns
        condition = self.t_embedder(timestep * self.config.t_scale, latents.dtype)
        x = fill_tokens(self.all_x_embedder["2-1"](to_patches(latents)), self.x_pad_token)
        added: dict[int, mx.array] = {}
        for control in controls:
            for index, hint in control(self, x, condition, captions=captions, layout=layout).items():
                added[index] = added[index] + hint if index in added else hint
        for block in self.noise_refiner:
            x = block(x, layout.image_rotary, None, condition)
        x = mx.concatenate([x, captions], axis=1)
        for index, block in enumerate(self.layers):
            x = block(x, layout.joint_rotary, layout.joint_mask, condition)
            x = x + added[index] if index in added else x
        x = self.all_final_layer["2-1"](x, condition)[:, :count]
        out = x.reshape(batch, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        return out.reshape(batch, height, width, channels)


def to_patches(latents: mx.array) -> mx.array:
    """[B, h, w, C] -> [B, h / 2 * w / 2, 4 C], patches of 2x2."""
    batch, height, width, channels = latents.shape
    patches = latents.reshape(batch, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(batch, height // 2 * (width // 2), -1)


def fill_tokens(x: mx.array, pad_token: mx.array) -> mx.array:
    """Tokens [B, L, dim], filled up to a multiple of 32."""
    filling = -x.shape[1] % TOKEN_MULTIPLE
    if not filling:
        return x
    pads = mx.broadcast_to(pad_token.astype(x.dtype), (x.shape[0], filling, x.shape[-1]))
    return mx.concatenate([x, pads], axis=1)


def make_layout(
    config: ZImageConfig, *, rows: int, columns: int, caption_lengths: Sequence[int]
) -> ZImageLayout:
    """Positions: captions count from 1 on the first axis; the picture's first axis is behind its own caption.

    Args:
        config: of the transformer.
        rows: of patches.
        columns: of patches.
        caption_lengths: tokens of each caption, at least 1.
    """
    padded = [length + -length % TOKEN_MULTIPLE for length in caption_lengths]
    longest, count = max(padded), rows * columns
    image_length = count + -count % TOKEN_MULTIPLE
    image_ids = np.zeros((len(padded), image_length, 3))
    caption_ids = np.zeros((len(padded), longest, 3))
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    for index, length in enumerate(padded):
        image_ids[index, :count, 0] = length + 1
        image_ids[index, :count, 1:] = grid
        caption_ids[index, :length, 0] = 1 + np.arange(length)
    positions = np.arange(longest)[None]
    pads = positions >= np.asarray(caption_lengths)[:, None]
    beyond = positions >= np.asarray(padded)[:, None]
    caption_mask = joint_mask = None
    if beyond.any():
        is_image = np.ones((len(padded), image_length), dtype=bool)
        seen = np.concatenate([is_image, ~beyond], axis=1)
        caption_mask, joint_mask = (mx.array(s)[:, None, None] for s in (~beyond, seen))

    def rotary(ids: np.ndarray) -> Rotary:
        cos, sin = rotary_embedding(ids.reshape(-1, 3), config.axes_dims, theta=config.rope_theta)
        shape = (ids.shape[0], 1, ids.shape[1], cos.shape[-1])
        return cos.reshape(shape), sin.reshape(shape)

    return ZImageLayout(
        image_rotary=rotary(image_ids),
        caption_rotary=rotary(caption_ids),
        joint_rotary=rotary(np.concatenate([image_ids, caption_ids], axis=1)),
        caption_pads=mx.array(pads)[..., None],
        caption_mask=caption_mask,
        joint_mask=joint_mask,
    )
