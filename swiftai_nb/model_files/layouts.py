"""What a model folder or a repository listing tells about itself: its family, and the files it needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.variants import DiffusionVariant

COMPONENT_FOLDERS = (
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "unet",
    "vae",
)
_AGAIN = "download the model again"
_SMALL_NAMES = re.compile(r".*\.(json|txt|model)$")
_WEIGHT = re.compile(
    r"^(?P<stem>(diffusion_pytorch_model|model|\d+))(?P<precision>\.(fp16|bf16))?"
    r"(?P<shard>-\d{5}-of-\d{5})?\.safetensors$"
)


def select_files(listing: Iterable[str]) -> tuple[str, ...]:
    """The files one precision of a model needs, out of all a repository has.

    Takes the diffusers and the mflux layout. Where a component has fp16 weights they are preferred
    (half the bytes); whole-pipeline files at the root, ONNX, Flax and `.bin` weights are left out.

    Raises:
        UnsupportedModelError: the listing has no component folder with safetensors weights.
    """
    paths = sorted(set(listing))
    chosen = [p for p in paths if p in ("model_index.json", "generation_defaults.json", "config.json")]
    has_weights = False
    for folder in COMPONENT_FOLDERS:
        inside = [p for p in paths if str(PurePosixPath(p).parent) == folder]
        weights = _preferred_weights(inside)
        has_weights = has_weights or bool(weights)
        index_names = [p for p in inside if p.endswith(".index.json")]
        small = [p for p in inside if _SMALL_NAMES.match(p) and p not in index_names]
        chosen += small + weights + [p for p in index_names if _index_fits(p, weights)]
    if not has_weights and "diffusion_pytorch_model.safetensors" in paths:
        return tuple(p for p in ("config.json", "diffusion_pytorch_model.safetensors") if p in paths)
    if not has_weights:
        raise UnsupportedModelError(
            "the repository has no component folders with safetensors weights",
            hint="use one in diffusers layout (unet/ or transformer/, text_encoder/, vae/)",
        )
    return tuple(chosen)


def _preferred_weights(paths: list[str]) -> list[str]:
    by_precision: dict[str, list[str]] = {}
    for path in paths:
        match = _WEIGHT.match(PurePosixPath(path).name)
        if match:
            by_precision.setdefault(match["precision"] or "", []).append(path)
    for precision in (".fp16", ".bf16", ""):
        if precision in by_precision:
            found = by_precision[precision]
            whole = [p for p in found if "-of-" not in p]
            return whole if whole else found
    return []


def _index_fits(index: str, weights: list[str]) -> bool:
    is_fp16 = any(".fp16" in w for w in weights)
    is_sharded = any("-of-" in w or PurePosixPath(w).name[0].isdigit() for w in weights)
    return is_sharded and (".fp16" in index) == is_fp16


def detect_variant(folder: Path) -> DiffusionVariant:
    """The family of a model folder, from its own configuration files.

    Raises:
        InvalidModelFilesError: not a model folder, or its configuration cannot be read.
        UnsupportedModelError: a family the engine cannot run.
    """
    index = _read_json(folder / "model_index.json")
    unet = _read_json(folder / "unet" / "config.json")
    if unet:
        return _unet_variant(folder, unet)
    if "Flux" in str(index.get("_class_name", "")) or _is_mflux_flux(folder):
        return DiffusionVariant.FLUX
    if "unet" in index:
        raise InvalidModelFilesError(f"{folder / 'unet'} has no config.json", hint=_AGAIN)
    if index:
        raise UnsupportedModelError(
            f"{folder} holds a {index.get('_class_name')}, which the local engine cannot run",
            hint="use a Stable Diffusion 1.x/2.x, SDXL or FLUX.1 model",
        )
    raise InvalidModelFilesError(
        f"{folder} is not a model folder: no model_index.json, unet/config.json or transformer/",
        hint="give the folder that holds unet/ (or transformer/), text_encoder/ and vae/",
    )


def _unet_variant(folder: Path, unet: dict[str, Any]) -> DiffusionVariant:
    if unet.get("addition_embed_type") == "text_time":
        scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
        turbo = scheduler.get("timestep_spacing") == "trailing"
        return DiffusionVariant.SDXL_TURBO if turbo else DiffusionVariant.SDXL
    return DiffusionVariant.SD_21 if unet.get("cross_attention_dim") == 1024 else DiffusionVariant.SD_15


def _is_mflux_flux(folder: Path) -> bool:
    return (folder / "transformer").is_dir() and (folder / "text_encoder_2").is_dir()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModelFilesError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    if not isinstance(data, dict):
        raise InvalidModelFilesError(f"{path} is not a JSON object", hint=_AGAIN)
    return data
