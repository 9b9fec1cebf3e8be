"""Writes the tiny FLUX.1 of the parity suite to disk in every layout, names spelled out by hand."""

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.flux_transformer import FluxConfig, FluxTransformer
from swiftai_nb.diffusion.models.t5 import T5Config, T5Encoder
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from tests.diffusion.parity import tiny_flux
from tests.diffusion.parity.seeded_weights import seeded_weights

Arrays = dict[str, np.ndarray]


def transformer_config(*, dev: bool) -> dict:
    return tiny_flux.TRANSFORMER | (tiny_flux.DEV if dev else {})


def _seeded(module) -> Arrays:
    """Weights by diffusers' name and shape (kernels [O, I, kh, kw])."""
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(module.parameters())}
    return seeded_weights({n: (s[0], s[3], s[1], s[2]) if len(s) == 4 else s for n, s in shapes.items()})


def flux_weights(*, dev: bool = False) -> dict[str, Arrays]:
    """Weights by component under diffusers' names."""
    clip = {k: v for k, v in tiny_flux.CLIP.items() if k != "projection_dim"}
    return {
        "transformer": _seeded(FluxTransformer(FluxConfig.from_dict(transformer_config(dev=dev)))),
        "text_encoder": _seeded(CLIPTextModel(CLIPTextConfig.from_dict(clip))),
        "text_encoder_2": _seeded(T5Encoder(T5Config.from_dict(tiny_flux.T5))),
        "vae": _seeded(Autoencoder(VAEConfig.from_dict(tiny_flux.VAE))),
    }


def save(path: Path, weights: Arrays | dict, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: v if isinstance(v, mx.array) else mx.array(v) for k, v in weights.items()}
    mx.save_safetensors(str(path), arrays, metadata)


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_tokenizers(folder: Path) -> None:
    tiny_flux.write_clip_tokenizer(folder / "tokenizer")
    tiny_flux.write_t5_tokenizer(folder / "tokenizer_2")


def write_configs(folder: Path, *, dev: bool = False) -> None:
    configs = {
        "transformer": transformer_config(dev=dev),
        "text_encoder": tiny_flux.CLIP,
        "text_encoder_2": tiny_flux.T5,
        "vae": {"_class_name": "AutoencoderKL", **tiny_flux.VAE},
    }
    for name, config in configs.items():
        _write_json(folder / name / "config.json", config)


def write_diffusers(folder: Path, *, dev: bool = False, weights: dict[str, Arrays] | None = None,
                    shards: int = 1, variant: str = "", duplicate_table: bool = True) -> Path:  # fmt: skip
    """diffusers' layout with a model_index.json."""
    weights = flux_weights(dev=dev) if weights is None else weights
    _write_json(folder / "model_index.json", {"_class_name": "FluxPipeline"})
    scheduler = tiny_flux.SCHEDULER | (tiny_flux.DEV_SCHEDULER if dev else {})
    scheduler["_class_name"] = "FlowMatchEulerDiscreteScheduler"
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_configs(folder, dev=dev)
    write_tokenizers(folder)
    for name in weights:
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        arrays = dict(weights[name])
        if name == "text_encoder_2" and duplicate_table:
            arrays["encoder.embed_tokens.weight"] = arrays["shared.weight"]
        if shards == 1:
            save(folder / name / f"{stem}{variant}.safetensors", arrays)
            continue
        names, where = sorted(arrays), {}
        for i in range(shards):
            file = f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors"
            save(folder / name / file, {n: arrays[n] for n in names[i::shards]})
            where |= dict.fromkeys(names[i::shards], file)
        _write_json(folder / name / f"{stem}.safetensors.index.json", {"weight_map": where})
    return folder


def quantized(arrays: Arrays, *, bits: int, skip: str = r"$^", group_size: int = 64) -> dict:
    """What `nn.quantize` makes of the linear maps and tables among `arrays`."""
    result = {}
    for name, value in arrays.items():
        if value.ndim == 2 and name.endswith(".weight") and not re.search(skip, name):
            packed, scales, biases = mx.quantize(mx.array(value), group_size=group_size, bits=bits)
            base = name.removesuffix("weight")
            result |= {name: packed, f"{base}scales": scales, f"{base}biases": biases}
        else:
            result[name] = mx.array(value)
    return result


def dequantized(arrays: Arrays, *, bits: int, skip: str = r"$^", group_size: int = 64) -> Arrays:
    """The same weights after a round trip through packing: what a packed model computes with."""
    result = {}
    for name, value in arrays.items():
        packs = value.ndim == 2 and name.endswith(".weight") and not re.search(skip, name)
        triple = mx.quantize(mx.array(value), group_size=group_size, bits=bits) if packs else None
        whole = value if triple is None else mx.dequantize(*triple, group_size=group_size, bits=bits)
        result[name] = np.array(whole)
    return result


def _kernels_last(arrays: Arrays) -> Arrays:
    return {n: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for n, v in arrays.items()}


