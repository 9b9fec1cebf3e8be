"""The networks of a model folder as tensors and configs, whatever layout its files have.

To add a network, add rows to `_CONVERTERS`: how the tensors of each layout become its parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights import flux2_tensors, flux_tensors, z_image_tensors
from swiftai_nb.diffusion.weights.ldm_tensors import (
    convert_ldm_control,
    convert_ldm_unet,
    convert_open_clip,
    convert_t2i_adapter,
)
from swiftai_nb.diffusion.weights.llama_tensors import convert_llama_qwen3, convert_llama_t5
from swiftai_nb.diffusion.weights.tensors import (
    CLIP_RULES,
    CLIP_WITHOUT_PROJECTION_RULES,
    UNET_RULES,
    VAE_RULES,
    Convert,
    Tensors,
    TensorSource,
    read_config,
    renamed_by,
)
from swiftai_nb.model_files.control_files import T2I_ADAPTER, UNET_CONTROL, Z_IMAGE_CONTROL, ControlFiles
from swiftai_nb.model_files.model_folder import ModelFolder

# (network, layout) -> what turns its tensors into the network's.
_CONVERTERS: dict[tuple[str, str], Convert] = {
    ("unet", "diffusers"): renamed_by(UNET_RULES),
    ("unet", "LDM"): convert_ldm_unet,
    ("controlnet", "diffusers"): renamed_by(UNET_RULES),
    ("controlnet", "LDM"): convert_ldm_control,
    ("z_image controlnet", "diffusers"): dict,
    **{
        ("t2i_adapter", layout): partial(convert_t2i_adapter, layout=layout)
        for layout in ("diffusers", "TencentARC", "TencentARC light")
    },
    ("clip", "OpenCLIP"): convert_open_clip,
    ("clip with projection", "OpenCLIP"): convert_open_clip,
    ("vae", "diffusers"): renamed_by(VAE_RULES),
    ("vae", "BFL"): flux_tensors.convert_ldm_vae,
    ("vae", "tiny"): renamed_by(()),
    ("vae", "mflux"): flux_tensors.convert_mflux_vae,
    ("clip", "transformers"): renamed_by(CLIP_WITHOUT_PROJECTION_RULES),
    ("clip", "transformers or mflux"): flux_tensors.convert_clip,
    ("clip with projection", "transformers"): renamed_by(CLIP_RULES),
    ("t5", "transformers"): flux_tensors.convert_hf_t5,
    ("t5", "mflux"): flux_tensors.convert_mflux_t5,
    ("t5", "llama.cpp"): convert_llama_t5,
    ("qwen3", "transformers or mflux"): z_image_tensors.convert_qwen3,
    ("qwen3", "llama.cpp"): convert_llama_qwen3,
    ("z_image", "diffusers"): dict,
    ("z_image", "mflux"): z_image_tensors.convert_mflux_transformer,
    ("z_image", "ComfyUI"): z_image_tensors.convert_comfy_transformer,
    ("flux", "diffusers"): dict,
    ("flux", "BFL"): flux_tensors.convert_bfl_transformer,
    ("flux", "mflux"): flux_tensors.convert_mflux_transformer,
    ("flux", "Argmax"): flux_tensors.convert_argmax_transformer,
    ("flux2", "diffusers"): dict,
    ("flux2", "BFL"): flux2_tensors.convert_bfl_transformer,
    ("flux2", "mflux"): flux2_tensors.convert_mflux_transformer,
    ("flux2 vae", "diffusers"): renamed_by(VAE_RULES),
    ("flux2 vae", "BFL"): flux_tensors.convert_ldm_vae,
    ("flux2 vae", "mflux"): flux2_tensors.convert_mflux_vae,
}


def tensor_source(model: ModelFolder, name: str, network: str) -> TensorSource:
    """Where the tensors of a network are.

    Args:
        model: the folder.
        name: of the component, e.g. "text_encoder".
        network: which kind it is: "unet", "vae", "clip", "clip with projection", "t5", "qwen3", "flux",
            "flux2", "flux2 vae" or "z_image".

    Raises:
        InvalidModelFilesError: the folder lacks it, or its files are broken.
    """
    files = model.components.get(name)
    if files is None:
        raise InvalidModelFilesError(
            f"{model.folder / name} is missing", hint="check the folder, or download the model again"
        )
    convert = _CONVERTERS[network, files.layout]
    if files.layout == "OpenCLIP" and files.values is not None:
        convert = partial(convert_open_clip, layers=files.values["num_hidden_layers"])
    return TensorSource(name, files.paths, convert, files.prefix)


def control_source(control: ControlFiles) -> TensorSource:
    """Where the tensors of a ControlNet or T2I-Adapter are."""
    networks = {UNET_CONTROL: "controlnet", Z_IMAGE_CONTROL: "z_image controlnet", T2I_ADAPTER: "t2i_adapter"}
    files, network = control.files, networks[control.kind]
    return TensorSource("controlnet", files.paths, _CONVERTERS[network, files.layout], files.prefix)


def component_config(
    model: ModelFolder,
    name: str,
    source: TensorSource | None = None,
    infer: Callable[[Tensors], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The `config.json` of a network; where its layout has none, inferred from its tensors' shapes.

    Args:
        model: the folder.
        name: of the component.
        source: its tensors, for `infer`.
        infer: None where there has to be a file.

    Raises:
        InvalidModelFilesError: no such file, no JSON object in it, or shapes from which nothing follows.
    """
    files = model.components.get(name)
    if files is not None and files.values is not None:
        return dict(files.values)
    if files is not None and files.config is not None:
        return read_config(files.config)
    if source is None or infer is None:
        return read_config(model.folder / name / "config.json")  # which names it as missing
    try:
        return infer(source.open(is_packed=False))
    except (ArithmeticError, LookupError) as error:
        raise InvalidModelFilesError(
            f"{name}: the shapes of its tensors do not describe a network ({error})",
            hint="download the model again",
        ) from error


