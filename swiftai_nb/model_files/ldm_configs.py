"""Networks in the names of latent-diffusion code and OpenCLIP: their configurations, told by shapes.

What no shape tells (heads, groups of normalization) is taken from a known configuration of an equally wide
network, else it is the family's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import pstdev
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.components import ComponentFiles
from swiftai_nb.model_files.safetensors_headers import StoredTensor, read_header

Shapes = Mapping[str, tuple[int, ...]]

SD_2_CONTEXT = 1024  # width of the text encoder of Stable Diffusion 2
_HEAD_DIM = 64
_SD_1_CONTEXT = 768
# Of the last output block's first norm: published models that predict velocity lie above, others below.
_V_BIAS_DEVIATION = 0.09
_V_MARK = "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def ldm_unet_names(names: Iterable[str]) -> dict[str, str]:
    """Names of latent-diffusion code's UNet -> diffusers'; what is unknown keeps its name.

    Args:
        names: of one UNet, without prefix: where the downsamplers stand tells the blocks' lengths.
    """
    names = tuple(names)
    downsamplers = [int(m[1]) for n in names if (m := re.match(r"input_blocks\.(\d+)\.0\.op\.", n))]
    period = min(downsamplers, default=len(names) + 1)
    return {name: _diffusers_name(name, period) for name in names}


def ldm_control_names(names: Iterable[str]) -> dict[str, str]:
    """Names of a ControlNet's own code -> diffusers'; what is unknown keeps its name."""
    found = ldm_unet_names(names)
    layers = sorted(int(m[1]) for n in found if (m := re.fullmatch(r"input_hint_block\.(\d+)\.weight", n)))
    places = {number: place for place, number in enumerate(layers)}
    return {name: _control_name(name, other, places) for name, other in found.items()}


def _control_name(name: str, other: str, places: Mapping[int, int]) -> str:
    """Args: the name, what `ldm_unet_names` makes of it, and the places of the hint's layers."""
    module, _, parameter = name.rpartition(".")
    zero, hint = (re.fullmatch(p, module) for p in (r"zero_convs\.(\d+)\.0", r"input_hint_block\.(\d+)"))
    if module == "middle_block_out.0":
        return f"controlnet_mid_block.{parameter}"
    if zero is not None:
        return f"controlnet_down_blocks.{zero[1]}.{parameter}"
    if hint is None or int(hint[1]) not in places:
        return other
    place, last = places[int(hint[1])], len(places) - 1
    layer = "conv_in" if place == 0 else "conv_out" if place == last else f"blocks.{place - 1}"
    return f"controlnet_cond_embedding.{layer}.{parameter}"


_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"middle_block\.(\d+)\.(.+)")


def _diffusers_name(name: str, period: int) -> str:
    module, _, parameter = name.rpartition(".")
    if module in _ENDS:
        return f"{_ENDS[module]}.{parameter}"
    middle = _MIDDLE.fullmatch(module)
    if middle is not None:
        place, rest = int(middle[1]), middle[2]
        kind = "resnets" if rest in _RESNET else "attentions"
        return f"mid_block.{kind}.{place // 2}.{_RESNET.get(rest, rest)}.{parameter}"
    block = _BLOCK.fullmatch(module)
    if block is None:
        # The norm and the projections of an attention are modules of their own name.
        return name
    side, number, _, rest = block.groups()
    is_down = side == "input_blocks"
    level, layer = divmod(int(number) - is_down, period)
    prefix = f"{'down' if is_down else 'up'}_blocks.{level}"
    if rest in ("op", "conv"):
        return f"{prefix}.{'downsamplers' if is_down else 'upsamplers'}.0.conv.{parameter}"
    kind = "resnets" if rest in _RESNET else "attentions"
    return f"{prefix}.{kind}.{layer}.{_RESNET.get(rest, rest)}.{parameter}"


def unet_config(shapes: Shapes, *, layout: str, path: Path) -> dict[str, Any]:
    """The fields of a UNet's `config.json` that its tensors' shapes tell, and the family's heads.

    Args:
        shapes: by name, kernels as [O, I, kh, kw].
        layout: "LDM" or "diffusers".
        path: the file, for errors.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing.
    """
    names = ldm_unet_names(shapes) if layout == "LDM" else {name: name for name in shapes}
    own = {names[name]: shape for name, shape in shapes.items()}
    encoder = _encoder_config(own, path)
    return {
        **encoder,
        "out_channels": _shape(own, "conv_out.weight", path)[0],
        "up_block_types": [
            "CrossAttnUpBlock2D" if _count(own, rf"up_blocks\.{i}\.attentions\.(\d+)\.") else "UpBlock2D"
            for i in range(len(encoder["block_out_channels"]))
        ],
    }


