"""Model folders with random weights at the sizes of real models, written once as float16 safetensors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

import swiftai_nb
from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig

SD15_UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
SDXL_UNET = {
    **SD15_UNET,
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "act_fn": "silu",
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_sd15(work: Path) -> Path:
    """A whole Stable Diffusion 1.5 folder; 2.1 GB."""
    folder = work / "sd15"
    if not (folder / "model_index.json").exists():
        _write(
            folder / "unet",
            SD15_UNET,
            lambda: UNet(UNetConfig.from_dict(SD15_UNET)),
            "diffusion_pytorch_model",
        )
        _write(folder / "vae", VAE, lambda: Autoencoder(VAEConfig.from_dict(VAE)), "diffusion_pytorch_model")
        _write(folder / "text_encoder", CLIP, lambda: CLIPTextModel(CLIPTextConfig.from_dict(CLIP)), "model")
        bundled = Path(swiftai_nb.__file__).parent / "assets" / "emoji-mini"
        shutil.copytree(bundled / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
        _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
        _write_json(folder / "model_index.json", MODEL_INDEX)
    return folder


def write_sdxl_unet(work: Path) -> Path:
    """The UNet of Stable Diffusion XL; 5.1 GB. Returns the folder that holds `unet`."""
    folder = work / "sdxl"
    if not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists():
        _write(
            folder / "unet",
            SDXL_UNET,
            lambda: UNet(UNetConfig.from_dict(SDXL_UNET)),
            "diffusion_pytorch_model",
        )
    return folder


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2))


def _write(folder: Path, config: dict[str, Any], build: Callable[[], nn.Module], stem: str) -> None:
    _write_json(folder / "config.json", config)
    random = np.random.default_rng(0)
    tensors = {
        name: mx.array(_random(name, _file_shape(name, tuple(p.shape), config), random))
        for name, p in tree_flatten(build().parameters())
    }
    unfinished = folder / "unfinished.safetensors"
    mx.save_safetensors(str(unfinished), tensors, metadata={"format": "pt"})
    unfinished.rename(folder / f"{stem}.safetensors")


def _file_shape(name: str, shape: tuple[int, ...], config: dict[str, Any]) -> tuple[int, ...]:
    if len(shape) == 4:
        return (shape[0], shape[3], *shape[1:3])
    is_map = name.endswith(("proj_in.weight", "proj_out.weight"))
    return (*shape, 1, 1) if is_map and not config.get("use_linear_projection") else shape


def _random(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Norms near one, biases near zero, maps that keep the size of their input."""
    values = random.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        values *= np.float32(0.02)
        values += np.float32(name.endswith("weight"))
    else:
        values *= np.float32(np.prod(shape[1:]) ** -0.5)
    return values.astype(np.float16)
