"""Layers shared by the networks: parameters here, arithmetic in `ops`.

Parameter paths equal the key names of diffusers and transformers files, so a weight file maps onto a
module tree by name. Fresh parameters are lazy zeros: they cost nothing until real weights replace them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
from mlx import nn

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.cpu.normalization import Norm

ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": ops.silu,
    "swish": ops.silu,
    "gelu": ops.gelu,
    "gelu_new": ops.gelu_tanh,
    "gelu_pytorch_tanh": ops.gelu_tanh,
    "quick_gelu": ops.quick_gelu,
}


class Linear(nn.Module):  # type: ignore[misc]
    """x W^T + b with W: [out, in]."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((out_features, in_features))
        if bias:
            self.bias = mx.zeros((out_features,))

    def __call__(self, x: mx.array) -> mx.array:
        return ops.linear(x, self.weight, self.get("bias"))


class QuantizedLinear(nn.Module):  # type: ignore[misc]
    """`Linear` whose weight is quantized by `mx.quantize` (affine).

    Args:
        in_features: a multiple of group_size.
        out_features: rows of the weight.
        bias: whether a bias is added.
        group_size: weights that share a scale and an offset.
        bits: 2, 3, 4, 6 or 8.
    """

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, group_size: int = 64, bits: int = 4
    ) -> None:
        super().__init__()
        self.group_size, self.bits = group_size, bits
        self.weight = mx.zeros((out_features, in_features * bits // 32), dtype=mx.uint32)
        self.scales = mx.zeros((out_features, in_features // group_size))
        self.biases = mx.zeros((out_features, in_features // group_size))
        if bias:
            self.bias = mx.zeros((out_features,))

    def __call__(self, x: mx.array) -> mx.array:
        return ops.quantized_linear(
            x,
            self.weight,
            self.scales,
            self.biases,
            self.get("bias"),
            group_size=self.group_size,
            bits=self.bits,
        )


class AdaptedQuantizedLinear(QuantizedLinear):
    """W x + b + up (down x) + (first ⊗ second) x, W quantized; several LoRAs are stacked along the rank.

    Args:
        base: the layer whose quantized weight is taken over, not copied.
    """

    def __init__(self, base: QuantizedLinear) -> None:
        super().__init__(
            base.scales.shape[-1] * base.group_size,
            base.weight.shape[0],
            bias="bias" in base,
            group_size=base.group_size,
            bits=base.bits,
        )
        for name in ("weight", "scales", "biases", "bias"):
            if name in base:
                self[name] = base[name]
        self._kronecker: list[tuple[mx.array, mx.array, Callable[[mx.array, int], mx.array]]] = []

    def __call__(self, x: mx.array) -> mx.array:
        """x: [..., in] -> [..., out]."""
        y = super().__call__(x)
        if "lora_down" in self:
            y = y + ops.linear(ops.linear(x, self.lora_down), self.lora_up)
        for first, second, own_outputs in self._kronecker:
            y = y + own_outputs(_kronecker_linear(x, first, second), -1)
        return y

    def add_branch(self, *, down: mx.array, up: mx.array) -> None:
        """Adds up (down x).

        Args:
            down: [rank, in].
            up: [out, rank], with the LoRA's scale in it.
        """
        if "lora_down" in self:
            down = mx.concatenate([self["lora_down"], down])
            up = mx.concatenate([self["lora_up"], up], axis=1)
        self.lora_down, self.lora_up = down, up
        mx.eval(down, up)

    def add_kronecker(
        self, *, first: mx.array, second: mx.array, own_outputs: Callable[[mx.array, int], mx.array]
    ) -> None:
        """Adds (first ⊗ second) x.

        Args:
            first: [m, n], with the scale in it.
            second: [p, q]; n q is `in`.
            own_outputs: (m p outputs, axis) -> those of this layer.
        """
        mx.eval(first, second)
        self._kronecker.append((first, second, own_outputs))


def _kronecker_linear(x: mx.array, first: mx.array, second: mx.array) -> mx.array:
    """(first ⊗ second) x without making the product: x [..., n q] -> [..., m p]."""
    columns = x.reshape(*x.shape[:-1], first.shape[1], second.shape[1])
    inner = ops.linear(columns, second)
    outer = ops.linear(inner.swapaxes(-1, -2), first)
    return outer.swapaxes(-1, -2).reshape(*x.shape[:-1], -1)


class Conv2d(nn.Module):  # type: ignore[misc]
    """2-D convolution on [B, H, W, C] with weight [O, k, k, C]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = mx.zeros((out_channels, kernel_size, kernel_size, in_channels))
        if bias:
            self.bias = mx.zeros((out_channels,))

    def __call__(
        self,
        x: mx.array,
        *,
        norm: GroupNorm | None = None,
        doubled: bool = False,
        offsets: mx.array | None = None,
        residual: mx.array | None = None,
        reuse: bool = False,
    ) -> mx.array:
        """The convolution of x, or of silu(norm(x)); see `ops.conv2d`."""
        if norm is not None and norm.statistics is not None:
            x, norm = norm(x, apply_silu=True), None
        return ops.conv2d(
            x,
            self.weight,
            self.get("bias"),
            stride=self.stride,
            padding=self.padding,
            norm=None if norm is None else Norm(norm.weight, norm.bias, norm.groups, norm.eps),
            doubled=doubled,
            offsets=offsets,
            residual=residual,
            reuse=reuse,
        )


class GroupStatistics:
    """Mean and variance per group over several inputs, for pictures that are worked on in tiles.

    Collects from every input until `freeze`; from then on normalizes by what it has collected.

    Attributes:
        window: what part of the inputs to collect from: (top, bottom, left, right) within
            (height, width), for inputs of that size or whole multiples of it; None is all.
    """

    def __init__(self) -> None:
        self.window: tuple[tuple[int, int, int, int], tuple[int, int]] | None = None
        self._count = 0
        self._sums: mx.array | None = None
        self._frozen = False

    def freeze(self) -> None:
        """Ends collecting."""
        self._frozen = True

    def normalize(self, x: mx.array, *, groups: int, eps: float) -> mx.array | None:
        """[B, ..., C] normalized by the collected statistics; None while collecting."""
        if not self._frozen:
            self._collect(x, groups)
            return None
        if self._sums is None:
            raise ValueError("no statistics were collected")
        mean, square = self._sums[0] / self._count, self._sums[1] / self._count
        factor = mx.rsqrt(square - mean * mean + eps)
        size = x.shape[-1] // groups
        return (x - mx.repeat(mean, size).astype(x.dtype)) * mx.repeat(factor, size).astype(x.dtype)

    def _collect(self, x: mx.array, groups: int) -> None:
        if self.window is not None:
            (top, bottom, left, right), (height, width) = self.window
            y, z = x.shape[1] // height, x.shape[2] // width
            x = x[:, top * y : bottom * y, left * z : right * z]
        values = x.reshape(-1, groups, x.shape[-1] // groups).astype(mx.float32)
        count = values.shape[0] * values.shape[2]
        means = mx.stack([mx.mean(values, axis=(0, 2)), mx.mean(mx.square(values), axis=(0, 2))])
        sums = means * count if self._sums is None else self._sums + means * count
        mx.eval(sums)
        self._sums, self._count = sums, self._count + count


class GroupNorm(nn.Module):  # type: ignore[misc]
    """Group normalization over [B, ..., C] with PyTorch's grouping."""

    def __init__(self, groups: int, channels: int, *, eps: float) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.statistics: GroupStatistics | None = None
        self.weight = mx.zeros((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array, *, apply_silu: bool = False) -> mx.array:
        if self.statistics is not None:
            shared = self.statistics.normalize(x, groups=self.groups, eps=self.eps)
            if shared is not None:
                shared = shared * self.weight + self.bias
                return ops.silu(shared) if apply_silu else shared
        return ops.group_norm(
            x, self.weight, self.bias, groups=self.groups, eps=self.eps, apply_silu=apply_silu
        )


class LayerNorm(nn.Module):  # type: ignore[misc]
    """Layer normalization over the last axis."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mx.zeros((channels,))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(nn.Module):  # type: ignore[misc]
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; the mean is taken in float32."""

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return ops.rms_norm(x, self.weight, eps=self.eps)


class Embedding(nn.Module):  # type: ignore[misc]
    """A table of vectors: ids [...] -> [..., width].

    Attributes:
        dtype: of the vectors it gives; None is the table's own.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((count, width))
        self.dtype: mx.Dtype | None = None

    def __call__(self, ids: mx.array) -> mx.array:
        vectors = self.weight[ids]
        return vectors if self.dtype is None else vectors.astype(self.dtype)


class QuantizedEmbedding(nn.Module):  # type: ignore[misc]
    """ids [...] -> [..., width], dequantizing only the rows asked for.

    Args:
        count: rows.
        width: a multiple of group_size.
        group_size: weights that share a scale and an offset.
        bits: per weight.
    """

    def __init__(self, count: int, width: int, *, group_size: int = 64, bits: int = 4) -> None:
        super().__init__()
        self.group_size, self.bits = group_size, bits
        self.weight = mx.zeros((count, width * bits // 32), dtype=mx.uint32)
        self.scales = mx.zeros((count, width // group_size))
        self.biases = mx.zeros((count, width // group_size))

    def __call__(self, ids: mx.array) -> mx.array:
        """Looks rows up."""
        return mx.dequantize(
            self.weight[ids],
            scales=self.scales[ids],
            biases=self.biases[ids],
            group_size=self.group_size,
            bits=self.bits,
        )


class NoParameters(nn.Module):  # type: ignore[misc]
    """Stands where a file has no parameters (Dropout, activations), so list positions keep their names."""


def sinusoidal_embedding(
    values: mx.array, width: int, *, cosine_first: bool = True, frequency_shift: float = 0.0
) -> mx.array:
    """Sinusoidal features of scalars (Vaswani et al. 2017, as DDPM uses them).

    Args:
        values: [N], timesteps or sizes.
        width: even number of features.
        cosine_first: [cos, sin], as Stable Diffusion and FLUX order them; False gives [sin, cos].
        frequency_shift: frequencies are exp(-ln(10000) i / (width/2 - shift)).

    Returns:
        [N, width], float32.
    """
    half = width // 2
    exponent = mx.arange(half, dtype=mx.float32) * (-math.log(10000.0) / (half - frequency_shift))
    angles = values.astype(mx.float32)[:, None] * mx.exp(exponent)[None]
    parts = [mx.cos(angles), mx.sin(angles)]
    return mx.concatenate(parts if cosine_first else parts[::-1], axis=-1)


class TimestepEmbedding(nn.Module):  # type: ignore[misc]
    """linear_2(act(linear_1(x + cond_proj(condition)))).

    Args:
        in_features: width of the sinusoidal features.
        width: width of the result.
        cond_features: width of an extra condition (the guidance embedding of LCM UNets), or None.
        activation: between the two linear maps.
        out_features: width of the result when it differs from `width`.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        cond_features: int | None = None,
        activation: str = "silu",
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.linear_1 = Linear(in_features, width)
        self.linear_2 = Linear(width, width if out_features is None else out_features)
        if cond_features is not None:
            self.cond_proj = Linear(cond_features, in_features, bias=False)

    def __call__(self, x: mx.array, condition: mx.array | None = None) -> mx.array:
        if condition is not None:
            x = x + self.cond_proj(condition)
        return self.linear_2(ACTIVATIONS[self.activation](self.linear_1(x)))


def upsample_nearest(x: mx.array, size: tuple[int, int] | None = None) -> mx.array:
    """Nearest-neighbor upsampling of [B, H, W, C] by two, or to `size` = (height, width)."""
    height, width = x.shape[1:3]
    if size is None or tuple(size) == (2 * height, 2 * width):
        return ops.double(x)
    rows = mx.arange(size[0]) * height // size[0]
    columns = mx.arange(size[1]) * width // size[1]
    return x[:, rows][:, :, columns]
