"""Packing the weights of linear maps into 4 or 8 bits, while loading or as files already hold them."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion.models.layers import Linear, QuantizedLinear
from swiftai_nb.diffusion.weights.module_paths import assign, find_module, has_path

SUPPORTED_BITS = (4, 8)
DEFAULT_GROUP_SIZE = 64


def check_bits(bits: int | None) -> None:
    """Refuses what cannot be quantized to.

    Raises:
        InvalidInputError: bits is neither None, 4 nor 8.
    """
    if bits is not None and bits not in SUPPORTED_BITS:
        raise InvalidInputError(f"quantization_bits is {bits}, must be 4 or 8", hint="Leave it out for none.")


def quantize_weight(
    module: nn.Module, path: str, weight: mx.array, *, bits: int, group_size: int = DEFAULT_GROUP_SIZE
) -> None:
    """Replaces the `Linear` that owns the parameter `path` by a `QuantizedLinear` with `weight` packed.

    Args:
        module: the root.
        path: e.g. "mid_block.attentions.0.proj_in.weight".
        weight: [out, in], floating.
        bits: per weight.
        group_size: divides in.
    """
    packed, scales, biases = mx.quantize(weight, group_size=group_size, bits=bits)
    mx.eval(packed, scales, biases)
    layer = _quantized_like(module, path.rpartition(".")[0], in_features=weight.shape[1], bits=bits,
                            group_size=group_size)  # fmt: skip
    layer.weight, layer.scales, layer.biases = packed, scales, biases


def prepare_stored_quantization(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Swaps in a `QuantizedLinear` wherever files hold packed weights, inferring bits and group size.

    Args:
        module: freshly built.
        shapes: stored shapes by parameter path; a path ending in ".scales" marks a packed weight.

    Raises:
        InvalidModelFilesError: shapes from which no bits or group size follow.
    """
    for scales_path, (_, groups) in ((p, s) for p, s in shapes.items() if p.endswith(".scales")):
        path = scales_path.removesuffix(".scales")
        packed = shapes.get(f"{path}.weight")
        if packed is None or not has_path(module, path):
            continue
        layer = find_module(module, path)
        if not isinstance(layer, Linear):
            continue
        in_features = layer.weight.shape[1]
        bits, rest = divmod(packed[-1] * 32, in_features)
        group_size, rest_groups = divmod(in_features, groups)
        if rest or rest_groups or bits not in (2, 3, 4, 5, 6, 8):
            raise InvalidModelFilesError(
                f"{path}.weight {list(packed)} with scales {[packed[0], groups]} is no known packing of a "
                f"linear map with {in_features} inputs"
            )
        _quantized_like(module, path, in_features=in_features, bits=bits, group_size=group_size)


def _quantized_like(
    module: nn.Module, path: str, *, in_features: int, bits: int, group_size: int
) -> QuantizedLinear:
    old = find_module(module, path)
    layer = QuantizedLinear(
        in_features, old.weight.shape[0], bias="bias" in old, bits=bits, group_size=group_size
    )
    if "bias" in old:
        layer.bias = old.bias
    assign(module, path, layer)
    return layer