def mflux_names(name: str, arrays: Arrays) -> Arrays:
    """diffusers' names -> mflux's module tree."""
    if name == "transformer":
        return {
            n.replace(".net.0.proj.", ".linear1.").replace(".net.2.", ".linear2."): v
            for n, v in arrays.items()
        }
    if name == "vae":
        wrapped = {"conv_in.": "conv_in.conv2d.", "conv_out.": "conv_out.conv2d.",
                   "conv_norm_out.": "conv_norm_out.norm."}  # fmt: skip
        result = {}
        for n, v in _kernels_last(arrays).items():
            side, _, rest = n.partition(".")
            for plain, inner in wrapped.items():
                rest = inner + rest.removeprefix(plain) if rest.startswith(plain) else rest
            result[f"{side}.{rest}"] = v
        return result
    if name == "text_encoder_2":
        result = {}
        for n, v in arrays.items():
            base = n.replace("encoder.final_layer_norm", "final_layer_norm")
            base = base.replace("encoder.block.", "t5_blocks.")
            result[base.replace(".layer.0.", ".attention.").replace(".layer.1.", ".ff.")] = v
        table = "t5_blocks.0.attention.SelfAttention.relative_attention_bias.weight"
        for i in range(1, tiny_flux.T5["num_layers"]):
            result[table.replace("0", str(i), 1)] = result[table]
        return result
    return arrays


def write_mflux(
    folder: Path,
    *,
    bits: int | None,
    dev: bool = False,
    weights: dict[str, Arrays] | None = None,
    index: bool = False,
    norm_out_bias: bool = True,
) -> Path:
    """What `mflux-save` writes: numbered shards, no configs, everything packable packed."""
    weights = flux_weights(dev=dev) if weights is None else weights
    write_tokenizers(folder)
    metadata = {"quantization_level": str(bits), "mflux_version": "0.9.6"}
    for name, arrays in weights.items():
        renamed = mflux_names(name, arrays)
        if not norm_out_bias:
            renamed.pop("norm_out.linear.bias", None)
        stored = renamed if bits is None else quantized(renamed, bits=bits)
        names = sorted(stored)
        for i in range(2):
            save(folder / name / f"{i}.safetensors", {n: stored[n] for n in names[i::2]}, metadata)
        if index:
            where = {n: f"{i}.safetensors" for i in range(2) for n in names[i::2]}
            _write_json(folder / name / "model.safetensors.index.json", {"weight_map": where})
    return folder


def bfl_transformer(arrays: Arrays) -> Arrays:
    """diffusers' transformer -> Black Forest Labs' names."""
    w, out = arrays, {}

    def put(target: str, *sources: str) -> None:
        for p in ("weight", "bias"):
            if all(f"{s}.{p}" in w for s in sources):
                out[f"{target}.{p}"] = np.concatenate([w[f"{s}.{p}"] for s in sources])

    put("img_in", "x_embedder")
    put("txt_in", "context_embedder")
    put("final_layer.linear", "proj_out")
    for a, b in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        for c, d in (("in_layer", "linear_1"), ("out_layer", "linear_2")):
            if f"time_text_embed.{b}_embedder.{d}.weight" in w:
                put(f"{a}.{c}", f"time_text_embed.{b}_embedder.{d}")
    for p in ("weight", "bias"):
        scale, shift = np.split(w[f"norm_out.linear.{p}"], 2)
        out[f"final_layer.adaLN_modulation.1.{p}"] = np.concatenate([shift, scale])
    for i in range(tiny_flux.TRANSFORMER["num_layers"]):
        own, new = f"transformer_blocks.{i}", f"double_blocks.{i}"
        put(f"{new}.img_mod.lin", f"{own}.norm1.linear")
        put(f"{new}.txt_mod.lin", f"{own}.norm1_context.linear")
        put(f"{new}.img_attn.qkv", *(f"{own}.attn.to_{x}" for x in "qkv"))
        put(f"{new}.txt_attn.qkv", *(f"{own}.attn.add_{x}_proj" for x in "qkv"))
        put(f"{new}.img_attn.proj", f"{own}.attn.to_out.0")
        put(f"{new}.txt_attn.proj", f"{own}.attn.to_add_out")
        for stream, part in (("img", "ff"), ("txt", "ff_context")):
            put(f"{new}.{stream}_mlp.0", f"{own}.{part}.net.0.proj")
            put(f"{new}.{stream}_mlp.2", f"{own}.{part}.net.2")
        for x, name in (("q", "query"), ("k", "key")):
            out[f"{new}.img_attn.norm.{name}_norm.scale"] = w[f"{own}.attn.norm_{x}.weight"]
            out[f"{new}.txt_attn.norm.{name}_norm.scale"] = w[f"{own}.attn.norm_added_{x}.weight"]
    for i in range(tiny_flux.TRANSFORMER["num_single_layers"]):
        own, new = f"single_transformer_blocks.{i}", f"single_blocks.{i}"
        put(f"{new}.modulation.lin", f"{own}.norm.linear")
        put(f"{new}.linear1", *(f"{own}.attn.to_{x}" for x in "qkv"), f"{own}.proj_mlp")
        put(f"{new}.linear2", f"{own}.proj_out")
        for x, name in (("q", "query"), ("k", "key")):
            out[f"{new}.norm.{name}_norm.scale"] = w[f"{own}.attn.norm_{x}.weight"]
    return out