# Not to be inferred from any tensor's shape; the same in every published FLUX.1.
_CLIP_HEAD_DIM = 64
_VAE_SCALING, _VAE_SHIFT, _VAE_GROUPS = 0.3611, 0.1159, 32
_SCHNELL_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "shift": 1.0,
    "use_dynamic_shifting": False,
}


def flux_scheduler_config(*, guidance_embeds: bool) -> dict[str, Any]:
    """The published `scheduler_config.json` of dev (with guidance embedding) or schnell."""
    dev = {"shift": 3.0, "use_dynamic_shifting": True} if guidance_embeds else {}
    return _SCHNELL_SCHEDULER | dev


def flux_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The transformer's config from tensors under diffusers' names.

    Rotary widths follow FLUX.1's proportions, 1/8 and twice 7/16 of a head.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing, or heads cannot be cut so.
    """
    width = _shape(tensors, "x_embedder.bias")[0]
    head_dim = _shape(tensors, "transformer_blocks.0.attn.norm_q.weight")[0]
    bits = flux_tensors.stored_bits(tensors, "transformer_blocks.0.attn.to_q", width)
    first, other = head_dim // 8, head_dim * 7 // 16
    if first + 2 * other != head_dim or first % 2 or other % 2:
        raise InvalidModelFilesError(
            f"FLUX heads of {head_dim} features need a config.json that gives axes_dims_rope",
            hint="put the transformer's config.json next to its files",
        )
    return {
        "in_channels": _shape(tensors, "proj_out.bias")[0],
        "num_layers": _count(tensors, r"^transformer_blocks\.(\d+)\."),
        "num_single_layers": _count(tensors, r"^single_transformer_blocks\.(\d+)\."),
        "attention_head_dim": head_dim,
        "num_attention_heads": width // head_dim,
        "joint_attention_dim": _inputs(tensors, "context_embedder", bits),
        "pooled_projection_dim": _inputs(tensors, "time_text_embed.text_embedder.linear_1", bits),
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in tensors,
        "axes_dims_rope": (first, other, other),
    }


# The published scheduler_config.json of FLUX.2 klein.
FLUX2_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
}


def flux2_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The FLUX.2 transformer's config from tensors under diffusers' names; four equal rotary axes.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing.
    """
    width = _shape(tensors, "x_embedder.weight")[0]
    head_dim = _shape(tensors, "transformer_blocks.0.attn.norm_q.weight")[0]
    bits = flux_tensors.stored_bits(tensors, "transformer_blocks.0.attn.to_q", width)
    return {
        "in_channels": _shape(tensors, "proj_out.weight")[0],
        "num_layers": _count(tensors, r"^transformer_blocks\.(\d+)\."),
        "num_single_layers": _count(tensors, r"^single_transformer_blocks\.(\d+)\."),
        "attention_head_dim": head_dim,
        "num_attention_heads": width // head_dim,
        "joint_attention_dim": _inputs(tensors, "context_embedder", bits),
        "timestep_guidance_channels": _inputs(
            tensors, "time_guidance_embed.timestep_embedder.linear_1", bits
        ),
        "mlp_ratio": _shape(tensors, "transformer_blocks.0.ff.linear_in.weight")[0] / (2 * width),
        "axes_dims_rope": (head_dim // 4,) * 4,
        "guidance_embeds": "time_guidance_embed.guidance_embedder.linear_1.weight" in tensors,
    }


def flux2_vae_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The FLUX.2 autoencoder's config from tensors under diffusers' names, kernels as [O, kh, kw, I]."""
    config = vae_config_from_tensors(tensors)
    stages = len(config["block_out_channels"])
    decoder = [_shape(tensors, f"decoder.up_blocks.{i}.resnets.0.conv1.bias")[0] for i in range(stages)]
    return {
        **{name: value for name, value in config.items() if name not in ("scaling_factor", "shift_factor")},
        "_class_name": "AutoencoderKLFlux2",
        "decoder_block_out_channels": decoder[::-1],
    }


# The same in every published Z-Image, and not to be inferred from any tensor's shape.
_Z_IMAGE_AXES = (1 / 4, 3 / 8, 3 / 8)  # of a head's features: 32, 48, 48 of 128
Z_IMAGE_SCHEDULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
}


def z_image_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The transformer's config from tensors under diffusers' names.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing.
    """
    width = _shape(tensors, "x_pad_token")[-1]
    head_dim = _shape(tensors, "layers.0.attention.norm_q.weight")[0]
    return {
        "in_channels": _shape(tensors, "all_final_layer.2-1.linear.bias")[0] // 4,
        "dim": width,
        "n_layers": _count(tensors, r"^layers\.(\d+)\."),
        "n_refiner_layers": _count(tensors, r"^noise_refiner\.(\d+)\."),
        "n_heads": width // head_dim,
        "n_kv_heads": width // head_dim,
        "cap_feat_dim": _shape(tensors, "cap_embedder.0.weight")[0],
        "axes_dims": [round(head_dim * share) for share in _Z_IMAGE_AXES],
    }


def qwen3_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """Qwen3's config from tensors under transformers' names, without the model's prefix."""
    layer = "layers.0.self_attn"
    head_dim = _shape(tensors, f"{layer}.q_norm.weight")[0]
    table = _shape(tensors, "embed_tokens.weight")
    return {
        "vocab_size": table[0],
        "hidden_size": _shape(tensors, "layers.0.input_layernorm.weight")[0],
        "intermediate_size": _shape(tensors, "layers.0.mlp.gate_proj.weight")[0],
        "num_hidden_layers": _count(tensors, r"^layers\.(\d+)\."),
        "num_attention_heads": _shape(tensors, f"{layer}.q_proj.weight")[0] // head_dim,
        "num_key_value_heads": _shape(tensors, f"{layer}.k_proj.weight")[0] // head_dim,
        "head_dim": head_dim,
        "attention_bias": f"{layer}.q_proj.bias" in tensors,
    }


def t5_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The T5 encoder's config from tensors under transformers' names (bias table dequantized)."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = _shape(tensors, f"{attention}.relative_attention_bias.weight")
    return {
        "vocab_size": _shape(tensors, "shared.weight")[0],
        "d_model": _shape(tensors, "encoder.final_layer_norm.weight")[0],
        "d_kv": _shape(tensors, f"{attention}.q.weight")[0] // heads,
        "d_ff": _shape(tensors, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")[0],
        "num_layers": _count(tensors, r"^encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def clip_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """CLIP-L's config from tensors under transformers' names (position table dequantized)."""
    width = _shape(tensors, "text_model.final_layer_norm.weight")[0]
    return {
        "vocab_size": _shape(tensors, "text_model.embeddings.token_embedding.weight")[0],
        "hidden_size": width,
        "intermediate_size": _shape(tensors, "text_model.encoder.layers.0.mlp.fc1.bias")[0],
        "num_hidden_layers": _count(tensors, r"^text_model\.encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // _CLIP_HEAD_DIM),
        "max_position_embeddings": _shape(tensors, "text_model.embeddings.position_embedding.weight")[0],
    }


def vae_config_from_tensors(tensors: Mapping[str, mx.array]) -> dict[str, Any]:
    """The autoencoder's config from tensors under diffusers' names, kernels as [O, kh, kw, I]."""
    stages = _count(tensors, r"^encoder\.down_blocks\.(\d+)\.")
    channels = [_shape(tensors, f"encoder.down_blocks.{i}.resnets.0.conv1.bias")[0] for i in range(stages)]
    return {
        "block_out_channels": channels,
        "layers_per_block": _count(tensors, r"^encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": _shape(tensors, "decoder.conv_in.weight")[-1],
        "norm_num_groups": _VAE_GROUPS,
        "scaling_factor": _VAE_SCALING,
        "shift_factor": _VAE_SHIFT,
        "use_quant_conv": "quant_conv.weight" in tensors,
        "use_post_quant_conv": "post_quant_conv.weight" in tensors,
    }


def _shape(tensors: Mapping[str, mx.array], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InvalidModelFilesError(
            f"tensor {name} is missing, so the network's shape is unknown", hint="download the model again"
        )
    return tuple(int(n) for n in tensors[name].shape)


def _count(tensors: Mapping[str, mx.array], pattern: str) -> int:
    return 1 + max((int(m[1]) for name in tensors if (m := re.match(pattern, name))), default=-1)


def _inputs(tensors: Mapping[str, mx.array], module: str, bits: int | None) -> int:
    """Of a linear map whose weight may be quantized to `bits`."""
    columns = _shape(tensors, f"{module}.weight")[-1]
    if bits is None or f"{module}.scales" not in tensors:
        return columns
    return columns * 32 // bits
