"""Which family a model folder holds, by its configuration files or, without them, by its tensor names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.components import find_part, holds_transformer
from swiftai_nb.model_files.configs import FolderConfigs
from swiftai_nb.model_files.families import (
    FLUX_1,
    FLUX_2_DEV,
    FLUX_2_KLEIN,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    STABLE_DIFFUSION_XL_REFINER,
    Z_IMAGE,
    Family,
    family_of_class,
    supported_pipeline,
)
from swiftai_nb.model_files.refusals import (
    MODEL_FILE_SUFFIXES,
    refuse_unsupported,
    single_file_error,
    unsupported_class,
)
from swiftai_nb.model_files.safetensors_headers import StoredTensor, read_header

_AGAIN = "download the model again"
# FLUX.1 transformers that take more input channels than they give out.
_UNET_CLASS = "UNet2DConditionModel"
_FLUX_EDITORS = {384: "FLUX.1 Fill", 128: "FLUX.1 Depth or Canny"}


def identify_family(configs: FolderConfigs) -> Family:
    """The family of a folder: its denoiser decides, and `model_index.json` must not disagree.

    Raises:
        UnsupportedModelError: a family, or a kind of model in it, that the local engine cannot run.
        InvalidModelFilesError: no model folder.
    """
    family = _identify(configs)
    if family is FLUX_1:
        _refuse_flux_editor(configs, _flux_tensors(configs.folder))
    if family is FLUX_2_KLEIN and _is_flux_2_dev(configs):
        refuse_unsupported(FLUX_2_DEV, configs.folder)
    if family is Z_IMAGE and configs.transformer.get("siglip_feat_dim") is not None:
        raise UnsupportedModelError(
            f"{configs.folder} holds Z-Image Omni, which the local engine cannot run",
            hint="use Z-Image or Z-Image-Turbo",
        )
    return family


def is_flux_dev(configs: FolderConfigs) -> bool:
    """Whether a FLUX.1 model takes the guidance scale as an input, as dev does."""
    return configs.transformer.get("guidance_embeds") is True or any(
        "guidance_in." in name or "guidance_embedder." in name for name in _flux_tensors(configs.folder)
    )


def _identify(configs: FolderConfigs) -> Family:
    folder, labelled = configs.folder, supported_pipeline(configs.pipeline_class)
    if configs.pipeline_class and labelled is None:
        raise unsupported_class(configs.pipeline_class, folder)
    if configs.unet:
        _refuse_other_unet(configs)
        if configs.unet.get("addition_embed_type") != "text_time":
            return STABLE_DIFFUSION
        return STABLE_DIFFUSION_XL_REFINER if _lacks_first_encoder(configs.index) else STABLE_DIFFUSION_XL
    denoiser = configs.denoiser_class
    family = family_of_class(denoiser)
    if denoiser and (family is None or not family.is_supported or denoiser not in family.denoiser_classes):
        raise unsupported_class(denoiser, folder)
    for known in (family, labelled):
        if known is not None and known in (FLUX_1, FLUX_2_KLEIN, Z_IMAGE):
            return known
    for family in (FLUX_2_KLEIN, Z_IMAGE):
        if holds_transformer(folder, family):
            return family
    if find_part(folder, FLUX_1, "transformer") is not None:
        return FLUX_1
    if "unet" in configs.index or labelled is not None:
        raise InvalidModelFilesError(f"{folder / 'unet'} has no config.json", hint=_AGAIN)
    single = [p for p in sorted(folder.glob("*")) if p.suffix.lower() in MODEL_FILE_SUFFIXES and p.is_file()]
    if single:
        raise single_file_error(max(single, key=lambda p: p.stat().st_size))
    raise InvalidModelFilesError(
        f"{folder} is not a model folder: no model_index.json, unet/config.json or transformer/, and no "
        "safetensors weights",
        hint="give the folder that holds unet/ (or transformer/), text_encoder/ and vae/",
    )


def _lacks_first_encoder(index: Mapping[str, Any]) -> bool:
    """Whether `model_index.json` says that there is no text_encoder, as that of the SDXL refiner does."""
    entry = index.get("text_encoder", () if index.get("requires_aesthetics_score") is True else ("",))
    return not isinstance(entry, (list, tuple)) or not entry or entry[0] is None


def _refuse_other_unet(configs: FolderConfigs) -> None:
    """UNets of other families: their class says it, or what they take beside text."""
    name = configs.unet.get("_class_name", _UNET_CLASS)
    if name != _UNET_CLASS:
        raise unsupported_class(str(name), configs.folder)
    if configs.unet.get("encoder_hid_dim_type") == "text_proj":
        raise unsupported_class("KolorsPipeline", configs.folder)
    if configs.unet.get("addition_embed_type") in ("image", "text_image"):
        raise unsupported_class("KandinskyPipeline", configs.folder)


def _is_flux_2_dev(configs: FolderConfigs) -> bool:
    """Whether a FLUX.2 model takes the guidance scale as an input."""
    if "guidance_embeds" in configs.transformer:
        return bool(configs.transformer["guidance_embeds"])
    files = find_part(configs.folder, FLUX_2_KLEIN, "transformer")
    names = () if files is None else files.tensors()
    return any("guidance_in." in name or "guidance_embedder." in name for name in names)


def _flux_tensors(folder: Path) -> Mapping[str, StoredTensor]:
    files = find_part(folder, FLUX_1, "transformer")
    paths = () if files is None else files.paths
    return {name: t for path in paths for name, t in read_header(path)[0].items()}


def _refuse_flux_editor(configs: FolderConfigs, tensors: Mapping[str, StoredTensor]) -> None:
    """Fill, Depth and Canny take an image beside the latents: their input is wider than their output."""
    given, made = configs.transformer.get("in_channels"), configs.transformer.get("out_channels")
    if given is None:
        given, made = _flux_width(tensors, "img_in", "x_embedder"), None
    made = _flux_width(tensors, "final_layer.linear", "proj_out", axis=0) if made is None else made
    if type(given) is int and type(made) is int and given != made:
        name = _FLUX_EDITORS.get(given, f"a FLUX.1 model with {given} input channels")
        raise UnsupportedModelError(
            f"{configs.folder} holds {name}, which the local engine cannot run",
            hint="use FLUX.1 schnell or dev; masks work with them",
        )


def _flux_width(tensors: Mapping[str, StoredTensor], *modules: str, axis: int = -1) -> int | None:
    """Rows or columns of a linear map that is not quantized; None when it is, or is not there."""
    names = {f"{prefix}{m}.weight" for m in modules for prefix in ("", "model.diffusion_model.")}
    found = next((tensors[name] for name in names if name in tensors), None)
    is_plain = (
        found is not None and len(found.shape) == 2 and found.dtype in ("F32", "F16", "BF16", "F8_E4M3")
    )
    return found.shape[axis] if found is not None and is_plain else None
