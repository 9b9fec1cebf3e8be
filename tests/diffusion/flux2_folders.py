"""Writes the tiny FLUX.2 klein of the parity suite to disk."""

import json
import re
from pathlib import Path

import numpy as np

from swiftai_nb.diffusion.models.flux2_transformer import Flux2Config, Flux2Transformer
from swiftai_nb.diffusion.models.qwen3 import Qwen3Config, Qwen3Encoder
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from tests.diffusion.flux_folders import Arrays, _seeded, _write_json, quantized, save
from tests.diffusion.parity import tiny_flux2
from tests.diffusion.parity.seeded_weights import seeded_tensor, seeded_weights

QWEN = {**tiny_flux2.QWEN, "model_type": "qwen3", "vocab_size": tiny_flux2.VOCABULARY_SIZE}
VAE = {"_class_name": "AutoencoderKLFlux2", **tiny_flux2.VAE, "patch_size": (2, 2), "batch_norm_eps": 1e-4}


def qwen_weights() -> Arrays:
    """All layers, the final norm and the head, as transformers saves them."""
    from mlx.utils import tree_flatten

    encoder = Qwen3Encoder(Qwen3Config.from_dict(QWEN, used_layers=QWEN["num_hidden_layers"]))
    shapes = {f"model.{name}": tuple(v.shape) for name, v in tree_flatten(encoder.parameters())}
    head = {"lm_head.weight": (QWEN["vocab_size"], QWEN["hidden_size"])}
    return seeded_weights({**shapes, **head, "model.norm.weight": (QWEN["hidden_size"],)})


def flux2_weights(vae: dict | None = None) -> dict[str, Arrays]:
    """Weights by component under diffusers' names."""
    return {
        "transformer": _seeded(Flux2Transformer(Flux2Config.from_dict(tiny_flux2.TRANSFORMER))),
        "text_encoder": qwen_weights(),
        "vae": _seeded(Autoencoder(VAEConfig.from_dict(VAE if vae is None else vae))),
    }


def write_klein(folder: Path, *, base: bool = False, vae: dict | None = None) -> Path:
    """diffusers' layout, as `save_pretrained` writes it."""
    _write_json(folder / "model_index.json", {"_class_name": "Flux2KleinPipeline", "is_distilled": not base})
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", **tiny_flux2.SCHEDULER}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    configs = {
        "transformer": {"_class_name": "Flux2Transformer2DModel", **tiny_flux2.TRANSFORMER},
        "text_encoder": QWEN,
        "vae": VAE if vae is None else vae,
    }
    tiny_flux2.write_tokenizer(folder / "tokenizer")
    for name, weights in flux2_weights(vae).items():
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        _write_json(folder / name / "config.json", json.loads(json.dumps(configs[name])))
        if name == "vae":  # a counter of training steps that files carry along
            weights["bn.num_batches_tracked"] = seeded_tensor("bn.num_batches_tracked", (1,))
        save(folder / name / f"{stem}.safetensors", weights)
    return folder


_BFL_ENDS = [
    ("x_embedder", "img_in"),
    ("context_embedder", "txt_in"),
    ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("double_stream_modulation_img.linear", "double_stream_modulation_img.lin"),
    ("double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin"),
    ("single_stream_modulation.linear", "single_stream_modulation.lin"),
    ("proj_out", "final_layer.linear"),
]
_BFL_DOUBLE = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
_BFL_NORMS = {
    "norm_q": "img_attn.norm.query_norm",
    "norm_k": "img_attn.norm.key_norm",
    "norm_added_q": "txt_attn.norm.query_norm",
    "norm_added_k": "txt_attn.norm.key_norm",
}


