"""Applies LoRAs (Hu et al. 2021) to a pipeline: W + scale * alpha / rank * up @ down, and their other kinds.

A LoRA is added into the weights tensor by tensor, so no second copy of the model exists. Beside quantized
weights a branch is put for what is of low rank; other changes are quantized with the weight. A LoRA is
applied again whenever a network is read again. Removing it drops the network: the next use reads the
untouched weights from disk, and the LoRAs that remain. So removal is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.core.lora_blocks import block_scales
from swiftai_nb.diffusion.models.layers import AdaptedQuantizedLinear, QuantizedLinear
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.lora_files import LoraWeights, load_lora
from swiftai_nb.diffusion.weights.lora_modules import (
    AdapterModule,
    HadamardModule,
    KroneckerModule,
    LoraModule,
    OrthogonalModule,
)
from swiftai_nb.diffusion.weights.lora_targets import LoraTarget, block_of, lora_targets
from swiftai_nb.diffusion.weights.precision import assign, find_module
from swiftai_nb.diffusion.weights.textual_inversion import TextualInversion
from swiftai_nb.model_files.adapter_files import shown_names

__all__ = ["AppliedLora", "LoraWeights", "apply_lora", "load_lora"]

_CONTEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_FLUX_2_MARKS = ("to_qkv_mlp_proj", "stream_modulation")
_Z_IMAGE_NAME = re.compile(
    r"(^|[._])(layers|noise_refiner|context_refiner)[._]\d+[._](attention|feed_forward)"
)
_FLUX_MARKS = ("double_blocks", "single_blocks", "single_transformer_blocks")


class HasNetworks(Protocol):
    """A pipeline as LoRAs see it."""

    @property
    def networks(self) -> Mapping[str, Component[Any]]:
        """Components by name."""
        ...

    @property
    def embeddings(self) -> tuple[TextualInversion, ...]:
        """Textual inversions in use."""
        ...

    def set_embeddings(self, embeddings: Sequence[TextualInversion]) -> None:
        """Replaces them."""
        ...


@dataclass(frozen=True)
class Update:
    """The change of one module of a network: what the file says, where it goes, and its block's scale."""

    module: AdapterModule
    target: LoraTarget
    scale: float = 1.0

    def own_outputs(self, values: mx.array, axis: int) -> mx.array:
        """The part of a change, or of its outputs, that belongs to the target."""
        return self.target.own_outputs(values, axis)


@dataclass(frozen=True)
class AppliedLora:
    """A LoRA on a pipeline.

    Attributes:
        lora: what was applied.
        scale: how strongly.
        changes: what was registered, by component.
    """

    lora: LoraWeights
    scale: float
    changes: Mapping[str, Callable[[nn.Module], None]]
    pipeline: HasNetworks

    def remove(self) -> None:
        """Takes it off: touched networks are dropped and read again, without it, when next used."""
        for name, change in self.changes.items():
            self.pipeline.networks[name].remove_after_load(change)
        if self.lora.embeddings:
            kept = [one for one in self.pipeline.embeddings if one not in self.lora.embeddings]
            self.pipeline.set_embeddings(kept)


def apply_lora(
    pipeline: HasNetworks, lora: LoraWeights, scale: float = 1.0, *, blocks: str | None = None
) -> AppliedLora:
    """Puts a LoRA on a pipeline's networks, loaded or not.

    Args:
        pipeline: its denoiser and text encoders are looked at.
        lora: from `load_lora`.
        scale: 1.0 is as trained; any finite number.
        blocks: scales by block of the UNet, in the forms of `core.lora_blocks`.

    Returns:
        a handle that can take it off again.

    Raises:
        InvalidInputError: scale is not finite, blocks cannot be read, or the model has no UNet.
        InvalidModelFilesError: modules this model does not have, or of other sizes; counts and names them.
            The pipeline is then unchanged.
    """
    if not math.isfinite(scale):
        raise InvalidInputError(f"lora scale is {scale}, must be a finite number")
    networks = {name: part.blank() for name, part in pipeline.networks.items()}
    updates = match_lora(lora, networks)
    if blocks is not None:
        if "unet" not in networks:
            raise InvalidInputError(
                "lora blocks are those of Stable Diffusion and SDXL", hint="leave them out"
            )
        scales = block_scales(blocks)
        updates = {
            name: [replace(one, scale=scales.get(block_of(one.target, networks), 1.0)) for one in part]
            for name, part in updates.items()
        }
    changes: dict[str, Callable[[nn.Module], None]] = {
        name: partial(merge_updates, updates=tuple(part), scale=scale) for name, part in updates.items()
    }
    if lora.embeddings:
        pipeline.set_embeddings((*pipeline.embeddings, *lora.embeddings))
    for name, change in changes.items():
        pipeline.networks[name].after_load(change)
    return AppliedLora(lora, scale, changes, pipeline)


