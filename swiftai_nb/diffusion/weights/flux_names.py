"""FLUX.1 under other names: tables from foreign module names to those of diffusers.

A linear map of one layout can be several of another (stacked along the outputs), or several can be one
(side by side along the inputs); the tables say which, `flux_convert` does it, and LoRAs use them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_STREAMS = {"img": ("", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
            "txt": ("_context", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q",
                    "norm_added_k")}  # fmt: skip


@dataclass(frozen=True)
class ModuleRule:
    """A foreign module and the diffusers modules it holds, stacked along its outputs.

    Attributes:
        pattern: full match of the foreign module name; a group is the block number.
        targets: diffusers module names; `{}` is the block number.
        swaps_halves: its output halves come in the other order (shift, scale against scale, shift).
    """

    pattern: str
    targets: tuple[str, ...]
    swaps_halves: bool = False


def _mlp_rules(prefix: str, target: str, first: str, second: str) -> list[ModuleRule]:
    return [
        ModuleRule(rf"{prefix}\.{first}", (f"{target}.linear_1",)),
        ModuleRule(rf"{prefix}\.{second}", (f"{target}.linear_2",)),
    ]


def _bfl_double_rules() -> list[ModuleRule]:
    rules = []
    for stream, (suffix, q, k, v, out, norm_q, norm_k) in _STREAMS.items():
        foreign, own = rf"double_blocks\.(\d+)\.{stream}", "transformer_blocks.{}"
        rules += [
            ModuleRule(rf"{foreign}_mod\.lin", (f"{own}.norm1{suffix}.linear",)),
            ModuleRule(rf"{foreign}_attn\.qkv", tuple(f"{own}.attn.{name}" for name in (q, k, v))),
            ModuleRule(rf"{foreign}_attn\.proj", (f"{own}.attn.{out}",)),
            ModuleRule(rf"{foreign}_attn\.norm\.query_norm", (f"{own}.attn.{norm_q}",)),
            ModuleRule(rf"{foreign}_attn\.norm\.key_norm", (f"{own}.attn.{norm_k}",)),
            ModuleRule(rf"{foreign}_mlp\.0", (f"{own}.ff{suffix}.net.0.proj",)),
            ModuleRule(rf"{foreign}_mlp\.2", (f"{own}.ff{suffix}.net.2",)),
        ]
    return rules


def _bfl_single_rules() -> list[ModuleRule]:
    foreign, own = r"single_blocks\.(\d+)", "single_transformer_blocks.{}"
    parts = (*(f"{own}.attn.to_{x}" for x in "qkv"), f"{own}.proj_mlp")
    return [
        ModuleRule(rf"{foreign}\.modulation\.lin", (f"{own}.norm.linear",)),
        ModuleRule(rf"{foreign}\.linear1", parts),
        ModuleRule(rf"{foreign}\.linear2", (f"{own}.proj_out",)),
        ModuleRule(rf"{foreign}\.norm\.query_norm", (f"{own}.attn.norm_q",)),
        ModuleRule(rf"{foreign}\.norm\.key_norm", (f"{own}.attn.norm_k",)),
    ]


# Black Forest Labs' own files.
BFL_RULES: tuple[ModuleRule, ...] = (
    ModuleRule("img_in", ("x_embedder",)),
    ModuleRule("txt_in", ("context_embedder",)),
    *_mlp_rules("time_in", "time_text_embed.timestep_embedder", "in_layer", "out_layer"),
    *_mlp_rules("vector_in", "time_text_embed.text_embedder", "in_layer", "out_layer"),
    *_mlp_rules("guidance_in", "time_text_embed.guidance_embedder", "in_layer", "out_layer"),
    *_bfl_double_rules(),
    *_bfl_single_rules(),
    ModuleRule(r"final_layer\.linear", ("proj_out",)),
    ModuleRule(r"final_layer\.adaLN_modulation\.1", ("norm_out.linear",), swaps_halves=True),
)


def _argmax_double_rules() -> list[ModuleRule]:
    rules = []
    for stream, (suffix, *attention, norm_q, norm_k) in _STREAMS.items():
        name = {"img": "image", "txt": "text"}[stream]
        foreign = rf"multimodal_transformer_blocks\.(\d+)\.{name}_transformer_block"
        own = "transformer_blocks.{}"
        rules += [
            *(
                ModuleRule(rf"{foreign}\.attn\.{x}_proj", (f"{own}.attn.{target}",))
                for x, target in zip("qkvo", attention, strict=True)
            ),
            ModuleRule(rf"{foreign}\.qk_norm\.q_norm", (f"{own}.attn.{norm_q}",)),
            ModuleRule(rf"{foreign}\.qk_norm\.k_norm", (f"{own}.attn.{norm_k}",)),
            ModuleRule(rf"{foreign}\.mlp\.fc1", (f"{own}.ff{suffix}.net.0.proj",)),
            ModuleRule(rf"{foreign}\.mlp\.fc2", (f"{own}.ff{suffix}.net.2",)),
            ModuleRule(rf"{foreign}\.adaLN_modulation\.layers\.1", (f"{own}.norm1{suffix}.linear",)),
        ]
    return rules


_DK_SINGLE = r"unified_transformer_blocks\.(\d+)\.transformer_block"
_OWN_SINGLE = "single_transformer_blocks.{}"
# Argmax's MLX module tree. Its single blocks cut proj_out in two: see `ARGMAX_SPLIT_OUT`.
ARGMAX_RULES: tuple[ModuleRule, ...] = (
    ModuleRule(r"x_embedder\.proj", ("x_embedder",)),
    ModuleRule("context_embedder", ("context_embedder",)),
    *_mlp_rules("t_embedder", "time_text_embed.timestep_embedder", r"mlp\.layers\.0", r"mlp\.layers\.2"),
    *_mlp_rules("y_embedder", "time_text_embed.text_embedder", r"mlp\.layers\.0", r"mlp\.layers\.2"),
    *_mlp_rules("guidance_in", "time_text_embed.guidance_embedder", r"mlp\.layers\.0", r"mlp\.layers\.2"),
    *_argmax_double_rules(),
    *(ModuleRule(rf"{_DK_SINGLE}\.attn\.{x}_proj", (f"{_OWN_SINGLE}.attn.to_{x}",)) for x in "qkv"),
    ModuleRule(rf"{_DK_SINGLE}\.mlp\.fc1", (f"{_OWN_SINGLE}.proj_mlp",)),
    ModuleRule(rf"{_DK_SINGLE}\.qk_norm\.q_norm", (f"{_OWN_SINGLE}.attn.norm_q",)),
    ModuleRule(rf"{_DK_SINGLE}\.qk_norm\.k_norm", (f"{_OWN_SINGLE}.attn.norm_k",)),
    ModuleRule(rf"{_DK_SINGLE}\.adaLN_modulation\.layers\.1", (f"{_OWN_SINGLE}.norm.linear",)),
    ModuleRule(r"final_layer\.linear", ("proj_out",)),
    ModuleRule(r"final_layer\.adaLN_modulation\.layers\.1", ("norm_out.linear",), swaps_halves=True),
)
# The two halves of proj_out, side by side along its inputs: attention first.
ARGMAX_SPLIT_OUT = (
    rf"{_DK_SINGLE}\.attn\.o_proj",
    rf"{_DK_SINGLE}\.mlp\.fc2",
    f"{_OWN_SINGLE}.proj_out",
)

# mflux's transformer differs from diffusers' in its feed-forwards only.
MFLUX_TRANSFORMER_RULES: tuple[tuple[str, str], ...] = (
    (r"\.(ff|ff_context)\.linear1\.", r".\1.net.0.proj."),
    (r"\.(ff|ff_context)\.linear2\.", r".\1.net.2."),
)
MFLUX_T5_RULES: tuple[tuple[str, str], ...] = (
    (r"^t5_blocks\.(\d+)\.attention\.", r"encoder.block.\1.layer.0."),
    (r"^t5_blocks\.(\d+)\.ff\.", r"encoder.block.\1.layer.1."),
    (r"^final_layer_norm\.", "encoder.final_layer_norm."),
)
MFLUX_VAE_RULES: tuple[tuple[str, str], ...] = (
    (r"\.(conv_in|conv_out)\.conv2d\.", r".\1."),
    (r"\.conv_norm_out\.norm\.", ".conv_norm_out."),
)
# The autoencoder as latent-diffusion code names it (`ae.safetensors`); `up` counts from the top.
LDM_VAE_RULES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


def find_module_rule(rules: Sequence[ModuleRule], module: str) -> tuple[ModuleRule, tuple[str, ...]] | None:
    """The rule for a foreign module name, and the diffusers names it gives; None when there is none."""
    for rule in rules:
        match = re.fullmatch(rule.pattern, module)
        if match is not None:
            return rule, tuple(target.format(*match.groups()) for target in rule.targets)
    return None
