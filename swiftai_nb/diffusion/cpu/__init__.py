"""Arithmetic on the CPU: what `ops` calls instead of MLX where that was measured to be faster.

All functions take and give evaluated float32 MLX arrays and agree with plain MLX within 1e-5 relative.
"""

from swiftai_nb.diffusion.cpu.activations import geglu, gelu, gelu_tanh, quick_gelu, silu
from swiftai_nb.diffusion.cpu.arrays import add_into, concatenate_channels, double
from swiftai_nb.diffusion.cpu.attention import attention, multi_head_attention
from swiftai_nb.diffusion.cpu.convolution import conv2d
from swiftai_nb.diffusion.cpu.linear import linear, matmul, quantized_linear
from swiftai_nb.diffusion.cpu.normalization import group_norm, layer_norm
from swiftai_nb.diffusion.cpu.workers import clear_scratch

__all__ = [
    "add_into",
    "attention",
    "clear_scratch",
    "concatenate_channels",
    "conv2d",
    "double",
    "geglu",
    "gelu",
    "gelu_tanh",
    "group_norm",
    "layer_norm",
    "linear",
    "matmul",
    "multi_head_attention",
    "quantized_linear",
    "quick_gelu",
    "silu",
]