def argmax_transformer(arrays: Arrays) -> Arrays:
    """diffusers' transformer -> Argmax's module tree (no key bias, proj_out in two)."""
    w, out = arrays, {}

    def put(target: str, source: str) -> None:
        for p in ("weight", "bias"):
            if f"{source}.{p}" in w and not (target.endswith("k_proj") and p == "bias"):
                out[f"{target}.{p}"] = w[f"{source}.{p}"]

    put("x_embedder.proj", "x_embedder")
    out["x_embedder.proj.weight"] = out["x_embedder.proj.weight"][:, None, None, :]
    put("context_embedder", "context_embedder")
    put("final_layer.linear", "proj_out")
    for a, b in (("t_embedder", "timestep"), ("y_embedder", "text")):
        put(f"{a}.mlp.layers.0", f"time_text_embed.{b}_embedder.linear_1")
        put(f"{a}.mlp.layers.2", f"time_text_embed.{b}_embedder.linear_2")
    for p in ("weight", "bias"):
        scale, shift = np.split(w[f"norm_out.linear.{p}"], 2)
        out[f"final_layer.adaLN_modulation.layers.1.{p}"] = np.concatenate([shift, scale])
    streams = (("image", "", "to_{}", "to_out.0", "norm_{}"),
               ("text", "_context", "add_{}_proj", "to_add_out", "norm_added_{}"))  # fmt: skip
    for i in range(tiny_flux.TRANSFORMER["num_layers"]):
        for stream, suffix, qkv, o, norm in streams:
            own = f"transformer_blocks.{i}"
            new = f"multimodal_transformer_blocks.{i}.{stream}_transformer_block"
            for x in "qkv":
                put(f"{new}.attn.{x}_proj", f"{own}.attn.{qkv.format(x)}")
            put(f"{new}.attn.o_proj", f"{own}.attn.{o}")
            put(f"{new}.mlp.fc1", f"{own}.ff{suffix}.net.0.proj")
            put(f"{new}.mlp.fc2", f"{own}.ff{suffix}.net.2")
            put(f"{new}.adaLN_modulation.layers.1", f"{own}.norm1{suffix}.linear")
            for x in "qk":
                put(f"{new}.qk_norm.{x}_norm", f"{own}.attn.{norm.format(x)}")
    for i in range(tiny_flux.TRANSFORMER["num_single_layers"]):
        own, new = f"single_transformer_blocks.{i}", f"unified_transformer_blocks.{i}.transformer_block"
        for x in "qkv":
            put(f"{new}.attn.{x}_proj", f"{own}.attn.to_{x}")
        put(f"{new}.mlp.fc1", f"{own}.proj_mlp")
        put(f"{new}.adaLN_modulation.layers.1", f"{own}.norm.linear")
        for x in "qk":
            put(f"{new}.qk_norm.{x}_norm", f"{own}.attn.norm_{x}")
        weight, bias = w[f"{own}.proj_out.weight"], w[f"{own}.proj_out.bias"]
        width = len(bias)
        out[f"{new}.attn.o_proj.weight"], out[f"{new}.mlp.fc2.weight"] = weight[:, :width], weight[:, width:]
        out[f"{new}.attn.o_proj.bias"] = out[f"{new}.mlp.fc2.bias"] = bias
    return out


def without_key_bias(arrays: Arrays) -> Arrays:
    """The transformer as Argmax sees it."""
    lacks = re.compile(r"\.(to_k|add_k_proj)\.bias$")
    return {n: np.zeros_like(v) if lacks.search(n) else v for n, v in arrays.items()}


def ldm_vae(arrays: Arrays) -> Arrays:
    """diffusers' autoencoder -> the names of `ae.safetensors`, attention as 1x1 kernels."""
    out, last = {}, len(tiny_flux.VAE["block_out_channels"]) - 1
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
        is_map = ".attn_1." in n and value.ndim == 2
        out[n] = value[:, :, None, None] if is_map else value
    return out


def write_single_files(folder: Path, transformer: dict, weights: dict[str, Arrays], *,
                       name: str = "flux1-schnell.safetensors", dev: bool = False) -> Path:  # fmt: skip
    """One transformer file at the top, `ae.safetensors`, and diffusers' text encoders."""
    save(folder / name, transformer)
    save(folder / "ae.safetensors", ldm_vae(weights["vae"]))
    write_tokenizers(folder)
    _write_json(folder / "text_encoder" / "config.json", tiny_flux.CLIP)
    _write_json(folder / "text_encoder_2" / "config.json", tiny_flux.T5)
    save(folder / "text_encoder" / "model.safetensors", weights["text_encoder"])
    save(folder / "text_encoder_2" / "model.safetensors", weights["text_encoder_2"])
    return folder
