"""The precision of weights: dtypes, and 4 and 8 bits, quantized while loading or as files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.config import QUANTIZATION_BITS
from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion import gpu
from swiftai_nb.diffusion.models.layers import Embedding, Linear, QuantizedEmbedding, QuantizedLinear

DEFAULT_GROUP_SIZE = 64
_STORED_BITS = (2, 3, 4, 5, 6, 8)
# Smaller weights save no memory worth the widening; input maps, by which networks tell their compute
# dtype, are among them.
_LARGE_WEIGHT = 1 << 17
_NAMES = {
    "float32": mx.float32, "fp32": mx.float32,
    "float16": mx.float16, "fp16": mx.float16,
    "bfloat16": mx.bfloat16, "bf16": mx.bfloat16,
}  # fmt: skip


def resolve_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype:
    """The compute dtype: as asked, or float32 on the CPU and float16 on a GPU.

    On the CPU 16-bit arithmetic is about 50 times slower than float32.

    Args:
        dtype: "float32", "float16", "bfloat16" (or "fp32", "fp16", "bf16"), an mlx dtype, or None.

    Raises:
        InvalidInputError: another dtype.
    """
    if dtype is None:
        return mx.float32 if mx.default_device() == mx.cpu else mx.float16
    resolved = _NAMES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in (mx.float32, mx.float16, mx.bfloat16):
        raise InvalidInputError(f"dtype {dtype} is not supported", hint="use float32, float16 or bfloat16")
    return resolved


def flow_dtypes(dtype: mx.Dtype, *, fits_float16: bool) -> tuple[mx.Dtype, mx.Dtype]:
    """The compute dtypes of a flow model's (text encoders, transformer).

    In 16 bits both are bfloat16, as they were trained: T5 and Qwen3 overflow float16. A transformer that does
    not is computed in float16 where the GPU has no bfloat16 arithmetic.

    Args:
        dtype: from `resolve_dtype`.
        fits_float16: whether the transformer's activations stay within float16.
    """
    if dtype != mx.float16:
        return dtype, dtype
    return mx.bfloat16, mx.float16 if fits_float16 and not gpu.has_bfloat16() else mx.bfloat16


def storage_dtype(stored: mx.Dtype, compute: mx.Dtype, *, size: int) -> mx.Dtype:
    """The dtype that the weight of a dense layer, a convolution or a table of vectors is kept in.

    On the CPU large weights of 16-bit files stay as they are, and operations widen them exactly where they
    use them: half the memory, the same numbers. Elsewhere weights have the compute dtype.

    Args:
        stored: dtype in the file.
        compute: from `resolve_dtype`.
        size: number of elements.
    """
    halves = (mx.float16, mx.bfloat16)
    keeps = compute == mx.float32 and stored in halves and size >= _LARGE_WEIGHT
    return stored if keeps and mx.default_device() == mx.cpu else compute


def check_bits(bits: int | None) -> None:
    """Refuses what cannot be quantized to.

    Raises:
        InvalidInputError: bits is neither None nor one of `QUANTIZATION_BITS`.
    """
    if bits is not None and bits not in QUANTIZATION_BITS:
        listed = ", ".join(str(n) for n in QUANTIZATION_BITS)
        raise InvalidInputError(
            f"quantization_bits is {bits}, must be one of {listed}", hint="leave it out for none"
        )


def quantize_weight(
    module: nn.Module, path: str, weight: mx.array, *, bits: int, group_size: int = DEFAULT_GROUP_SIZE
) -> None:
    """Replaces the `Linear` that owns the parameter `path` by a `QuantizedLinear` with `weight` quantized.

    Args:
        module: the root.
        path: e.g. "mid_block.attentions.0.proj_in.weight".
        weight: [out, in], floating.
        bits: per weight.
        group_size: divides in.
    """
    packed, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
    mx.eval(packed, scales, biases)
    layer = _quantized_linear(module, path.rpartition(".")[0], bits=bits, group_size=group_size)
    layer.weight, layer.scales, layer.biases = packed, scales, biases


def prepare_stored_quantization(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Swaps in quantized layers wherever files hold quantized weights, inferring bits and group size.

    Args:
        module: freshly built.
        shapes: stored shapes by parameter path; a path ending in ".scales" marks a quantized weight.

    Raises:
        InvalidModelFilesError: shapes from which no bits or group size follow.
    """
    for scales_path in [path for path in shapes if path.endswith(".scales")]:
        path = scales_path.removesuffix(".scales")
        packed = shapes.get(f"{path}.weight")
        layer = _layer_at(module, path)
        if packed is None or layer is None:
            continue
        bits, group_size = _stored_quantization(path, packed, shapes[scales_path], layer.weight.shape[1])
        if isinstance(layer, Linear):
            _quantized_linear(module, path, bits=bits, group_size=group_size)
        else:
            count, width = layer.weight.shape
            assign(module, path, QuantizedEmbedding(count, width, group_size=group_size, bits=bits))


def _layer_at(module: nn.Module, path: str) -> Linear | Embedding | None:
    try:
        layer = find_module(module, path)
    except KeyError:
        return None
    return layer if isinstance(layer, (Linear, Embedding)) else None


def _stored_quantization(
    path: str, packed: tuple[int, ...], scales: tuple[int, ...], inputs: int
) -> tuple[int, int]:
    """(bits, group size) of a weight with so many inputs."""
    bits, rest = divmod(packed[-1] * 32, inputs) if len(packed) == 2 else (0, 0)
    group_size, rest_groups = divmod(inputs, scales[-1]) if len(scales) == 2 and scales[-1] else (0, 0)
    if rest or rest_groups or not group_size or bits not in _STORED_BITS:
        raise InvalidModelFilesError(
            f"{path}.weight {list(packed)} with scales {list(scales)} is no known quantization of a layer "
            f"with {inputs} inputs",
            hint="download the model again",
        )
    return bits, group_size


def _quantized_linear(module: nn.Module, path: str, *, bits: int, group_size: int) -> QuantizedLinear:
    old = find_module(module, path)
    outputs, inputs = old.weight.shape
    layer = QuantizedLinear(inputs, outputs, bias="bias" in old, bits=bits, group_size=group_size)
    if "bias" in old:
        layer.bias = old.bias
    assign(module, path, layer)
    return layer


def find_module(module: nn.Module, path: str) -> Any:
    """The submodule (or list) at a dotted path; numbers index lists.

    Raises:
        KeyError: no such path.
    """
    node: Any = module
    for part in path.split(".") if path else ():
        try:
            node = node[int(part)] if isinstance(node, list) else node[part]
        except (IndexError, ValueError, KeyError):
            raise KeyError(path) from None
    return node


def assign(module: nn.Module, path: str, value: mx.array | nn.Module) -> None:
    """Puts a parameter or submodule at a dotted path."""
    owner_path, _, name = path.rpartition(".")
    owner = find_module(module, owner_path)
    owner[int(name) if isinstance(owner, list) else name] = value
