"""Turns tensors of foreign FLUX.1 layouts into diffusers' names and shapes, lazily.

Everything here works on unevaluated arrays: nothing is read from disk until a tensor is used, and packed
(quantized) weights stay packed, since splitting outputs and joining inputs keep their groups whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights.flux_names import (
    ARGMAX_RULES,
    ARGMAX_SPLIT_OUT,
    BFL_RULES,
    LDM_VAE_RULES,
    MFLUX_T5_RULES,
    MFLUX_TRANSFORMER_RULES,
    MFLUX_VAE_RULES,
    ModuleRule,
    find_module_rule,
)

Tensors = dict[str, mx.array]
Convert = Callable[[Mapping[str, mx.array]], Tensors]
_BFL_PREFIX = "model.diffusion_model."


def as_diffusers(tensors: Mapping[str, mx.array]) -> Tensors:
    """Nothing to rename."""
    return dict(tensors)


def convert_bfl_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Black Forest Labs' names -> diffusers'; qkv and linear1 are split, final modulation halves swapped."""
    bare = {name.removeprefix(_BFL_PREFIX): value for name, value in tensors.items()}
    width = _width(bare, "img_in.bias")
    return _rename_modules(bare, BFL_RULES, width=width)


def convert_argmax_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Argmax's names -> diffusers'.

    Its attention has no key bias (zeros stand in; the file's makers dropped it), and both halves of a
    split proj_out carry the same bias, which counts once.
    """
    rest, joined = _join_split_outputs(tensors)
    width = _width(tensors, "x_embedder.proj.bias")
    result = _rename_modules(rest, ARGMAX_RULES, width=width) | joined
    for name in [n for n in result if re.search(r"\.attn\.(to_k|add_k_proj)\.weight$", n)]:
        result.setdefault(name.removesuffix("weight") + "bias", mx.zeros((width,)))
    return result


def convert_mflux_transformer(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'. Since 0.16 its files lack `norm_out.linear.bias`: zeros stand in."""
    result = _rename(tensors, MFLUX_TRANSFORMER_RULES)
    result.setdefault("norm_out.linear.bias", mx.zeros((2 * _width(tensors, "x_embedder.bias"),)))
    return result


def convert_mflux_t5(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> transformers'. Every block carries the bias table of the first: those are dropped."""
    result = _rename(tensors, MFLUX_T5_RULES)
    table = "SelfAttention.relative_attention_bias."
    result = {n: v for n, v in result.items() if table not in n or n.startswith("encoder.block.0.")}
    norm = result.get("encoder.final_layer_norm.weight")
    inputs = 0 if norm is None else norm.shape[0]
    bits = _bits(result, "encoder.block.0.layer.0.SelfAttention.q", inputs)
    return _unpack_table(result, f"encoder.block.0.layer.0.{table}"[:-1], bits)


def convert_hf_t5(tensors: Mapping[str, mx.array]) -> Tensors:
    """Transformers' names; the token table is stored once or twice, under either of two names."""
    result = dict(tensors)
    embedded = result.pop("encoder.embed_tokens.weight", None)
    if embedded is not None:
        result.setdefault("shared.weight", embedded)
    return result


def convert_clip(tensors: Mapping[str, mx.array]) -> Tensors:
    """Names of any age; mflux packs the tables too, of which positions are unpacked.

    The projection some CLIP-L files carry (SD3's, ComfyUI's) is left out: FLUX pools without it.
    """
    result: Tensors = {}
    for name, value in tensors.items():
        if name.endswith("position_ids") or name in ("logit_scale", "text_projection.weight"):
            continue
        result[name if name.startswith("text_model.") else f"text_model.{name}"] = value
    table = "text_model.embeddings.position_embedding"
    norm = result.get("text_model.final_layer_norm.weight")
    bits = _bits(result, table, 0 if norm is None else norm.shape[0])
    return _unpack_table(result, table, bits)


def convert_mflux_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """Mflux's names -> diffusers'; its kernels are stored as [O, kh, kw, I] already."""
    return _rename(tensors, MFLUX_VAE_RULES)


def convert_ldm_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """`ae.safetensors` -> diffusers' names, kernels as [O, kh, kw, I]."""
    result = _kernels_last(_rename(tensors, LDM_VAE_RULES))
    pattern = re.compile(r"^decoder\.up_blocks\.(\d+)\.")
    last = max((int(m[1]) for n in result if (m := pattern.match(n))), default=0)
    return {pattern.sub(lambda m: f"decoder.up_blocks.{last - int(m[1])}.", n): v for n, v in result.items()}


def convert_diffusers_vae(tensors: Mapping[str, mx.array]) -> Tensors:
    """Diffusers' names, kernels as [O, kh, kw, I]."""
    return _kernels_last(tensors)


def _kernels_last(tensors: Mapping[str, mx.array]) -> Tensors:
    return {n: v.transpose(0, 2, 3, 1) if v.ndim == 4 else v for n, v in tensors.items()}


def _rename(tensors: Mapping[str, mx.array], rules: Sequence[tuple[str, str]]) -> Tensors:
    result: Tensors = {}
    for name, value in tensors.items():
        renamed = name
        for pattern, replacement in rules:
            renamed = re.sub(pattern, replacement, renamed)
        result[renamed] = value
    return result


def _rename_modules(tensors: Mapping[str, mx.array], rules: Sequence[ModuleRule], *, width: int) -> Tensors:
    """Names no rule knows keep their name: the strict check will report them."""
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


def _bits(tensors: Mapping[str, mx.array], module: str, inputs: int) -> int | None:
    """Bits of a packed weight with a known number of inputs; None when it is not packed."""
    if f"{module}.scales" not in tensors or not inputs:
        return None
    return int(tensors[f"{module}.weight"].shape[-1]) * 32 // inputs


def _unpack_table(tensors: Tensors, module: str, bits: int | None) -> Tensors:
    """Small tables are used whole: unpacked once, they cost nothing."""
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
