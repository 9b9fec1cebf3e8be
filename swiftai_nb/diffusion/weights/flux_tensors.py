"""FLUX.1 under other names: tables of the layouts' module names, and their tensors as diffusers', lazily.

A linear map of one layout can be several of another (stacked along the outputs), or several can be one
(side by side along the inputs); the tables say which, and LoRAs use them too. Everything works on
unevaluated arrays, and quantized weights stay quantized, since splitting outputs and joining inputs keep
their groups whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights.tensors import Rule, Tensors, kernels_last, rename

_BFL_PREFIX = "model.diffusion_model."
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
MFLUX_TRANSFORMER_RULES: tuple[Rule, ...] = (
    (r"\.(ff|ff_context)\.linear1\.", r".\1.net.0.proj."),
    (r"\.(ff|ff_context)\.linear2\.", r".\1.net.2."),
)
MFLUX_T5_RULES: tuple[Rule, ...] = (
    (r"^t5_blocks\.(\d+)\.attention\.", r"encoder.block.\1.layer.0."),
    (r"^t5_blocks\.(\d+)\.ff\.", r"encoder.block.\1.layer.1."),
    (r"^final_layer_norm\.", "encoder.final_layer_norm."),
)
MFLUX_VAE_RULES: tuple[Rule, ...] = (
    (r"\.(conv_in|conv_out)\.conv(2d)?\.", r".\1."),
    (r"\.conv_norm_out\.norm\.", ".conv_norm_out."),
)
# The autoencoder as latent-diffusion code names it (`ae.safetensors`); `up` counts from the top.
LDM_VAE_RULES: tuple[Rule, ...] = (
    (r"(^|\.)num_batches_tracked$", None),
    (r"^(model_ema|loss)\.", None),  # of training
    (r"^encoder\.quant_conv\.", "quant_conv."),
    (r"^decoder\.post_quant_conv\.", "post_quant_conv."),
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


def convert_bfl_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Black Forest Labs' names -> diffusers'; qkv and linear1 are split, final modulation halves swapped."""
    bare = {name.removeprefix(_BFL_PREFIX): value for name, value in tensors.items()}
    width = _width(bare, "img_in.bias")
    return rename_modules(bare, BFL_RULES, width=width)


