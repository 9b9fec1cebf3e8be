"""An autoencoder given beside a model (`--vae`): which files it has, and whether it fits the model's latents.

Read are diffusers' folders (`AutoencoderKL`, `AutoencoderTiny`) or a model folder that has one as `vae`, and
single files in the names of diffusers and of latent-diffusion code (`vae-ft-mse-840000`, `ae.safetensors`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.model_files.components import ComponentFiles
from swiftai_nb.model_files.families import (
    FLUX_1,
    SDXL_FAMILIES,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    Z_IMAGE,
    Family,
)
from swiftai_nb.model_files.json_file import read_json_object
from swiftai_nb.model_files.ldm_configs import vae_config
from swiftai_nb.model_files.refusals import PICKLE_SUFFIXES, single_file_error
from swiftai_nb.model_files.safetensors_headers import find_weight_files, read_header

TINY = "AutoencoderTiny"
# Family -> channels of its published latents, and the factor they are scaled by.
_LATENTS: Mapping[Family, tuple[int, float]] = {
    STABLE_DIFFUSION: (4, 0.18215),
    STABLE_DIFFUSION_XL: (4, 0.13025),
    STABLE_DIFFUSION_XL_REFINER: (4, 0.13025),
    FLUX_1: (16, 0.3611),
    Z_IMAGE: (16, 0.3611),
}
_FLUX_SHIFT = 0.1159
_PREFIXES = ("first_stage_model.", "vae.", "")
# Layout -> a tensor that only it has, and the one that tells the latents' channels.
_MARKS = {
    "BFL": ("decoder.mid.block_1.norm1.weight", "decoder.conv_in.weight"),
    "diffusers": ("decoder.mid_block.resnets.0.norm1.weight", "decoder.conv_in.weight"),
    "tiny": ("decoder.layers.0.weight", "decoder.layers.0.weight"),
}


def open_vae(path: Path, family: Family, replaced: ComponentFiles | None = None) -> ComponentFiles:
    """The files of an autoencoder for a model of this family, with its configuration.

    Args:
        path: a folder or a safetensors file.
        family: of the model.
        replaced: the model's own, whose configuration has what a single file does not tell.

    Raises:
        ModelNotFoundError: there is nothing.
        InvalidModelFilesError: a pickle, no autoencoder, or only half of one.
        UnsupportedModelError: one for other latents, or a family whose autoencoder cannot be replaced.
    """
    if family not in _LATENTS:
        raise UnsupportedModelError(
            f"the autoencoder of {family.name} cannot be replaced", hint="leave vae out"
        )
    if not path.exists():
        raise ModelNotFoundError(
            f"there is no autoencoder {path}", hint="give a folder or a safetensors file"
        )
    if path.is_file() and path.suffix.lower() in PICKLE_SUFFIXES:
        raise single_file_error(path)
    folder = path.parent if path.is_file() else path / "vae" if (path / "vae").is_dir() else path
    paths = (path,) if path.is_file() else find_weight_files(folder)
    shapes = {name: tuple(one.shape) for file in paths for name, one in read_header(file)[0].items()}
    layout, prefix = _layout(shapes, paths[0])
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    known = _config_of(replaced)
    channels, scaling = _LATENTS[family]
    channels = known.get("latent_channels", channels)
    found = own[_MARKS[layout][1]][1]
    if found != channels:
        raise UnsupportedModelError(
            f"the autoencoder {path.name} has latents of {found} channels, the model's have {channels}",
            hint=f"use an autoencoder of {family.name}",
        )
    config = read_json_object(folder / "config.json")
    if str(config.get("_class_name", "")).startswith("Autoencoder"):
        values = config
    elif layout == "tiny":
        values = {"_class_name": TINY, "latent_channels": channels}
    else:
        if layout == "BFL":
            inferred = vae_config(own, path, is_xl=family in SDXL_FAMILIES)
        else:
            inferred = _diffusers_config(own, path)
        values = {**inferred, "scaling_factor": scaling, "norm_num_groups": known.get("norm_num_groups", 32)}
        values |= {"shift_factor": _FLUX_SHIFT} if family.is_flow else {}
    return ComponentFiles(layout, paths, None, prefix, values)


def _config_of(files: ComponentFiles | None) -> dict[str, int]:
    """The whole numbers of an autoencoder's configuration; empty where there is none."""
    values: Mapping[str, Any] = {}
    if files is not None and files.values is not None:
        values = files.values
    elif files is not None and files.config is not None:
        values = read_json_object(files.config)
    return {name: value for name, value in values.items() if type(value) is int and value > 0}


def _diffusers_config(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, Any]:
    """The fields of `config.json` from shapes in diffusers' names."""
    levels = _count(shapes, r"encoder\.down_blocks\.(\d+)\.")
    convolutions = [f"encoder.down_blocks.{level}.resnets.0.conv1.weight" for level in range(levels)]
    if not levels or not all(
        len(shapes.get(name, ())) == 4 for name in (*convolutions, "decoder.conv_in.weight")
    ):
        raise _not_one(path, "parts of its encoder or decoder are missing")
    return {
        "block_out_channels": [shapes[name][0] for name in convolutions],
        "layers_per_block": _count(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def _count(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in names if (found := re.match(pattern, name))), default=-1)


def _layout(shapes: Mapping[str, Any], file: Path) -> tuple[str, str]:
    """The layout of tensors, and what their names begin with."""
    for prefix in _PREFIXES:
        for layout, (mark, channels) in _MARKS.items():
            if prefix + mark in shapes and len(shapes.get(prefix + channels, ())) == 4:
                encoder = any(name.startswith(f"{prefix}encoder.") for name in shapes)
                if not encoder:
                    raise _not_one(file, "it has no encoder")
                return layout, prefix
    if any(re.match(r"\d+\.", name) for name in shapes):
        raise _not_one(file, "it is half of a tiny one")
    raise _not_one(file, "its tensors have other names")


def _not_one(file: Path, why: str) -> InvalidModelFilesError:
    return InvalidModelFilesError(
        f"{file} is not an autoencoder that can be used: {why}",
        hint="give AutoencoderKL or AutoencoderTiny in diffusers' layout, or a VAE file",
    )
