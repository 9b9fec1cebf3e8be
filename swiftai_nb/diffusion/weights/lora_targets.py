"""What LoRA files of every convention call the modules of a network.

The table is made from the model's own networks, so it knows exactly which modules exist: a name that is not
in it belongs to another model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from swiftai_nb.core.lora_blocks import BASE
from swiftai_nb.diffusion.models.layers import Conv2d, GroupNorm, LayerNorm, Linear, RMSNorm
from swiftai_nb.diffusion.weights.flux2_tensors import FLUX2_BFL_RULES
from swiftai_nb.diffusion.weights.flux_tensors import BFL_RULES, ModuleRule
from swiftai_nb.diffusion.weights.precision import find_module


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

    def own_outputs(self, values: mx.array, axis: int = 0) -> mx.array:
        """The part of a change, or of its outputs, that belongs to this module."""
        if self.rows is not None:
            start, end = self.rows
            values = mx.split(values, [start, end], axis=axis)[1]
        if not self.swaps_halves:
            return values
        first, second = mx.split(values, 2, axis=axis)
        return mx.concatenate([second, first], axis=axis)


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
    "transformer": ("lora_transformer_", "lora_unet_", "lycoris_"),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_", "lora_te3_"),
}
_CHANGED = (Linear, Conv2d, GroupNorm, LayerNorm, RMSNorm)
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
           "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
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
    """All known names of all linear maps, convolutions and norms.

    Args:
        networks: by component name, loaded or not; an autoencoder is left out.
    """
    table: TargetTable = {}
    for component, network in networks.items():
        if component not in _DOTTED:
            continue
        paths = [path for path, module in network.named_modules() if isinstance(module, _CHANGED)]
        for path in paths:
            target = (LoraTarget(component, path),)
            for alias in _aliases(component, path, network):
                table.setdefault(alias, target)
        if component == "transformer":
            add = _add_comfy_names if "noise_refiner" in network else _add_bfl_names
            add(table, network, set(paths))
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


def block_of(target: LoraTarget, networks: Mapping[str, nn.Module]) -> str:
    """The block of a module as `core.lora_blocks` names it: "IN04", "M00", "OUT11"; "BASE" for all else."""
    name = ldm_name(target.path, networks["unet"]) if target.component == "unet" else None
    match = re.match(r"(input|middle|output)_blocks?\.(\d+)", name or "")
    if match is None:
        return BASE
    return "M00" if match[1] == "middle" else f"{'IN' if match[1] == 'input' else 'OUT'}{int(match[2]):02}"


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


def _add_comfy_names(table: TargetTable, network: nn.Module, paths: set[str]) -> None:
    """Z-Image's own names, which ComfyUI uses: one map for queries, keys and values."""
    blocks = {path.split(".attention.")[0] for path in paths if ".attention." in path}
    for block in sorted(blocks):
        own = [f"{block}.attention.to_{x}" for x in "qkv"]
        _add_foreign(table, f"{block}.attention.qkv", _stacked(network, own, swaps_halves=False))
        out = (LoraTarget("transformer", f"{block}.attention.to_out.0"),)
        for name in ("out", "to_out"):
            _add_foreign(table, f"{block}.attention.{name}", out)
    for path in paths:
        for own_name, foreign in (
            ("all_x_embedder.2-1", "x_embedder"),
            ("all_final_layer.2-1", "final_layer"),
        ):
            if path == own_name or path.startswith(f"{own_name}."):
                target = (LoraTarget("transformer", path),)
                _add_foreign(table, path.replace(own_name, foreign), target)


def _add_foreign(table: TargetTable, name: str, targets: tuple[LoraTarget, ...]) -> None:
    for prefix in _DOTTED["transformer"]:
        table.setdefault(prefix + name, targets)
    for prefix in _UNDERSCORED["transformer"]:
        table.setdefault(prefix + name.replace(".", "_"), targets)
