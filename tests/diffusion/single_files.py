"""Writes the tiny models of the parity suite as one file, with key maps spelled out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tests.diffusion.flux_folders import bfl_transformer, flux_weights
from tests.diffusion.parity import tiny_sd
from tests.diffusion.sd_folders import sd_weights, write_safetensors

Arrays = dict[str, np.ndarray]

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def ldm_unet(arrays: Arrays, model: str) -> Arrays:
    """diffusers' UNet -> the names of latent-diffusion code."""
    config = tiny_sd.MODELS[model]["unet"]
    layers = config["layers_per_block"]
    crosses = [kind.startswith("Cross") for kind in config["up_block_types"]]
    return {_ldm_name(name, layers, crosses): value for name, value in arrays.items()}


def _ldm_name(name: str, layers: int, crosses: list[bool]) -> str:
    for own, other in _UNET_ENDS.items():
        if name.startswith(f"{own}."):
            return name.replace(own, other, 1)
    for own, other in _RESNET.items():
        if ".resnets." in name:
            name = name.replace(f".{own}.", f".{other}.")
    name = name.replace("mid_block.resnets.0.", "middle_block.0.")
    name = name.replace("mid_block.attentions.0.", "middle_block.1.")
    name = name.replace("mid_block.resnets.1.", "middle_block.2.")

    def down(m: re.Match) -> str:
        return f"input_blocks.{1 + int(m[1]) * (layers + 1) + int(m[3])}.{int(m[2] == 'attentions')}."

    def up(m: re.Match) -> str:
        return f"output_blocks.{int(m[1]) * (layers + 1) + int(m[3])}.{int(m[2] == 'attentions')}."

    def upsampler(m: re.Match) -> str:
        level = int(m[1])
        return f"output_blocks.{level * (layers + 1) + layers}.{1 + crosses[level]}.conv."

    name = re.sub(r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.",
                  lambda m: f"input_blocks.{(int(m[1]) + 1) * (layers + 1)}.0.op.", name)  # fmt: skip
    name = re.sub(r"^up_blocks\.(\d+)\.upsamplers\.0\.conv\.", upsampler, name)
    name = re.sub(r"^down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", down, name)
    return re.sub(r"^up_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", up, name)


def ldm_vae(arrays: Arrays, *, levels: int = 4) -> Arrays:
    """diffusers' autoencoder -> latent-diffusion names, attention as 1x1 kernels."""
    out, last = {}, levels - 1
    for name, value in arrays.items():
        n = re.sub(r"^encoder\.down_blocks\.(\d+)\.resnets\.(\d+)", r"encoder.down.\1.block.\2", name)
        n = re.sub(r"^encoder\.down_blocks\.(\d+)\.downsamplers\.0", r"encoder.down.\1.downsample", n)
        n = re.sub(r"^decoder\.up_blocks\.(\d+)\.resnets\.(\d+)",
                   lambda m: f"decoder.up.{last - int(m[1])}.block.{m[2]}", n)  # fmt: skip
        n = re.sub(r"^decoder\.up_blocks\.(\d+)\.upsamplers\.0",
                   lambda m: f"decoder.up.{last - int(m[1])}.upsample", n)  # fmt: skip
        n = n.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        n = n.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        n = n.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
        n = re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", n)
        n = n.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        out[n] = value[:, :, None, None] if ".attn_1." in n and value.ndim == 2 else value
    return out


def open_clip(arrays: Arrays, *, extra_layer: bool = False) -> Arrays:
    """transformers' CLIP -> OpenCLIP's names."""
    w = {n.removeprefix("text_model."): v for n, v in arrays.items() if "position_ids" not in n}
    out = {"logit_scale": np.zeros((), np.float32)}
    out["token_embedding.weight"] = w["embeddings.token_embedding.weight"]
    out["positional_embedding"] = w["embeddings.position_embedding.weight"]
    if "text_projection.weight" in w:
        out["text_projection"] = w["text_projection.weight"].T.copy()
    for p in ("weight", "bias"):
        out[f"ln_final.{p}"] = w[f"final_layer_norm.{p}"]
    count = 1 + max(int(m[1]) for n in w if (m := re.match(r"encoder\.layers\.(\d+)", n)))
    for i in range(count + extra_layer):
        own, new = f"encoder.layers.{min(i, count - 1)}", f"transformer.resblocks.{i}"
        for p in ("weight", "bias"):
            stacked = np.concatenate([w[f"{own}.self_attn.{x}_proj.{p}"] for x in "qkv"])
            out[f"{new}.attn.in_proj_{p}"] = stacked
            for a, b in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                         ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"),
                         ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
                out[f"{new}.{a}.{p}"] = w[f"{own}.{b}.{p}"]
    return out


def _prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {prefix + name: value for name, value in arrays.items()}


def checkpoint_tensors(model: str, *, ema: bool = False) -> Arrays:
    """All tensors of "sd15", "sd21_v", "sdxl", "sdxl_refiner" or "lcm" as a published checkpoint names them."""
    weights = sd_weights(model)
    unet = ldm_unet(weights["unet"], model)
    out = _prefixed("model.diffusion_model.", unet)
    if ema:
        out |= {f"model_ema.diffusion_model{n.replace('.', '')}": v * 0 for n, v in unet.items()}
        out["model_ema.decay"] = np.ones((), np.float32)
    out |= _prefixed("first_stage_model.", ldm_vae(weights["vae"]))
    text = weights.get("text_encoder", {})
    if model == "sdxl_refiner":
        out |= _prefixed("conditioner.embedders.0.model.", open_clip(weights["text_encoder_2"]))
    elif model == "sdxl":
        out |= _prefixed("conditioner.embedders.0.transformer.", text)
        out |= _prefixed("conditioner.embedders.1.model.", open_clip(weights["text_encoder_2"]))
    elif model == "sd21_v":
        out |= _prefixed("cond_stage_model.model.", open_clip(text, extra_layer=True))
    else:
        out |= _prefixed("cond_stage_model.transformer.", text)
    return out


def write_checkpoint(path: Path, model: str, *, ema: bool = False, metadata: dict | None = None) -> Path:
    write_safetensors(path, checkpoint_tensors(model, ema=ema), metadata)
    return path


def flux_tensors(
    *, dev: bool = False, is_whole: bool = True, prefix: str = "model.diffusion_model."
) -> Arrays:
    """FLUX.1 as ComfyUI saves it: the transformer alone, or with text encoders and autoencoder."""
    weights = flux_weights(dev=dev)
    out = _prefixed(prefix, bfl_transformer(weights["transformer"]))
    if is_whole:
        out |= _prefixed("text_encoders.clip_l.transformer.", weights["text_encoder"])
        out["text_encoders.clip_l.logit_scale"] = np.zeros((), np.float32)
        out |= _prefixed("text_encoders.t5xxl.transformer.", weights["text_encoder_2"])
        out |= _prefixed("vae.", ldm_vae(weights["vae"]))
    return out
