"""Stable Diffusion in the names of latent-diffusion code and OpenCLIP, as diffusers' and transformers'."""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx

from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, kernels_last, rename
from swiftai_nb.model_files.ldm_configs import ldm_control_names, ldm_unet_names, t2i_adapter_names

_OPEN_CLIP_RULES: tuple[Rule, ...] = (
    (r"^(logit_scale|attn_mask)$", None),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"text_model.encoder.layers.\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")
_STACKED = re.compile(r"(text_model\.encoder\.layers\.\d+)\.attn\.in_proj_(weight|bias)")


def convert_ldm_unet(tensors: Mapping[str, mx.array]) -> Tensors:
    """Latent-diffusion code's UNet -> diffusers' names, kernels as [O, kh, kw, I]."""
    names = ldm_unet_names(tensors)
    # Marks such as v_pred stand beside the tensors of a UNet without prefix.
    return kernels_last({names[name]: value for name, value in tensors.items() if "." in name})


def convert_ldm_control(tensors: Mapping[str, mx.array]) -> Tensors:
    """A ControlNet under its authors' names -> diffusers' names, kernels as [O, kh, kw, I]."""
    names = ldm_control_names(tensors)
    return kernels_last({names[name]: value for name, value in tensors.items()})


def convert_t2i_adapter(tensors: Mapping[str, mx.array], *, layout: str) -> Tensors:
    """A T2I-Adapter of any layout -> diffusers' names, kernels as [O, kh, kw, I]."""
    names = t2i_adapter_names(tensors, layout=layout)
    return kernels_last({names[name]: value for name, value in tensors.items()})


def convert_open_clip(tensors: Mapping[str, mx.array], *, layers: int | None = None) -> Tensors:
    """OpenCLIP's text encoder -> transformers' names; queries, keys and values are cut apart.

    Args:
        tensors: of the text encoder.
        layers: how many are used; Stable Diffusion 2 leaves out the last. None is all.
    """
    limit = len(tensors) if layers is None else layers
    used = {n: v for n, v in tensors.items() if (m := _BLOCK.match(n)) is None or int(m[1]) < limit}
    projection = used.pop("text_projection", None)
    result: Tensors = {}
    for name, value in rename(used, _OPEN_CLIP_RULES).items():
        match = _STACKED.fullmatch(name)
        if match is None:
            result[name] = value
            continue
        for part, piece in zip("qkv", mx.split(value, 3), strict=True):
            result[f"{match[1]}.self_attn.{part}_proj.{match[2]}"] = piece
    if projection is not None:
        result["text_projection.weight"] = projection.T
    return result