def match_lora(lora: LoraWeights, networks: Mapping[str, nn.Module]) -> dict[str, list[Update]]:
    """Finds every LoRA module's place.

    Args:
        lora: from `load_lora`.
        networks: by component, loaded or not.

    Raises:
        InvalidModelFilesError: names without a place, or matrices that do not fit theirs.
    """
    table = lora_targets(networks)
    unknown, misfits = [], []
    updates: dict[str, list[Update]] = {}
    for name, module in lora.modules.items():
        targets = table.get(name, ())
        if not targets:
            unknown.append(name)
        elif (misfit := _misfit(module, targets, networks)) is not None:
            misfits.append(misfit)
        else:
            for target in targets:
                updates.setdefault(target.component, []).append(_update(module, target))
    if unknown or misfits:
        raise _does_not_fit(lora, unknown, misfits)
    return updates


def _update(module: AdapterModule, target: LoraTarget) -> Update:
    """A module with what of its arrays belongs to a target; products are divided when they are computed."""
    if target.rows is None and not target.swaps_halves:
        return Update(module, target)
    parts: dict[str, Any] = {}
    for name in ("up", "difference", "magnitude", "bias"):
        value = getattr(module, name, None)
        if value is not None:
            parts[name] = mx.contiguous(target.own_outputs(value))
    mx.eval(list(parts.values()))
    return Update(replace(module, **parts), target)


def _misfit(
    module: AdapterModule,
    targets: tuple[LoraTarget, ...],
    networks: Mapping[str, nn.Module],
) -> str | None:
    layers = [find_module(networks[target.component], target.path) for target in targets]
    rows, weight = targets[-1].rows, layers[0].weight
    outputs = weight.shape[0] if rows is None else rows[1]
    inputs = _inputs(layers[0])
    needed = (outputs,) if weight.ndim == 1 else (outputs, inputs, *(tuple(weight.shape[1:-1]) or (1, 1)))
    if not module.fits(needed):
        return f"{module.name} changes {_size_text(module.size)}, the model's is {_size_text(needed)}"
    if module.bias is not None and (
        module.bias.size != outputs or not all("bias" in layer for layer in layers)
    ):
        return f"{module.name} changes a bias that the model does not have"
    is_divided = len(targets) > 1 or targets[0].swaps_halves
    if is_divided and (isinstance(module, OrthogonalModule) or _has_input_magnitude(module, outputs)):
        return f"{module.name} changes a weight that this model keeps in parts"
    if module.magnitude is not None and module.magnitude.size not in _magnitude_sizes(module, needed):
        return f"{module.name} has {module.magnitude.size} magnitudes for {_size_text(needed)}"
    return None


def _inputs(layer: Any) -> int:
    if isinstance(layer, QuantizedLinear):
        return int(layer.scales.shape[-1] * layer.group_size)
    return int(layer.weight.shape[-1])


def _has_input_magnitude(module: AdapterModule, outputs: int) -> bool:
    magnitude = module.magnitude
    return magnitude is not None and magnitude.ndim > 1 and magnitude.shape[0] == 1 < outputs


def _magnitude_sizes(module: AdapterModule, size: tuple[int, ...]) -> tuple[int, ...]:
    return size[1:2] if _has_input_magnitude(module, size[0]) else size[:1]


def _size_text(size: tuple[int, ...]) -> str:
    if len(size) not in (2, 4):
        return f"{' x '.join(str(side) for side in size) or 0} channels"
    kernel = "" if size[2:] in ((), (1, 1)) else f" by a {size[2]}x{size[3]} kernel"
    return f"{size[1]} -> {size[0]}{kernel}"


