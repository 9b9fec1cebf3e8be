"""The CPU's own arithmetic: what `ops` calls instead of MLX where that was measured to be faster.

All functions take and give evaluated float32 MLX arrays and agree with plain MLX within 1e-5 relative.
"""

from swiftai_nb.diffusion.cpu_math.activations import gelu, gelu_tanh, quick_gelu, silu
from swiftai_nb.diffusion.cpu_math.attention import attention
from swiftai_nb.diffusion.cpu_math.convolution import conv2d
from swiftai_nb.diffusion.cpu_math.linear import linear, quantized_linear
from swiftai_nb.diffusion.cpu_math.normalization import group_norm, layer_norm

__all__ = [
    "attention",
    "conv2d",
    "gelu",
    "gelu_tanh",
    "group_norm",
    "layer_norm",
    "linear",
    "quantized_linear",
    "quick_gelu",
    "silu",
]