def convert_argmax_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Argmax's names -> diffusers'.

    Its attention has no key bias (zeros stand in; the file's makers dropped it), and both halves of a
    split proj_out carry the same bias, which counts once.
    """
    rest, joined = _join_split_outputs(tensors)
    width = _width(tensors, "x_embedder.proj.bias")
    result = rename_modules(rest, ARGMAX_RULES, width=width) | joined
    for name in [n for n in result if re.search(r"\.attn\.(to_k|add_k_proj)\.weight$", n)]:
        result.setdefault(name.removesuffix("weight") + "bias", mx.zeros((width,)))
    return result


def convert_mflux_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'. Since 0.16 its files lack `norm_out.linear.bias`: zeros stand in."""
    result = rename(tensors, MFLUX_TRANSFORMER_RULES)
    result.setdefault("norm_out.linear.bias", mx.zeros((2 * _width(tensors, "x_embedder.bias"),)))
    return result


def convert_mflux_t5(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> transformers'. Every block carries the bias table of the first: those are dropped."""
    result = rename(tensors, MFLUX_T5_RULES)
    table = "SelfAttention.relative_attention_bias."
    result = {n: v for n, v in result.items() if table not in n or n.startswith("encoder.block.0.")}
    norm = result.get("encoder.final_layer_norm.weight")
    inputs = 0 if norm is None else norm.shape[0]
    bits = stored_bits(result, "encoder.block.0.layer.0.SelfAttention.q", inputs)
    return _dequantize_table(result, f"encoder.block.0.layer.0.{table}"[:-1], bits)


def convert_hf_t5(tensors: Mapping[str, mx.array]) -> Tensors:
    """Transformers' names; the token table is stored once or twice, under either of two names."""
    result = dict(tensors)
    embedded = result.pop("encoder.embed_tokens.weight", None)
    if embedded is not None:
        result.setdefault("shared.weight", embedded)
    return result


def convert_clip(tensors: Mapping[str, mx.array]) -> Tensors:
    """Names of any age; mflux quantizes the tables too, of which positions are dequantized.

    The projection some CLIP-L files carry (SD3's, ComfyUI's) is left out: FLUX pools without it.
    """
    result: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("position_ids") or name in ("logit_scale", "text_projection.weight"):
            continue
        result[name if name.startswith("text_model.") else f"text_model.{name}"] = value
    table = "text_model.embeddings.position_embedding"
    norm = result.get("text_model.final_layer_norm.weight")
    bits = stored_bits(result, table, 0 if norm is None else norm.shape[0])
    return _dequantize_table(result, table, bits)


def convert_mflux_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'; its kernels are stored as [O, kh, kw, I] already."""
    return rename(tensors, MFLUX_VAE_RULES)


def convert_ldm_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """`ae.safetensors` -> diffusers' names, kernels as [O, kh, kw, I]."""
    result = kernels_last(rename(tensors, LDM_VAE_RULES))
    pattern = re.compile(r"^decoder\.up_blocks\.(\d+)\.")
    last = max((int(m[1]) for n in result if (m := pattern.match(n))), default=0)
    return {pattern.sub(lambda m: f"decoder.up_blocks.{last - int(m[1])}.", n): v for n, v in result.items()}


def rename_modules(tensors: Mapping[str, mx.array], rules: Sequence[ModuleRule], *, width: int) -> Tensors:
    """The tensors under diffusers' names; names no rule knows stay, for the strict check to report.

    Args:
        tensors: by foreign name.
        rules: the first that matches wins.
        width: of the parts of a stacked map, all but the last.
    """
    result: Tensors = {}
    for name, value in tensors.items():
        module, _, parameter = name.rpartition(".")
        found = find_module_rule(rules, module)
        if found is None:
            result[name] = value
            continue
        rule, targets = found
        parameter = "weight" if parameter == "scale" else parameter
        parts = split_outputs(_as_matrix(value), rule, width=width)
        result |= {f"{target}.{parameter}": part for target, part in zip(targets, parts, strict=True)}
    return result


def split_outputs(value: mx.array, rule: ModuleRule, *, width: int) -> list[mx.array]:
    """A foreign weight or bias cut along its outputs, one part per target, all but the last `width`."""
    if rule.swaps_halves:
        first, second = mx.split(value, 2)
        return [mx.concatenate([second, first])]
    cuts = [width * (i + 1) for i in range(len(rule.targets) - 1)]
    return list(mx.split(value, cuts)) if cuts else [value]


def _as_matrix(value: mx.array) -> mx.array:
    """1x1 kernels as matrices."""
    return value.reshape(value.shape[0], -1) if value.ndim == 4 else value


def _join_split_outputs(tensors: Mapping[str, mx.array]) -> tuple[Tensors, Tensors]:
    attention, _, target = ARGMAX_SPLIT_OUT
    rest, joined = dict(tensors), {}
    for name in tensors:
        module, _, parameter = name.rpartition(".")
        match = re.fullmatch(attention, module)
        if match is None:
            continue
        other = f"{module.removesuffix('attn.o_proj')}mlp.fc2.{parameter}"
        if other not in tensors:
            continue
        first, second = rest.pop(name), rest.pop(other)
        whole = first if parameter == "bias" else mx.concatenate([first, second], axis=1)
        joined[f"{target.format(*match.groups())}.{parameter}"] = whole
    return rest, joined


def _width(tensors: Mapping[str, mx.array], name: str) -> int:
    if name not in tensors:
        raise InvalidModelFilesError(f"the FLUX transformer has no {name}", hint="download the model again")
    return int(tensors[name].shape[0])


def stored_bits(tensors: Mapping[str, mx.array], module: str, inputs: int) -> int | None:
    """Bits of a quantized weight with a known number of inputs; None when it is not quantized."""
    if f"{module}.scales" not in tensors or not inputs:
        return None
    bits = int(tensors[f"{module}.weight"].shape[-1]) * 32 // inputs
    return bits if bits > 0 else None


def _dequantize_table(tensors: Tensors, module: str, bits: int | None) -> Tensors:
    """Small tables are used whole: dequantized once, they cost nothing."""
    scales = tensors.get(f"{module}.scales")
    if bits is None or scales is None:
        return tensors
    packed, offsets = tensors[f"{module}.weight"], tensors[f"{module}.biases"]
    inputs = packed.shape[-1] * 32 // bits
    rest = {n: v for n, v in tensors.items() if n not in (f"{module}.scales", f"{module}.biases")}
    rest[f"{module}.weight"] = mx.dequantize(
        packed, scales=scales, biases=offsets, group_size=inputs // scales.shape[-1], bits=bits
    )
    return rest
