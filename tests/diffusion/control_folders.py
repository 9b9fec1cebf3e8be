"""Writes inpainting models, InstructPix2Pix and ControlNets of the parity suite to disk, in every layout."""

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from swiftai_nb.diffusion.models.controlnet import ControlNet, ControlNetConfig
from swiftai_nb.diffusion.models.t2i_adapter import T2IAdapter, T2IAdapterConfig
from swiftai_nb.diffusion.models.z_image import ZImageConfig, ZImageTransformer
from swiftai_nb.diffusion.models.z_image_control import ZImageControlConfig, ZImageControlNet
from tests.diffusion.parity import tiny_control, tiny_t2i_adapter, tiny_z_image_control
from tests.diffusion.parity.seeded_weights import seeded_tensor, seeded_weights
from tests.diffusion.sd_folders import Arrays, sd_weights, write_folder, write_json, write_safetensors
from tests.diffusion.single_files import ldm_unet
from tests.diffusion.z_image_folders import seeded_module, write_diffusers, z_image_weights


def task_weights(unet: str) -> dict[str, Arrays]:
    """Weights by component of a model whose UNet takes other input channels."""
    model, channels = tiny_control.UNETS[unet]
    weights = sd_weights(model)
    wide = (weights["unet"]["conv_in.weight"].shape[0], channels, 3, 3)
    weights["unet"] = {**weights["unet"], "conv_in.weight": seeded_tensor("conv_in.weight", wide)}
    return weights


def write_task_folder(folder: Path, unet: str) -> Path:
    """The model in diffusers layout."""
    write_folder(folder, tiny_control.UNETS[unet][0], weights=task_weights(unet))
    write_json(folder / "unet" / "config.json", tiny_control.unet_config(unet))
    return folder


def controlnet_weights(name: str) -> Arrays:
    """Under diffusers' names; kernels as files have them."""
    config, seed = tiny_control.CONTROLNETS[name]
    linear = config.get("use_linear_projection", False)
    shapes = {}
    network = ControlNet(ControlNetConfig.from_dict(config))
    parameters: list[tuple[str, mx.array]] = tree_flatten(network.parameters())
    for path, value in parameters:
        shape = tuple(value.shape)
        if len(shape) == 4:
            shape = (shape[0], shape[3], shape[1], shape[2])
        elif re.search(r"proj_(in|out)\.weight$", path) and not linear:
            shape = (*shape, 1, 1)
        shapes[path] = shape
    return seeded_weights(shapes, seed=seed)


def write_controlnet(folder: Path, name: str) -> Path:
    """A ControlNet in diffusers layout: `config.json` and weights."""
    config, _ = tiny_control.CONTROLNETS[name]
    write_json(folder / "config.json", {"_class_name": "ControlNetModel", **config})
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", controlnet_weights(name))
    return folder


def ldm_controlnet(name: str) -> Arrays:
    """A ControlNet under the names of its authors' code."""
    weights = controlnet_weights(name)
    model = {"sd15": "sd15", "sd21": "sd21_v", "sdxl": "sdxl"}[name.split("_", maxsplit=1)[0]]
    hint = {"conv_in": 0, "conv_out": 14, **{f"blocks.{i}": 2 * i + 2 for i in range(6)}}
    own: Arrays = {}
    for path, value in weights.items():
        module, parameter = path.rsplit(".", 1)
        if path.startswith("controlnet_cond_embedding."):
            layer = hint[module.removeprefix("controlnet_cond_embedding.")]
            own[f"input_hint_block.{layer}.{parameter}"] = value
        elif path.startswith("controlnet_down_blocks."):
            own[f"zero_convs.{module.rpartition('.')[2]}.0.{parameter}"] = value
        elif path.startswith("controlnet_mid_block."):
            own[f"middle_block_out.0.{parameter}"] = value
        else:
            own |= ldm_unet({path: value}, model)
    return {f"control_model.{n}": np.ascontiguousarray(v) for n, v in own.items()}


def write_z_image(folder: Path) -> Path:
    """A Z-Image of the shape that the tiny ControlNets steer."""
    transformer = tiny_z_image_control.TRANSFORMER
    weights = z_image_weights() | {
        "transformer": seeded_module(ZImageTransformer(ZImageConfig.from_dict(transformer)))
    }
    write_diffusers(folder, weights=weights)
    write_json(
        folder / "transformer" / "config.json", {"_class_name": "ZImageTransformer2DModel", **transformer}
    )
    return folder


def z_image_controlnet(version: str) -> Arrays:
    """Under diffusers' names."""
    config = ZImageControlConfig.from_dict(
        tiny_z_image_control.CONTROLNETS[version],
        ZImageConfig.from_dict(tiny_z_image_control.TRANSFORMER),
    )
    return seeded_module(ZImageControlNet(config))


def write_z_image_controlnet(folder: Path, version: str) -> Path:
    config = {"_class_name": "ZImageControlNetModel", **tiny_z_image_control.CONTROLNETS[version]}
    write_json(folder / "config.json", config)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", z_image_controlnet(version))
    return folder


def t2i_adapter_weights(config: dict[str, Any], seed: int = 0) -> Arrays:
    """Under diffusers' names, kernels as files have them."""
    parameters: list[tuple[str, mx.array]] = tree_flatten(
        T2IAdapter(T2IAdapterConfig.from_dict(config)).parameters()
    )
    shapes = {f"adapter.{path}": tuple(value.shape) for path, value in parameters}
    return seeded_weights(
        {n: s if len(s) < 4 else (s[0], s[3], *s[1:3]) for n, s in shapes.items()}, seed=seed
    )


def write_t2i_adapter(folder: Path, name: str) -> Path:
    """A T2I-Adapter in diffusers layout."""
    write_json(folder / "config.json", {"_class_name": "T2IAdapter", **tiny_t2i_adapter.ADAPTERS[name][0]})
    write_safetensors(
        folder / "diffusion_pytorch_model.safetensors", t2i_adapter_weights(*tiny_t2i_adapter.ADAPTERS[name])
    )
    return folder


def tencent_names(weights: Arrays) -> Arrays:
    """A T2I-Adapter's weights as its authors' code names them."""
    result = {}
    is_light = any("out_conv" in name for name in weights)
    for name, value in weights.items():
        own = name.removeprefix("adapter.")
        if is_light:
            own = own.replace(".resnets.", ".body.")
        else:
            own = re.sub(
                r"^body\.(\d+)\.resnets\.(\d+)\.", lambda m: f"body.{2 * int(m[1]) + int(m[2])}.", own
            )
            own = re.sub(r"^body\.(\d+)\.in_conv", lambda m: f"body.{2 * int(m[1])}.in_conv", own)
        result[own] = value
    return result
