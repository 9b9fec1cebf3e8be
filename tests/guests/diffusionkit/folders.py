"""Writes tiny random DiffusionKit models in its own key layouts. A script for DiffusionKit's interpreter.

python folders.py FOLDER makes FOLDER/{sd3-medium,sd3.5-large-4bit,flux-schnell-4bit}.

Stable Diffusion 3 medium is spelled as Stability published it; the packed ones are DiffusionKit's own
module trees, as Argmax published them. Sizes other than the published ones stand in config.json.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path.append(str(REPOSITORY))

from swiftai_nb.guests.diffusionkit.child.compatibility import byte_alphabet, import_diffusionkit  # noqa: E402

dk = import_diffusionkit()

import mlx.core as mx  # noqa: E402
from diffusionkit.mlx import config as dk_config  # noqa: E402
from diffusionkit.mlx import mmdit as dk_mmdit  # noqa: E402
from diffusionkit.mlx import vae as dk_vae  # noqa: E402
from mlx import nn  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

SPIECE = REPOSITORY / "tests" / "diffusion" / "parity" / "references" / "tiny_spiece.model"
VAE = {"block_out_channels": [32, 32, 64, 64], "resnet_groups": 16}
CLIP = {
    "architectures": ["CLIPTextModelWithProjection"],
    "vocab_size": 640,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 64,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 576,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
}
SD3 = {"depth_multimodal": 2, "num_heads": 2, "pooled_text_embed_dim": 128}
FLUX = {
    "num_heads": 2,
    "depth_multimodal": 1,
    "depth_unified": 1,
    "hidden_size_override": 128,
    "rope_axes_dim": [8, 28, 28],
    "pooled_text_embed_dim": 64,
    "token_level_text_embed_dim": 64,
}


def random(*shape: int) -> mx.array:
    scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
    return (mx.random.normal(shape) * scale).astype(mx.float16)


def linear(name: str, inputs: int, outputs: int) -> dict[str, mx.array]:
    return {f"{name}.weight": random(outputs, inputs), f"{name}.bias": random(outputs)}


def save(path: Path, arrays: dict[str, mx.array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(path), arrays)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def stability_denoiser() -> dict[str, mx.array]:
    """Stable Diffusion 3's denoiser under the names of Stability's single file."""
    hidden, text = 128, 4096
    arrays = {
        "x_embedder.proj.weight": random(hidden, 16, 2, 2),
        "x_embedder.proj.bias": random(hidden),
        "pos_embed": random(1, 192 * 192, hidden),
        **linear("context_embedder", text, hidden),
        **linear("t_embedder.mlp.0", 256, hidden),
        **linear("t_embedder.mlp.2", hidden, hidden),
        **linear("y_embedder.mlp.0", 128, hidden),
        **linear("y_embedder.mlp.2", hidden, hidden),
        **linear("final_layer.linear", hidden, 64),
        **linear("final_layer.adaLN_modulation.1", hidden, 2 * hidden),
    }
    for block in range(2):
        for side in ("x_block", "context_block"):
            name = f"joint_blocks.{block}.{side}"
            is_cut = side == "context_block" and block == 1
            arrays |= linear(f"{name}.attn.qkv", hidden, 3 * hidden)
            arrays |= linear(f"{name}.adaLN_modulation.1", hidden, (2 if is_cut else 6) * hidden)
            if not is_cut:
                arrays |= linear(f"{name}.attn.proj", hidden, hidden)
                arrays |= linear(f"{name}.mlp.fc1", hidden, 4 * hidden)
                arrays |= linear(f"{name}.mlp.fc2", 4 * hidden, hidden)
    return {f"model.diffusion_model.{name}": value for name, value in arrays.items()}


def modules_of(side: str) -> dict[str, mx.array]:
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in VAE.items()}
    if side == "decoder":
        module = dk_vae.VAEDecoder(16, 3, layers_per_block=3, **sizes)
    else:
        module = dk_vae.VAEEncoder(3, 32, layers_per_block=2, **sizes)
    return {name: value.astype(mx.float16) for name, value in tree_flatten(module.parameters())}


_LDM = (
    ("up_blocks.", "up."), ("down_blocks.", "down."), (".resnets.", ".block."),
    (".conv_shortcut.", ".nin_shortcut."), (".upsample.", ".upsample.conv."),
    (".downsample.", ".downsample.conv."), ("mid_blocks.0", "mid.block_1"), ("mid_blocks.1", "mid.attn_1"),
    ("mid_blocks.2", "mid.block_2"), (".group_norm.", ".norm."), ("conv_norm_out", "norm_out"),
    (".query_proj", ".q"), (".key_proj", ".k"), (".value_proj", ".v"), (".out_proj", ".proj_out"),
)  # fmt: skip


def original_autoencoder(prefix: str = "") -> dict[str, mx.array]:
    """The autoencoder under the names of latent-diffusion, kernels [O, I, kh, kw]."""
    arrays = {}
    for side in ("encoder", "decoder"):
        for name, value in modules_of(side).items():
            for ours, theirs in _LDM:
                name = name.replace(ours, theirs)
            if value.ndim == 4:
                value = value.transpose(0, 3, 1, 2)
            elif value.ndim == 2:
                value = value[:, :, None, None]
            arrays[f"{prefix}{side}.{name}"] = mx.contiguous(value)
    return arrays


def packed(config, name: str, sizes: dict) -> dict[str, mx.array]:
    network = dk_mmdit.MMDiT(
        replace(config, **{k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items()})
    )
    if name == "flux":
        nn.quantize(network)
    else:
        nn.quantize(network, class_predicate=lambda _, module: isinstance(module, nn.Linear))
    return {
        k: v if v.dtype == mx.uint32 else v.astype(mx.float16) for k, v in tree_flatten(network.parameters())
    }


def write_clip(folder: Path, letter: str) -> None:
    hidden, layers = CLIP["hidden_size"], CLIP["num_hidden_layers"]
    arrays = {
        "text_model.embeddings.token_embedding.weight": random(CLIP["vocab_size"], hidden),
        "text_model.embeddings.position_embedding.weight": random(77, hidden),
        "text_model.embeddings.position_ids": mx.arange(77)[None],
        "text_projection.weight": random(CLIP["projection_dim"], hidden),
    }
    norms = ["text_model.final_layer_norm"]
    for layer in range(layers):
        name = f"text_model.encoder.layers.{layer}"
        norms += [f"{name}.layer_norm1", f"{name}.layer_norm2"]
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            arrays |= linear(f"{name}.self_attn.{part}", hidden, hidden)
        arrays |= linear(f"{name}.mlp.fc1", hidden, 4 * hidden)
        arrays |= linear(f"{name}.mlp.fc2", 4 * hidden, hidden)
    for norm in norms:
        arrays |= {f"{norm}.weight": mx.ones(hidden).astype(mx.float16), f"{norm}.bias": random(hidden)}
    write_json(folder / f"clip_{letter}" / "config.json", CLIP)
    save(folder / f"clip_{letter}" / "model.fp16.safetensors", arrays)
    letters = list(byte_alphabet().values())
    tokens = [
        *letters,
        *(f"{one}</w>" for one in letters),
        "ca",
        "cat</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    write_json(folder / f"tokenizer_{letter}" / "vocab.json", {token: i for i, token in enumerate(tokens)})
    merges = folder / f"tokenizer_{letter}" / "merges.txt"
    merges.write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf-8")


def write_t5(folder: Path, *, width: int) -> None:
    inner = T5["d_kv"] * T5["num_heads"]
    table = random(T5["vocab_size"], width)
    block = "encoder.block.0.layer"
    arrays = {
        "shared.weight": table,
        "encoder.embed_tokens.weight": table,
        f"{block}.0.SelfAttention.relative_attention_bias.weight": random(32, T5["num_heads"]),
        f"{block}.0.SelfAttention.o.weight": random(width, inner),
        f"{block}.1.DenseReluDense.wi_0.weight": random(T5["d_ff"], width),
        f"{block}.1.DenseReluDense.wi_1.weight": random(T5["d_ff"], width),
        f"{block}.1.DenseReluDense.wo.weight": random(width, T5["d_ff"]),
        **{f"{block}.0.SelfAttention.{part}.weight": random(inner, width) for part in "qkv"},
        **{f"{block}.{i}.layer_norm.weight": mx.ones(width).astype(mx.float16) for i in range(2)},
        "encoder.final_layer_norm.weight": mx.ones(width).astype(mx.float16),
    }
    save(folder / "t5" / "t5xxl.safetensors", arrays)
    write_json(folder / "t5" / "config.json", {**T5, "d_model": width})
    (folder / "t5" / "spiece.model").write_bytes(SPIECE.read_bytes())


def write_sd3_medium(folder: Path) -> None:
    write_json(
        folder / "config.json", {"name": "stable-diffusion-3-medium", "sizes": {"mmdit": SD3, "vae": VAE}}
    )
    save(folder / "sd3_medium.safetensors", stability_denoiser() | original_autoencoder("first_stage_model."))
    for letter in "lg":
        write_clip(folder, letter)
    write_t5(folder, width=4096)


def write_sd35_large_packed(folder: Path) -> None:
    write_json(
        folder / "config.json",
        {"name": "stable-diffusion-3.5-large-4bit-quantized", "sizes": {"mmdit": SD3, "vae": VAE}},
    )
    arrays = {f"model.diffusion_model.{k}": v for k, v in packed(dk_config.SD3_8b, "sd3", SD3).items()}
    for side in ("encoder", "decoder"):
        arrays |= {f"first_stage_model.{side}.{k}": v for k, v in modules_of(side).items()}
    save(folder / "sd3.5_large_4bit_quantized.safetensors", arrays)
    for letter in "lg":
        write_clip(folder, letter)
    write_t5(folder, width=4096)


def write_flux_packed(folder: Path) -> None:
    write_json(folder / "config.json", {"name": "FLUX.1-schnell-4bit", "sizes": {"mmdit": FLUX, "vae": VAE}})
    save(folder / "flux-schnell-4bit-quantized.safetensors", packed(dk_config.FLUX_SCHNELL, "flux", FLUX))
    save(folder / "ae.safetensors", original_autoencoder())
    write_clip(folder, "l")
    write_t5(folder, width=64)


def main(folder: Path) -> None:
    mx.random.seed(0)
    write_sd3_medium(folder / "sd3-medium")
    write_sd35_large_packed(folder / "sd3.5-large-4bit")
    write_flux_packed(folder / "flux-schnell-4bit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
