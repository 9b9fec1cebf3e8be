"""An embedding table that stays packed: mflux packs tables as it packs linear maps."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class QuantizedEmbedding(nn.Module):  # type: ignore[misc]
    """ids [...] -> [..., width], unpacking only the rows asked for.

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
