"""Compiled arithmetic for the CPU: functions of `swiftai_nb.diffusion.cpu` in C, where a library was built.

The C functions compute parts of an operation and start no threads; `workers.for_each` shares the parts, so
that threads, cancellation and forks are the same as for NumPy. Weights are read as they are stored and
rearranged part by part while they are used: loading costs nothing, and LoRAs change them as everywhere.
"""

from swiftai_nb.diffusion.cpu.native.attention import attention, multi_head_attention
from swiftai_nb.diffusion.cpu.native.convolution import conv2d
from swiftai_nb.diffusion.cpu.native.elementwise import (
    geglu,
    gelu,
    gelu_tanh,
    group_norm,
    layer_norm,
    quick_gelu,
    rms_norm,
    silu,
)
from swiftai_nb.diffusion.cpu.native.loader import library
from swiftai_nb.diffusion.cpu.native.products import half_products, linear, quantized_linear

__all__ = [
    "attention",
    "conv2d",
    "geglu",
    "gelu",
    "gelu_tanh",
    "group_norm",
    "half_products",
    "layer_norm",
    "library",
    "linear",
    "multi_head_attention",
    "quantized_linear",
    "quick_gelu",
    "rms_norm",
    "silu",
]
