"""Writes the tiny Z-Image of the parity suite to disk in every layout, names spelled out by hand."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from swiftai_nb.diffusion.models.z_image import ZImageConfig, ZImageTransformer
from tests.diffusion.flux_folders import Arrays, ldm_vae, mflux_names, quantized, save
from tests.diffusion.parity import tiny_z_image
from tests.diffusion.parity.seeded_weights import seeded_weights
from tests.model_files.files import write_json

STEMS = {"text_encoder": "model"}


def seeded_module(module) -> Arrays:
    """Seeded weights of a network of ours; kernels as files have them."""
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(module.parameters())}
    return seeded_weights({n: (s[0], s[3], s[1], s[2]) if len(s) == 4 else s for n, s in shapes.items()})


def qwen_shapes() -> dict[str, tuple[int, ...]]:
    """All tensors of transformers' `Qwen3Model`, with its last layer and norm, which are not used."""
    c = tiny_z_image.QWEN
    width, inner, head = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    shapes = {"embed_tokens.weight": (c["vocab_size"], width), "norm.weight": (width,)}
    for i in range(c["num_hidden_layers"]):
        layer = f"layers.{i}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (c["num_attention_heads"] * head, width),
            f"{layer}.self_attn.k_proj.weight": (c["num_key_value_heads"] * head, width),
            f"{layer}.self_attn.v_proj.weight": (c["num_key_value_heads"] * head, width),
            f"{layer}.self_attn.o_proj.weight": (width, c["num_attention_heads"] * head),
            f"{layer}.self_attn.q_norm.weight": (head,),
            f"{layer}.self_attn.k_norm.weight": (head,),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.post_attention_layernorm.weight": (width,),
        }
    return shapes


def z_image_weights() -> dict[str, Arrays]:
    """Weights by component under diffusers' and transformers' names."""
    return {
        "transformer": seeded_module(ZImageTransformer(ZImageConfig.from_dict(tiny_z_image.TRANSFORMER))),
        "text_encoder": seeded_weights(qwen_shapes()),
        "vae": seeded_module(Autoencoder(VAEConfig.from_dict(tiny_z_image.VAE))),
    }


def write_configs(folder: Path) -> None:
    write_json(folder / "model_index.json", {"_class_name": "ZImagePipeline"})
    scheduler = tiny_z_image.SCHEDULER | {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    transformer = {"_class_name": "ZImageTransformer2DModel", **tiny_z_image.TRANSFORMER}
    write_json(folder / "transformer" / "config.json", transformer)
    write_json(folder / "text_encoder" / "config.json", tiny_z_image.QWEN)
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **tiny_z_image.VAE})


def write_diffusers(
    folder: Path,
    *,
    weights: dict[str, Arrays] | None = None,
    shards: int = 1,
    variant: str = "",
    dtype: mx.Dtype = mx.float32,
    head: bool = False,
) -> Path:
    """diffusers' layout; `head` gives the text encoder the names of a model with a language-model head."""
    weights = z_image_weights() if weights is None else weights
    write_configs(folder)
    tiny_z_image.write_tokenizer(folder / "tokenizer")
    for name, arrays in weights.items():
        stem = STEMS.get(name, "diffusion_pytorch_model")
        if head and name == "text_encoder":
            arrays = {f"model.{n}": v for n, v in arrays.items()}
            arrays["lm_head.weight"] = np.ones((tiny_z_image.QWEN["vocab_size"], 64), np.float32)
        stored = {n: mx.array(v).astype(dtype) for n, v in arrays.items()}
        if shards == 1:
            save(folder / name / f"{stem}{variant}.safetensors", stored)
            continue
        names, where = sorted(stored), {}
        for i in range(shards):
            file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
            save(folder / name / file, {n: stored[n] for n in names[i::shards]})
            where |= dict.fromkeys(names[i::shards], file)
        write_json(folder / name / f"{stem}.safetensors.index.json", {"weight_map": where})
    return folder


def mflux_transformer(arrays: Arrays) -> Arrays:
    """diffusers' transformer -> mflux's module tree."""
    renamed = {}
    for name, value in arrays.items():
        n = name.replace("t_embedder.mlp.0.", "t_embedder.linear1.")
        n = n.replace("t_embedder.mlp.2.", "t_embedder.linear2.")
        renamed[n.replace("2-1.adaLN_modulation.1.", "2-1.adaLN_modulation.0.")] = value
    return renamed


def mflux_vae(arrays: Arrays) -> Arrays:
    """As FLUX.1's, but the decoder wraps its first and last convolution under another name."""
    wrapped = mflux_names("vae", arrays)
    return {re.sub(r"^(decoder\.conv_(in|out))\.conv2d\.", r"\1.conv.", n): v for n, v in wrapped.items()}


def write_mflux(folder: Path, *, bits: int | None, weights: dict[str, Arrays] | None = None) -> Path:
    """What `mflux-save` writes: numbered shards, no configs, everything packable packed."""
    weights = z_image_weights() if weights is None else weights
    tiny_z_image.write_tokenizer(folder / "tokenizer")
    names = {"transformer": mflux_transformer, "vae": mflux_vae}
    for name, arrays in weights.items():
        renamed = names.get(name, dict)(arrays)
        stored = renamed if bits is None else quantized(renamed, bits=bits)
        keys = sorted(stored)
        for i in range(2):
            path = folder / name / f"{i}.safetensors"
            save(path, {n: stored[n] for n in keys[i::2]}, {"quantization_level": str(bits)})
    return folder


def comfy_transformer(arrays: Arrays) -> Arrays:
    """diffusers' transformer -> the names of the model's own code, which ComfyUI uses."""
    renamed = {}
    for name, value in arrays.items():
        n = name.replace("all_x_embedder.2-1.", "x_embedder.").replace("all_final_layer.2-1.", "final_layer.")
        n = n.replace(".attention.to_out.0.", ".attention.out.").replace(".norm_q.", ".q_norm.")
        n = n.replace(".norm_k.", ".k_norm.")
        if ".attention.to_q." in n:
            rest = [arrays[name.replace("to_q", f"to_{x}")] for x in "kv"]
            renamed[n.replace("to_q", "qkv")] = np.concatenate([value, *rest])
        elif ".attention.to_k." not in n and ".attention.to_v." not in n:
            renamed[n] = value
    return renamed


def write_comfy(folder: Path, *, weights: dict[str, Arrays] | None = None, in_one: bool = False) -> Path:
    """ComfyUI's single files beside a tokenizer folder, or all parts in one checkpoint."""
    weights = z_image_weights() if weights is None else weights
    tiny_z_image.write_tokenizer(folder / "tokenizer")
    transformer, vae = comfy_transformer(weights["transformer"]), ldm_vae(weights["vae"])
    if in_one:
        text = "text_encoders.qwen3_4b.transformer.model."
        parts = (("model.diffusion_model.", transformer), ("vae.", vae), (text, weights["text_encoder"]))
        both = {f"{prefix}{n}": v for prefix, part in parts for n, v in part.items()}
        save(folder / "z_image_turbo.safetensors", both)
        return folder
    save(folder / "z_image_turbo_bf16.safetensors", transformer)
    save(folder / "ae.safetensors", vae)
    text_encoder = {f"model.{n}": v for n, v in weights["text_encoder"].items()}
    save(folder / "qwen_3_4b.safetensors", text_encoder)
    return folder