def control_config(shapes: Shapes, *, layout: str, path: Path) -> dict[str, Any]:
    """As `unet_config`, of a ControlNet.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing.
    """
    names = ldm_control_names(shapes) if layout == "LDM" else {name: name for name in shapes}
    own = {names[name]: shape for name, shape in shapes.items()}
    embedding = "controlnet_cond_embedding"
    layers = range(0, _count(own, rf"{embedding}\.blocks\.(\d+)\."), 2)
    widths = [_shape(own, f"{embedding}.blocks.{i}.weight", path)[0] for i in layers]
    return {
        **_encoder_config(own, path),
        "conditioning_channels": _shape(own, f"{embedding}.conv_in.weight", path)[1],
        "conditioning_embedding_out_channels": [
            *widths,
            _shape(own, f"{embedding}.conv_out.weight", path)[1],
        ],
    }


def t2i_adapter_names(names: Iterable[str], *, layout: str) -> dict[str, str]:
    """A T2I-Adapter's names in a file -> diffusers' names; TencentARC numbers residual blocks in a row."""
    if layout == "diffusers":
        return {name: name for name in names}
    if layout == "TencentARC light":
        return {name: re.sub(r"^(body\.\d+)\.body\.", r"\1.resnets.", name) for name in names}

    def renamed(match: re.Match[str]) -> str:
        block, place = divmod(int(match[1]), 2)  # as all that were published
        return (
            f"body.{block}.in_conv." if match[2] == "in_conv" else f"body.{block}.resnets.{place}.{match[2]}."
        )

    return {name: re.sub(r"^body\.(\d{1,4})\.(block\d|in_conv)\.", renamed, name) for name in names}


def adapter_config(own: Shapes, *, path: Path) -> dict[str, Any]:
    """The configuration of a T2I-Adapter, from shapes under diffusers' names.

    Raises:
        InvalidModelFilesError: a tensor it needs is missing.
    """
    count, is_light = _count(own, r"body\.(\d+)\."), "conv_in.weight" not in own
    inputs = _shape(own, "body.0.in_conv.weight" if is_light else "conv_in.weight", path)[1]
    patch = 16 if inputs in (256, 768) else 8
    last = "out_conv" if is_light else "resnets.0.block1"
    return {
        "adapter_type": "light_adapter" if is_light else "full_adapter" if patch == 8 else "full_adapter_xl",
        "in_channels": inputs // patch**2,
        "channels": [_shape(own, f"body.{i}.{last}.weight", path)[0] for i in range(count - is_light)],
        "num_res_blocks": _count(own, r"body\.0\.resnets\.(\d+)\."),
        "downscale_factor": patch,
    }