def bfl_transformer(own: Arrays) -> Arrays:
    """Diffusers' names -> Black Forest Labs'."""
    result = {f"{bfl}.weight": own[f"{name}.weight"] for name, bfl in _BFL_ENDS}
    scale, shift = np.split(own["norm_out.linear.weight"], 2)
    result["final_layer.adaLN_modulation.1.weight"] = np.concatenate([shift, scale])
    for i in range(tiny_flux2.TRANSFORMER["num_layers"]):
        block, foreign = f"transformer_blocks.{i}", f"double_blocks.{i}"
        for name, bfl in _BFL_DOUBLE.items():
            result[f"{foreign}.{bfl}.weight"] = own[f"{block}.{name}.weight"]
        for name, bfl in _BFL_NORMS.items():
            result[f"{foreign}.{bfl}.scale"] = own[f"{block}.attn.{name}.weight"]
        for stream, names in {"img": "to_q to_k to_v", "txt": "add_q_proj add_k_proj add_v_proj"}.items():
            maps = [own[f"{block}.attn.{name}.weight"] for name in names.split()]
            result[f"{foreign}.{stream}_attn.qkv.weight"] = np.concatenate(maps)
    for i in range(tiny_flux2.TRANSFORMER["num_single_layers"]):
        block, foreign = f"single_transformer_blocks.{i}.attn", f"single_blocks.{i}"
        result[f"{foreign}.linear1.weight"] = own[f"{block}.to_qkv_mlp_proj.weight"]
        result[f"{foreign}.linear2.weight"] = own[f"{block}.to_out.weight"]
        result[f"{foreign}.norm.query_norm.scale"] = own[f"{block}.norm_q.weight"]
        result[f"{foreign}.norm.key_norm.scale"] = own[f"{block}.norm_k.weight"]
    return result


def bfl_vae(own: Arrays) -> Arrays:
    """Diffusers' names -> those of `flux2-vae.safetensors`."""
    last = len(tiny_flux2.VAE["block_out_channels"]) - 1
    rules = [
        (r"^quant_conv\.", "encoder.quant_conv."),
        (r"^post_quant_conv\.", "decoder.post_quant_conv."),
        (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
        (r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{last - int(m[1])}.block."),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{last - int(m[1])}.upsample."),
        (r"conv_shortcut", "nin_shortcut"),
        (r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}."),
        (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
        (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
        (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
        (r"conv_norm_out", "norm_out"),
    ]
    result = {}
    for name, value in own.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        is_map = re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", name)
        result[name] = value[:, :, None, None] if is_map else value
    return result


def write_comfy(folder: Path) -> Path:
    """Single files, as ComfyUI keeps them, and the tokenizer."""
    weights = flux2_weights()
    prefixed = {f"model.diffusion_model.{n}": v for n, v in bfl_transformer(weights["transformer"]).items()}
    save(folder / "flux-2-klein-4b.safetensors", prefixed)
    save(folder / "qwen_3_4b.safetensors", weights["text_encoder"])
    save(folder / "flux2-vae.safetensors", bfl_vae(weights["vae"]))
    tiny_flux2.write_tokenizer(folder / "tokenizer")
    return folder


def mflux_names(weights: dict[str, Arrays]) -> dict[str, Arrays]:
    """diffusers' and transformers' names by component -> mflux's; kernels as [O, kh, kw, I]."""
    transformer = {
        re.sub(r"^(transformer_blocks\.\d+\.attn\.to_out)\.0\.", r"\1.", n).replace(
            "time_guidance_embed.timestep_embedder.", "time_guidance_embed."
        ): v
        for n, v in weights["transformer"].items()
    }
    text = {n.removeprefix("model."): v for n, v in weights["text_encoder"].items() if "lm_head" not in n}
    vae = {
        n.replace(".to_out.0.", ".to_out."): v.transpose(0, 2, 3, 1) if v.ndim == 4 else v
        for n, v in weights["vae"].items()
    }
    return {"transformer": transformer, "text_encoder": text, "vae": vae}


def write_mflux(folder: Path, *, bits: int | None = None) -> Path:
    """mflux's folders: numbered files without configs."""
    for name, arrays in mflux_names(flux2_weights()).items():
        packed = arrays if bits is None or name == "vae" else quantized(arrays, bits=bits)
        save(folder / name / "0.safetensors", packed, {"mflux_version": "0.24.0"})
    tiny_flux2.write_tokenizer(folder / "tokenizer")
    return folder
