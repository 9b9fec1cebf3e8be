"""Applies LoRAs (Hu et al. 2021) to a pipeline: W + scale * alpha / rank * up @ down.

A LoRA is added into the weights tensor by tensor, so no second copy of the model exists; into quantized
weights nothing can be added, so a low-rank branch is put beside them. It is applied again whenever a
network is read again. Removing it drops the network: the next use reads the untouched weights from disk,
and the LoRAs that remain. So removal is exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import AdaptedQuantizedLinear, Linear, QuantizedLinear
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.lora_files import (
    KroneckerModule,
    LoraModule,
    LoraWeights,
    load_lora,
    shown_names,
)
from swiftai_nb.diffusion.weights.lora_targets import LoraTarget, lora_targets
from swiftai_nb.diffusion.weights.precision import assign, find_module

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


@dataclass(frozen=True)
class LoraUpdate:
    """One module's change: its path, and the matrices with alpha / rank in `factor`."""

    path: str
    down: mx.array
    up: mx.array
    factor: float


@dataclass(frozen=True)
class KroneckerUpdate:
    """One module's change by a Kronecker product: its path, the factors, and which outputs are its own."""

    path: str
    first: mx.array
    second: mx.array
    factor: float
    target: LoraTarget

    def own_outputs(self, values: mx.array, axis: int) -> mx.array:
        """The part of a change, or of its outputs, that belongs to this module."""
        if self.target.rows is not None:
            start, end = self.target.rows
            values = mx.split(values, [start, end], axis=axis)[1]
        if not self.target.swaps_halves:
            return values
        first, second = mx.split(values, 2, axis=axis)
        return mx.concatenate([second, first], axis=axis)


Update = LoraUpdate | KroneckerUpdate


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


def apply_lora(pipeline: HasNetworks, lora: LoraWeights, scale: float = 1.0) -> AppliedLora:
    """Puts a LoRA on a pipeline's networks, loaded or not.

    Args:
        pipeline: its denoiser and text encoders are looked at.
        lora: from `load_lora`.
        scale: 1.0 is as trained; any finite number.

    Returns:
        a handle that can take it off again.

    Raises:
        InvalidInputError: scale is not finite.
        InvalidModelFilesError: modules this model does not have, or of other sizes; counts and names them.
            The pipeline is then unchanged.
    """
    if not math.isfinite(scale):
        raise InvalidInputError(f"lora scale is {scale}, must be a finite number")
    updates = match_lora(lora, {name: part.blank() for name, part in pipeline.networks.items()})
    changes: dict[str, Callable[[nn.Module], None]] = {
        name: partial(merge_updates, updates=tuple(part), scale=scale) for name, part in updates.items()
    }
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


def _update(module: LoraModule | KroneckerModule, target: LoraTarget) -> Update:
    if isinstance(module, KroneckerModule):
        return KroneckerUpdate(target.path, module.first, module.second, module.factor, target)
    up = module.up if target.rows is None else module.up[slice(*target.rows)]
    if target.swaps_halves:
        first, second = mx.split(up, 2)
        up = mx.concatenate([second, first])
    mx.eval(up)
    return LoraUpdate(target.path, module.down, up, module.factor)


def _misfit(
    module: LoraModule | KroneckerModule,
    targets: tuple[LoraTarget, ...],
    networks: Mapping[str, nn.Module],
) -> str | None:
    weights = [find_module(networks[t.component], t.path).weight for t in targets]
    rows = targets[-1].rows
    outputs = weights[0].shape[0] if rows is None else rows[1]
    kernel = tuple(weights[0].shape[1:-1]) or (1, 1)
    needed = (outputs, weights[0].shape[-1], *kernel)
    given = module.size
    if given == needed:
        return None
    return f"{module.name} changes {_size_text(given)}, the model's is {_size_text(needed)}"


def _size_text(size: tuple[int, ...]) -> str:
    kernel = "" if size[2:] == (1, 1) else f" by a {size[2]}x{size[3]} kernel"
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
    for update in updates:
        layer = find_module(network, update.path)
        if isinstance(layer, QuantizedLinear):
            _add_branch(_adapted(network, layer, update.path), update, scale)
        else:
            layer.weight = _merged(layer, update, scale)


def _merged(layer: Any, update: Update, scale: float) -> mx.array:
    """The weight with the LoRA in it, summed in float32."""
    weight: mx.array = layer.weight
    delta = _delta(layer, update).reshape(weight.shape)
    merged = (weight.astype(mx.float32) + scale * update.factor * delta).astype(weight.dtype)
    mx.eval(merged)
    return merged


def _delta(layer: Any, update: Update) -> mx.array:
    if isinstance(update, KroneckerUpdate):
        product = mx.kron(update.first.astype(mx.float32), update.second.astype(mx.float32))
        return update.own_outputs(product, 0)
    rank = update.down.shape[0]
    up = update.up.astype(mx.float32).reshape(-1, rank)
    down = update.down.astype(mx.float32)
    if not isinstance(layer, Linear) and down.ndim == 4:
        down = down.transpose(0, 2, 3, 1)
    return ops.matmul(up, down.reshape(rank, -1))


def _adapted(network: nn.Module, layer: QuantizedLinear, path: str) -> AdaptedQuantizedLinear:
    if isinstance(layer, AdaptedQuantizedLinear):
        return layer
    adapted = AdaptedQuantizedLinear(layer)
    assign(network, path, adapted)
    return adapted


def _add_branch(layer: AdaptedQuantizedLinear, update: Update, scale: float) -> None:
    dtype = layer.scales.dtype
    if isinstance(update, KroneckerUpdate):
        first = (update.first.astype(mx.float32) * (scale * update.factor)).astype(dtype)
        second = update.second.astype(dtype)
        layer.add_kronecker(first=first, second=second, own_outputs=update.own_outputs)
        return
    rank = update.down.shape[0]
    down = update.down.reshape(rank, -1).astype(dtype)
    up = (update.up.astype(mx.float32).reshape(-1, rank) * (scale * update.factor)).astype(dtype)
    layer.add_branch(down=down, up=up)