def _does_not_fit(lora: LoraWeights, unknown: list[str], misfits: list[str]) -> InvalidModelFilesError:
    total, parts = len(lora.modules), []
    if unknown:
        parts.append(f"{len(unknown)} of {total} modules are not in this model: {shown_names(unknown)}")
    if misfits:
        parts.append(f"{len(misfits)} of {total} have another size: {shown_names(misfits)}")
    family = guess_family(lora)
    hint = "use a LoRA made for this model" if family is None else f"this LoRA looks made for {family}"
    return InvalidModelFilesError(f"{lora.path.name} does not fit. {' | '.join(parts)}", hint=hint)


def guess_family(lora: LoraWeights) -> str | None:
    """Which family a LoRA was made for, from names and the width of the text it attends to."""
    if any(mark in name for name in lora.modules for mark in _FLUX_2_MARKS):
        return "FLUX.2"
    if any(_Z_IMAGE_NAME.search(name) for name in lora.modules):
        return "Z-Image"
    if any(mark in name for name in lora.modules for mark in _FLUX_MARKS):
        return "FLUX.1"
    for name, module in lora.modules.items():
        if name.endswith(("attn2.to_k", "attn2_to_k", "attn2.processor.to_k_lora")):
            return _CONTEXT_WIDTHS.get(module.size[1])
    return None


def merge_updates(network: nn.Module, *, updates: tuple[Update, ...], scale: float) -> None:
    """Changes a loaded network's weights, one after the other."""
    whole = scale
    for update in updates:
        scale = whole * update.scale
        if scale == 0.0:
            continue
        layer, module = find_module(network, update.target.path), update.module
        if module.bias is not None:
            layer.bias = (layer.bias.astype(mx.float32) + scale * module.bias).astype(layer.bias.dtype)
            mx.eval(layer.bias)
        if not isinstance(layer, QuantizedLinear):
            layer.weight = _merged(layer.weight, update, scale)
        elif _is_branch(module):
            _add_branch(_adapted(network, layer, update.target.path), update, scale)
        else:
            _requantize(layer, update, scale)


def _merged(weight: mx.array, update: Update, scale: float) -> mx.array:
    """The changed weight, computed in float32; in the network's layout, of the weight's dtype."""
    filed = weight.astype(mx.float32)
    if weight.ndim == 4:
        filed = filed.transpose(0, 3, 1, 2)
    is_whole = isinstance(update.module, (KroneckerModule, HadamardModule))
    merged = update.module.merged(filed, scale, update.target.own_outputs if is_whole else None)
    if weight.ndim == 4:
        merged = merged.transpose(0, 2, 3, 1)
    merged = mx.contiguous(merged).astype(weight.dtype)
    mx.eval(merged)
    return merged


def _is_branch(module: AdapterModule) -> bool:
    """Whether a change can be computed beside a quantized weight."""
    if module.magnitude is not None:
        return False
    return isinstance(module, LoraModule) or (isinstance(module, KroneckerModule) and module.second.ndim == 2)


def _requantize(layer: QuantizedLinear, update: Update, scale: float) -> None:
    """Changes a quantized weight itself, at the cost of rounding it once more."""
    options: dict[str, Any] = {"group_size": layer.group_size, "bits": layer.bits}
    weight = mx.dequantize(layer.weight, layer.scales, layer.biases, **options)
    dtype = layer.scales.dtype
    packed, scales, biases = mx.quantize(_merged(weight, update, scale), **options)
    layer.weight, layer.scales, layer.biases = packed, scales.astype(dtype), biases.astype(dtype)
    mx.eval(layer.weight, layer.scales, layer.biases)


def _adapted(network: nn.Module, layer: QuantizedLinear, path: str) -> AdaptedQuantizedLinear:
    if isinstance(layer, AdaptedQuantizedLinear):
        return layer
    adapted = AdaptedQuantizedLinear(layer)
    assign(network, path, adapted)
    return adapted


def _add_branch(layer: AdaptedQuantizedLinear, update: Update, scale: float) -> None:
    dtype, module = layer.scales.dtype, update.module
    if isinstance(module, KroneckerModule):
        first = (module.first.astype(mx.float32) * (scale * module.factor)).astype(dtype)
        second = module.second.astype(dtype)
        layer.add_kronecker(first=first, second=second, own_outputs=update.own_outputs)
    elif isinstance(module, LoraModule):
        rank = module.down.shape[0]
        down = module.down.reshape(rank, -1).astype(dtype)
        up = (module.up.astype(mx.float32).reshape(-1, rank) * (scale * module.factor)).astype(dtype)
        layer.add_branch(down=down, up=up)
