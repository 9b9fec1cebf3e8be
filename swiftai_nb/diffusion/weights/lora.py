"""Applies LoRAs (Hu et al. 2021) to a pipeline: W + scale * alpha / rank * up @ down.

A LoRA is added into the weights tensor by tensor, so no second copy of the model exists; into quantized
weights nothing can be added, so a low-rank branch is put beside them. It is applied again whenever a
network is read again. Removing it drops the network: the next use reads the untouched weights from disk,
and the LoRAs that remain. So removal is exact.

The table of names is made from the model's own networks, so it knows exactly which modules exist: a name
that is not in it belongs to another model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import AdaptedQuantizedLinear, Conv2d, Linear, QuantizedLinear
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.flux2_tensors import FLUX2_BFL_RULES
from swiftai_nb.diffusion.weights.flux_tensors import BFL_RULES, ModuleRule
from swiftai_nb.diffusion.weights.lora_files import LoraModule, LoraWeights, load_lora, shown_names
from swiftai_nb.diffusion.weights.precision import assign, find_module

__all__ = ["AppliedLora", "LoraWeights", "apply_lora", "load_lora"]

_CONTEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_FLUX_2_MARKS = ("to_qkv_mlp_proj", "stream_modulation")
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


def match_lora(lora: LoraWeights, networks: Mapping[str, nn.Module]) -> dict[str, list[LoraUpdate]]:
    """Finds every LoRA module's place.

    Args:
        lora: from `load_lora`.
        networks: by component, loaded or not.

    Raises:
        InvalidModelFilesError: names without a place, or matrices that do not fit theirs.
    """
    table = lora_targets(networks)
    unknown, misfits = [], []
    updates: dict[str, list[LoraUpdate]] = {}
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


def _update(module: LoraModule, target: LoraTarget) -> LoraUpdate:
    up = module.up if target.rows is None else module.up[slice(*target.rows)]
    if target.swaps_halves:
        first, second = mx.split(up, 2)
        up = mx.concatenate([second, first])
    mx.eval(up)
    return LoraUpdate(target.path, module.down, up, module.factor)


def _misfit(
    module: LoraModule, targets: tuple[LoraTarget, ...], networks: Mapping[str, nn.Module]
) -> str | None:
    weights = [find_module(networks[t.component], t.path).weight for t in targets]
    rows = targets[-1].rows
    outputs = weights[0].shape[0] if rows is None else rows[1]
    kernel = tuple(weights[0].shape[1:-1]) or (1, 1)
    needed = (outputs, weights[0].shape[-1], *kernel)
    given = (module.up.shape[0], module.down.shape[1], *(module.down.shape[2:] or (1, 1)))
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
    if any(mark in name for name in lora.modules for mark in _FLUX_MARKS):
        return "FLUX.1"
    for name, module in lora.modules.items():
        if name.endswith(("attn2.to_k", "attn2_to_k", "attn2.processor.to_k_lora")):
            return _CONTEXT_WIDTHS.get(int(module.down.shape[1]))
    return None


def merge_updates(network: nn.Module, *, updates: tuple[LoraUpdate, ...], scale: float) -> None:
    """Changes a loaded network's weights, one after the other."""
    for update in updates:
        layer = find_module(network, update.path)
        if isinstance(layer, QuantizedLinear):
            _add_branch(network, layer, update, scale)
        else:
            layer.weight = _merged(layer, update, scale)


def _merged(layer: Any, update: LoraUpdate, scale: float) -> mx.array:
    """The weight with the LoRA in it, summed in float32."""
    weight: mx.array = layer.weight
    rank = update.down.shape[0]
    up = update.up.astype(mx.float32).reshape(-1, rank)
    down = update.down.astype(mx.float32)
    if not isinstance(layer, Linear) and down.ndim == 4:
        down = down.transpose(0, 2, 3, 1)
    delta = ops.matmul(up, down.reshape(rank, -1)).reshape(weight.shape)
    merged = (weight.astype(mx.float32) + scale * update.factor * delta).astype(weight.dtype)
    mx.eval(merged)
    return merged


def _add_branch(network: nn.Module, layer: QuantizedLinear, update: LoraUpdate, scale: float) -> None:
    dtype, rank = layer.scales.dtype, update.down.shape[0]
    down = update.down.reshape(rank, -1).astype(dtype)
    up = (update.up.astype(mx.float32).reshape(-1, rank) * (scale * update.factor)).astype(dtype)
    mx.eval(down, up)
    if isinstance(layer, AdaptedQuantizedLinear):
        layer.add_branch(down=down, up=up)
    else:
        assign(network, update.path, AdaptedQuantizedLinear(layer, down=down, up=up))


@dataclass(frozen=True)
class LoraTarget:
    """Where (a part of) a LoRA module goes.

    Attributes:
        component: e.g. "unet".
        path: of the module in its network.
        rows: which outputs of the LoRA belong to it; None for all.
        swaps_halves: the outputs' halves come in the other order.
    """

    component: str
    path: str
    rows: tuple[int, int] | None = None
    swaps_halves: bool = False