def _encoder_config(own: Shapes, path: Path) -> dict[str, Any]:
    """What a UNet and its ControlNets have in common, from shapes under diffusers' names."""
    levels = _count(own, r"down_blocks\.(\d+)\.resnets\.")
    channels = [_shape(own, f"down_blocks.{i}.resnets.0.conv1.weight", path)[0] for i in range(levels)]
    mid_depth = _count(own, r"mid_block\.attentions\.0\.transformer_blocks\.(\d+)\.")
    depths = [
        _count(own, rf"down_blocks\.{i}\.attentions\.0\.transformer_blocks\.(\d+)\.") for i in range(levels)
    ]
    context = next((s[1] for n, s in own.items() if n.endswith("attn2.to_k.weight") and len(s) > 1), None)
    if context is None or not channels:
        raise InvalidModelFilesError(f"the UNet in {path} is not whole", hint="download the model again")
    projection = next((s for n, s in own.items() if n.endswith(".proj_in.weight")), ())
    is_linear = len(projection) == 2
    added, guidance = (
        _shape(own, name, path)[1] if name in own else None
        for name in ("add_embedding.linear_1.weight", "time_embedding.cond_proj.weight")
    )
    return {
        "in_channels": _shape(own, "conv_in.weight", path)[1],
        "block_out_channels": channels,
        "layers_per_block": _count(own, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "transformer_layers_per_block": [*(max(1, d) for d in depths[:-1]), max(1, depths[-1], mid_depth)],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if mid_depth else None,
        "cross_attention_dim": context,
        "use_linear_projection": is_linear,
        # Stable Diffusion 1 has 8 heads; converters of its files may have made its 1x1 kernels matrices.
        "attention_head_dim": [max(1, c // _HEAD_DIM) for c in channels]
        if is_linear and context != _SD_1_CONTEXT
        else 8,
        "time_cond_proj_dim": guidance,
        "addition_embed_type": None if added is None else "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 0 if added is None else added,
    }


# What shapes do not tell: the base's values stand before these.
_NOT_IN_SHAPES = (
    "attention_head_dim",
    "num_attention_heads",
    "addition_time_embed_dim",
    "hidden_act",
    "scaling_factor",
    "force_upcast",
    "norm_num_groups",
)
# And what of a base's configuration does not describe other weights.
_SHAPED_ALIKE = ("encoder_hid_dim_type", "_name_or_path")


def with_base(inferred: Mapping[str, Any], base: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """A configuration by shapes, completed by the base's where that network is as wide."""
    width = base.get(key)
    if width is None or (list(width) if isinstance(width, list) else width) != inferred[key]:
        return dict(inferred)
    kept = {name: value for name, value in base.items() if name not in _SHAPED_ALIKE}
    shaped = {n: v for n, v in inferred.items() if n not in _NOT_IN_SHAPES or base.get(n) is None}
    return kept | shaped


def clip_config(shapes: Shapes, path: Path) -> dict[str, Any]:
    """The fields of CLIP's `config.json` from shapes under transformers' names."""
    own = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    width = _shape(own, "final_layer_norm.weight", path)[0]
    return {
        "vocab_size": _shape(own, "embeddings.token_embedding.weight", path)[0],
        "hidden_size": width,
        "intermediate_size": _shape(own, "encoder.layers.0.mlp.fc1.weight", path)[0],
        "num_hidden_layers": _count(own, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": max(1, width // _HEAD_DIM),
        "max_position_embeddings": _shape(own, "embeddings.position_embedding.weight", path)[0],
        "hidden_act": "quick_gelu",
    }


def open_clip_config(shapes: Shapes, path: Path) -> dict[str, Any]:
    """As `clip_config`, from shapes under OpenCLIP's names."""
    width = _shape(shapes, "ln_final.weight", path)[0]
    config = {
        "vocab_size": _shape(shapes, "token_embedding.weight", path)[0],
        "hidden_size": width,
        "intermediate_size": _shape(shapes, "transformer.resblocks.0.mlp.c_fc.weight", path)[0],
        "num_hidden_layers": _count(shapes, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": max(1, width // _HEAD_DIM),
        "max_position_embeddings": _shape(shapes, "positional_embedding", path)[0],
        "hidden_act": "gelu",
    }
    if "text_projection" in shapes:
        config["projection_dim"] = _shape(shapes, "text_projection", path)[-1]
    elif "text_projection.weight" in shapes:  # as a linear map, which merging tools make of it
        config["projection_dim"] = _shape(shapes, "text_projection.weight", path)[0]
    return config


def vae_config(shapes: Shapes, path: Path, *, is_xl: bool) -> dict[str, Any]:
    """The fields of an autoencoder's `config.json` from shapes in latent-diffusion names."""
    levels = _count(shapes, r"encoder\.down\.(\d+)\.")
    return {
        "block_out_channels": [
            _shape(shapes, f"encoder.down.{i}.block.0.conv1.weight", path)[0] for i in range(levels)
        ],
        "layers_per_block": _count(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _shape(shapes, "decoder.conv_in.weight", path)[1],
        "norm_num_groups": 32,
        "scaling_factor": 0.13025 if is_xl else 0.18215,
        "force_upcast": is_xl,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def _shape(shapes: Shapes, name: str, path: Path) -> tuple[int, ...]:
    shape = shapes.get(name)
    is_matrix = name.endswith("weight") and any(word in name for word in ("conv", "proj", "linear"))
    if not shape or (is_matrix and len(shape) < 2):
        raise InvalidModelFilesError(
            f"{path}: tensor {name} is missing or misshapen", hint="download the model again"
        )
    return shape


def _count(shapes: Iterable[str], pattern: str) -> int:
    compiled = re.compile(pattern)
    return 1 + max((int(m[1]) for name in shapes if (m := compiled.match(name))), default=-1)


def scheduler_facts(files: ComponentFiles, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file itself tells of its training: its marks and metadata, else, for SD 2, its numbers."""
    path = files.paths[0]
    tensors, _ = read_header(path)
    facts: dict[str, Any] = {}
    said = metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in tensors or said in ("v", "v_prediction", "v-prediction"):
        facts["prediction_type"] = "v_prediction"
    elif said in ("epsilon", "eps"):
        facts["prediction_type"] = "epsilon"
    else:
        mark = tensors.get(f"{files.prefix}{_V_MARK}")
        context = tensors.get(f"{files.prefix}{_V_MARK.replace('norm1.bias', 'attn2.to_k.weight')}")
        if mark is not None and context is not None and context.shape[1:] == (SD_2_CONTEXT,):
            values = _read_numbers(mark)
            if len(values) > 1:
                is_v = pstdev(values) > _V_BIAS_DEVIATION
                facts["prediction_type"] = "v_prediction" if is_v else "epsilon"
    if "ztsnr" in tensors:
        facts |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return facts


def _read_numbers(tensor: StoredTensor) -> tuple[float, ...]:
    """The numbers of a small tensor; none of a dtype that Python cannot unpack."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset)
        data = file.read(tensor.size_bytes)
    if tensor.dtype == "BF16":
        pairs = zip(data[::2], data[1::2], strict=True)
        data = b"".join(bytes((0, 0, low, high)) for low, high in pairs)
    code = {"F32": "f", "BF16": "f", "F16": "e"}.get(tensor.dtype)
    return () if code is None else struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)
