"""Low-rank branches beside packed weights (Hu et al. 2021), which cannot be added into."""

from __future__ import annotations

import mlx.core as mx

from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import QuantizedLinear


class AdaptedQuantizedLinear(QuantizedLinear):
    """W x + b + up (down x), W packed; several LoRAs are stacked along the rank.

    Args:
        base: the layer whose packed weight is taken over, not copied.
        down: [rank, in].
        up: [out, rank], with the LoRA's scale in it.
    """

    def __init__(self, base: QuantizedLinear, *, down: mx.array, up: mx.array) -> None:
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
        self.lora_down, self.lora_up = down, up

    def __call__(self, x: mx.array) -> mx.array:
        """x: [..., in] -> [..., out]."""
        return super().__call__(x) + ops.linear(ops.linear(x, self.lora_down), self.lora_up)

    def add_branch(self, *, down: mx.array, up: mx.array) -> None:
        """Stacks a further branch onto the first."""
        self.lora_down = mx.concatenate([self.lora_down, down])
        self.lora_up = mx.concatenate([self.lora_up, up], axis=1)
        mx.eval(self.lora_down, self.lora_up)