TargetTable = dict[str, tuple[LoraTarget, ...]]
# Component -> dotted prefixes (diffusers, PEFT), and underscored ones (kohya).
_DOTTED = {
    "unet": ("unet.", "", "base_model.model."),
    "transformer": ("transformer.", "", "base_model.model.", "diffusion_model."),
    "text_encoder": ("text_encoder.",),
    "text_encoder_2": ("text_encoder_2.",),
}
_UNDERSCORED = {
    "unet": ("lora_unet_",),
    "transformer": ("lora_transformer_", "lora_unet_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_", "lora_te3_"),
}
_RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3",
           "conv_shortcut": "skip_connection"}  # fmt: skip
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
# XLabs' FLUX LoRAs name attention processors: lora1 is the image's, lora2 the text's.
_XLABS = {"qkv_lora1": "img_attn.qkv", "proj_lora1": "img_attn.proj", "qkv_lora2": "txt_attn.qkv",
          "proj_lora2": "txt_attn.proj"}  # fmt: skip


def lora_targets(networks: Mapping[str, nn.Module]) -> TargetTable:
    """All known names of all linear maps and convolutions.

    Args:
        networks: by component name, loaded or not; an autoencoder is left out.
    """
    table: TargetTable = {}
    for component, network in networks.items():
        if component not in _DOTTED:
            continue
        paths = [path for path, module in network.named_modules() if isinstance(module, (Linear, Conv2d))]
        for path in paths:
            target = (LoraTarget(component, path),)
            for alias in _aliases(component, path, network):
                table.setdefault(alias, target)
        if component == "transformer":
            _add_bfl_names(table, network, set(paths))
    return table


def _aliases(component: str, path: str, network: nn.Module) -> Iterator[str]:
    names = [path]
    if component.startswith("text_encoder") and path.startswith("text_model."):
        names.append(path.removeprefix("text_model."))
    if component == "unet":
        names += [name for name in (_processor_name(path), ldm_name(path, network)) if name is not None]
    for name in names:
        yield from (prefix + name for prefix in _DOTTED[component])
        yield from (prefix + name.replace(".", "_") for prefix in _UNDERSCORED[component])


def _processor_name(path: str) -> str | None:
    """LoRAs of diffusers' first convention hung on attention processors."""
    match = re.fullmatch(r"(.*\.attn\d)\.(to_[qkv]|to_out)(\.0)?", path)
    return None if match is None else f"{match[1]}.processor.{match[2]}_lora"


def ldm_name(path: str, unet: nn.Module) -> str | None:
    """The name latent-diffusion code (and kohya's SDXL trainer) has for a module of diffusers' UNet."""
    if path in _UNET_ENDS:
        return _UNET_ENDS[path]
    match = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", path)
    if match is not None:
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_inner(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", path)
    if match is None:
        return None
    side, block, kind, layer, rest = match.groups()
    blocks = unet.down_blocks if side == "down" else unet.up_blocks
    return _block_name(blocks, side, int(block), kind=kind, layer=int(layer), rest=rest)


def _block_name(blocks: Sequence[Any], side: str, block: int, *, kind: str, layer: int, rest: str) -> str:
    sizes = [len(b.resnets) for b in blocks]
    if side == "down":
        # Each block but the last is followed by one entry for its downsampler.
        start = 1 + sum(sizes[:block]) + block
        if kind == "downsamplers":
            return f"input_blocks.{start + sizes[block]}.0.op"
        return f"input_blocks.{start + layer}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    start = sum(sizes[:block])
    if kind == "upsamplers":
        place = 1 + int("attentions" in blocks[block])
        return f"output_blocks.{start + sizes[block] - 1}.{place}.conv"
    return f"output_blocks.{start + layer}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


def _add_bfl_names(table: TargetTable, network: nn.Module, paths: set[str]) -> None:
    rules = FLUX2_BFL_RULES if "double_stream_modulation_img" in network else BFL_RULES
    for rule in rules:
        for number in _block_numbers(rule, network):
            names = [target.format(number) for target in rule.targets]
            if not set(names) <= paths:
                continue
            name = rule.pattern.replace(r"(\d+)", str(number)).replace("\\", "")
            targets = _stacked(network, names, swaps_halves=rule.swaps_halves)
            for dotted in (name, *_xlabs_names(name)):
                for alias in _bfl_aliases(dotted):
                    table.setdefault(alias, targets)
            table.setdefault("lora_unet_" + name.replace(".", "_"), targets)
            if name.endswith(".linear1") and len(names) > 1:
                own = _stacked(network, names[:3], swaps_halves=False)
                table.setdefault(name.replace("linear1", "processor.qkv_lora"), own)
            if name.endswith(".linear2"):
                table.setdefault(name.replace("linear2", "processor.proj_lora"), targets)


def _bfl_aliases(name: str) -> list[str]:
    return [name, *(f"{prefix}.{name}" for prefix in ("diffusion_model", "transformer", "base_model.model"))]


def _xlabs_names(name: str) -> list[str]:
    return [
        name.replace(bfl, f"processor.{xlabs}") for xlabs, bfl in _XLABS.items() if name.endswith(f".{bfl}")
    ]


def _block_numbers(rule: ModuleRule, network: Any) -> range:
    if "{}" not in rule.targets[0]:
        return range(1)
    single = rule.targets[0].startswith("single_")
    return range(len(network.single_transformer_blocks if single else network.transformer_blocks))


def _stacked(network: nn.Module, paths: list[str], *, swaps_halves: bool) -> tuple[LoraTarget, ...]:
    if len(paths) == 1:
        return (LoraTarget("transformer", paths[0], swaps_halves=swaps_halves),)
    targets, start = [], 0
    for path in paths:
        end = start + find_module(network, path).weight.shape[0]
        targets.append(LoraTarget("transformer", path, rows=(start, end)))
        start = end
    return tuple(targets)
