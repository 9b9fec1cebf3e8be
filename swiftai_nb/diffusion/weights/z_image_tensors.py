"""Z-Image and Qwen3 under other names: the tensors of mflux and ComfyUI as diffusers', lazily."""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from swiftai_nb.diffusion.weights.flux_tensors import ModuleRule, find_module_rule
from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, rename

_BLOCK = r"(layers|noise_refiner|context_refiner)\.(\d+)\.attention"
# ComfyUI's names are those of the model's own code: one map for queries, keys and values.
COMFY_RULES: tuple[ModuleRule, ...] = (
    ModuleRule(rf"{_BLOCK}\.qkv", tuple(f"{{}}.{{}}.attention.to_{x}" for x in "qkv")),
    ModuleRule(rf"{_BLOCK}\.out", ("{}.{}.attention.to_out.0",)),
    ModuleRule(rf"{_BLOCK}\.q_norm", ("{}.{}.attention.norm_q",)),
    ModuleRule(rf"{_BLOCK}\.k_norm", ("{}.{}.attention.norm_k",)),
    ModuleRule("x_embedder", ("all_x_embedder.2-1",)),
    ModuleRule(r"final_layer\.(.*)", ("all_final_layer.2-1.{}",)),
)
_COMFY_UNUSED = ("norm_final.weight",)
MFLUX_RULES: tuple[Rule, ...] = (
    (r"^t_embedder\.linear1\.", "t_embedder.mlp.0."),
    (r"^t_embedder\.linear2\.", "t_embedder.mlp.2."),
    (r"^(all_final_layer\.[^.]+\.adaLN_modulation)\.0\.", r"\1.1."),
)
_QWEN_LAYER = re.compile(r"^layers\.(\d+)\.")


def convert_comfy_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """ComfyUI's names -> diffusers'; qkv is split."""
    result: Tensors = {}
    for name, value in tensors.items():
        if name in _COMFY_UNUSED:
            continue
        module, _, parameter = name.rpartition(".")
        found = find_module_rule(COMFY_RULES, module)
        targets = (module,) if found is None else found[1]
        parts = [value] if len(targets) == 1 else mx.split(value, len(targets))
        result |= {
            f"{target}.{parameter}" if target else parameter: part
            for target, part in zip(targets, parts, strict=True)
        }
    return result


def convert_mflux_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'."""
    return rename(tensors, MFLUX_RULES)


def convert_qwen3(tensors: Mapping[str, mx.array]) -> Tensors:
    """Transformers' names, with or without the language-model head around them."""
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    return {name: value for name, value in bare.items() if not name.startswith(("lm_head.", "norm."))}


def first_layers(tensors: Mapping[str, mx.array], count: int) -> Tensors:
    """The tensors without those of layers that are not used."""
    matches = ((name, _QWEN_LAYER.match(name)) for name in tensors)
    return {name: tensors[name] for name, match in matches if match is None or int(match[1]) < count}
