"""Z-Image and Qwen3 under other names: the tensors of mflux and ComfyUI as diffusers', lazily."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from swiftai_nb.diffusion.models.z_image import ZImageConfig
from swiftai_nb.diffusion.weights.flux_tensors import ModuleRule, find_module_rule
from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, rename
from swiftai_nb.model_files.configs import read_checked_config
from swiftai_nb.model_files.control_files import ControlFiles
from swiftai_nb.model_files.safetensors_headers import StoredTensor

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
_CONTROL_LAYER = re.compile(r"^control_layers\.(\d+)\.")
_CHUNK_BYTES = 2**20
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


def z_image_control_config(control: ControlFiles, transformer: ZImageConfig) -> dict[str, Any]:
    """The configuration of Z-Image's ControlNet: its `config.json`, else by its tensors.

    Its versions are told apart as diffusers does: 1 takes as many channels as the latents have; 2.0 and 2.1
    take more, and only 2.1 has trained blocks of its own for the noise refiner.

    Args:
        control: its files.
        transformer: of the model, for what no tensor tells.
    """
    if control.files.config is not None:
        return read_checked_config(control.files.config)
    tensors = control.tensors()
    count = 1 + max((int(m[1]) for n in tensors if (m := _CONTROL_LAYER.match(n))), default=-1)
    embedder = tensors["control_all_x_embedder.2-1.weight"].shape
    is_first = embedder[-1] == transformer.patch_size**2 * transformer.in_channels
    before = tensors.get("control_noise_refiner.0.before_proj.weight")
    is_trained = before is not None and _has_numbers(before)
    refiner = "control_noise_refiner" if is_trained else "control_layers"
    step = max(1, transformer.n_layers // max(1, count))
    return {
        "control_layers_places": [index * step for index in range(count)],
        "control_refiner_layers_places": [] if is_first else list(range(transformer.n_refiner_layers)),
        "control_in_dim": embedder[-1] // transformer.patch_size**2,
        "add_control_noise_refiner": None if is_first else refiner,
        "dim": embedder[0],
        "n_heads": transformer.n_heads,
        "n_refiner_layers": transformer.n_refiner_layers,
    }


def _has_numbers(tensor: StoredTensor) -> bool:
    """Whether any of a tensor's numbers is not zero."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        left = tensor.size_bytes
        while left > 0 and (data := file.read(min(left, _CHUNK_BYTES))):
            if data.count(0) + data.count(0x80) != len(data):  # zeros of both signs
                return True
            left -= len(data)
    return False


def convert_control(tensors: Mapping[str, mx.array], *, without_refiner: bool) -> Tensors:
    """A ControlNet's tensors; version 2.0 carries blocks along that it does not use."""
    unused = "control_noise_refiner." if without_refiner else None
    return {n: v for n, v in tensors.items() if unused is None or not n.startswith(unused)}
