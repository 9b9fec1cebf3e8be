"""Root-mean-square normalization (Zhang and Sennrich 2019), used by T5 and FLUX."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class RMSNorm(nn.Module):  # type: ignore[misc]
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; the mean is taken in float32."""

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, self.weight, self.eps)
