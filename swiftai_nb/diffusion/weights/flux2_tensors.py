"""FLUX.2 under other names: the tensors of Black Forest Labs' files and mflux's as diffusers', lazily."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights.flux_tensors import ModuleRule, rename_modules
from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, rename

_STREAMS = {
    "img": ("ff", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
    "txt": (
        "ff_context",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "norm_added_q",
        "norm_added_k",
    ),
}


def _double_rules() -> list[ModuleRule]:
    rules = []
    for stream, (feed_forward, q, k, v, out, norm_q, norm_k) in _STREAMS.items():
        foreign, own = rf"double_blocks\.(\d+)\.{stream}", "transformer_blocks.{}"
        rules += [
            ModuleRule(rf"{foreign}_attn\.qkv", tuple(f"{own}.attn.{name}" for name in (q, k, v))),
            ModuleRule(rf"{foreign}_attn\.proj", (f"{own}.attn.{out}",)),
            ModuleRule(rf"{foreign}_attn\.norm\.query_norm", (f"{own}.attn.{norm_q}",)),
            ModuleRule(rf"{foreign}_attn\.norm\.key_norm", (f"{own}.attn.{norm_k}",)),
            ModuleRule(rf"{foreign}_mlp\.0", (f"{own}.{feed_forward}.linear_in",)),
            ModuleRule(rf"{foreign}_mlp\.2", (f"{own}.{feed_forward}.linear_out",)),
        ]
    return rules


_SINGLE, _OWN_SINGLE = r"single_blocks\.(\d+)", "single_transformer_blocks.{}.attn"
# Black Forest Labs' own files, which ComfyUI uses too.
FLUX2_BFL_RULES: tuple[ModuleRule, ...] = (
    ModuleRule("img_in", ("x_embedder",)),
    ModuleRule("txt_in", ("context_embedder",)),
    ModuleRule(r"time_in\.in_layer", ("time_guidance_embed.timestep_embedder.linear_1",)),
    ModuleRule(r"time_in\.out_layer", ("time_guidance_embed.timestep_embedder.linear_2",)),
    ModuleRule(r"double_stream_modulation_img\.lin", ("double_stream_modulation_img.linear",)),
    ModuleRule(r"double_stream_modulation_txt\.lin", ("double_stream_modulation_txt.linear",)),
    ModuleRule(r"single_stream_modulation\.lin", ("single_stream_modulation.linear",)),
    *_double_rules(),
    ModuleRule(rf"{_SINGLE}\.linear1", (f"{_OWN_SINGLE}.to_qkv_mlp_proj",)),
    ModuleRule(rf"{_SINGLE}\.linear2", (f"{_OWN_SINGLE}.to_out",)),
    ModuleRule(rf"{_SINGLE}\.norm\.query_norm", (f"{_OWN_SINGLE}.norm_q",)),
    ModuleRule(rf"{_SINGLE}\.norm\.key_norm", (f"{_OWN_SINGLE}.norm_k",)),
    ModuleRule(r"final_layer\.linear", ("proj_out",)),
    ModuleRule(r"final_layer\.adaLN_modulation\.1", ("norm_out.linear",), swaps_halves=True),
)
_MFLUX_TRANSFORMER_RULES: tuple[Rule, ...] = (
    (r"^time_guidance_embed\.linear_", "time_guidance_embed.timestep_embedder.linear_"),
    (r"^(transformer_blocks\.\d+\.attn\.to_out)\.", r"\1.0."),
)
_MFLUX_VAE_RULES: tuple[Rule, ...] = ((r"(\.attentions\.\d+\.to_out)\.", r"\1.0."),)


def convert_bfl_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Black Forest Labs' names -> diffusers'; qkv is split, the final modulation's halves are swapped."""
    if "img_in.weight" not in tensors:
        raise InvalidModelFilesError("the FLUX.2 transformer has no img_in.weight", hint="download it again")
    return rename_modules(tensors, FLUX2_BFL_RULES, width=int(tensors["img_in.weight"].shape[0]))


def convert_mflux_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'."""
    return rename(tensors, _MFLUX_TRANSFORMER_RULES)


def convert_mflux_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'; its kernels are stored as [O, kh, kw, I] already."""
    return rename(tensors, _MFLUX_VAE_RULES)
