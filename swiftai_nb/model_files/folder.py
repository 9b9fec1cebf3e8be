"""Opens a model folder or file: family and settings, from configurations and headers; reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.checkpoint import is_named_base, open_checkpoint
from swiftai_nb.model_files.configs import FolderConfigs
from swiftai_nb.model_files.families import (
    FLUX_1,
    FLUX_2_KLEIN,
    SDXL_FAMILIES,
    STABLE_DIFFUSION,
    Z_IMAGE,
    Family,
)
from swiftai_nb.model_files.identify import identify_family, is_flux_dev
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES, single_file_error, unet_task
from swiftai_nb.model_files.samplers import is_distilled_turbo, scheduler_name
from swiftai_nb.model_files.vae_files import open_vae
from swiftai_nb.model_files.variants import DiffusionVariant, defaults_of

_WEIGHTS = ".safetensors"
_LATENT_CHANNELS = 4  # of a UNet whose config.json does not say
_PATCH = 2  # a token of FLUX.1 and Z-Image is 2x2 latents
_FLOW_SCHEDULER = "flow-match-euler"
_LCM = {"steps": 4, "guidance_scale": 8.5}
_TURBO = {"steps": 4, "guidance_scale": 0.0}
_FLUX_DEV = {"steps": 28, "guidance_scale": 3.5}
_KLEIN_BASE = {"steps": 50, "guidance_scale": 4.0}
_Z_IMAGE_BASE = {"steps": 28, "guidance_scale": 4.0}
_Z_IMAGE_BASE_SHIFT = 6.0
# Flow families -> the settings of their models that are not distilled for few steps without guidance.
_UNDISTILLED = {FLUX_1: _FLUX_DEV, FLUX_2_KLEIN: _KLEIN_BASE, Z_IMAGE: _Z_IMAGE_BASE}


def open_model(
    path: Path, *, base: Path | None = None, prefer_half: bool = False, vae: Path | None = None
) -> ModelFolder:
    """Reads a model folder's configuration files; where there are none, the headers of its weights.

    Args:
        path: the model's folder, or its single file.
        base: for a single file, the folder of a model of its family, which has what the file lacks.
        prefer_half: as the pipeline will: take the 16-bit files where there is a choice.
        vae: a folder or file with another autoencoder.

    Raises:
        InvalidModelFilesError: no model folder, or a configuration file with values that make no sense.
        UnsupportedModelError: a family the local engine cannot run, or a file that is no model.
        InvalidInputError: the path is a LoRA, or no file can have it.
    """
    path = user_path(path)
    if vae is not None:
        opened = open_model(path, base=base, prefer_half=prefer_half)
        return replace(opened, vae=open_vae(vae, opened.family, opened.components.get("vae")))
    if path.is_file() and path.suffix.lower() in MODEL_FILE_SUFFIXES:
        return _open_file(path, base, prefer_half=prefer_half)
    configs = FolderConfigs.read(path)
    family = identify_family(configs)
    if family is FLUX_1:
        opened = _open_flux(configs)
    elif family is FLUX_2_KLEIN:
        opened = _open_klein(configs)
    elif family is Z_IMAGE:
        opened = _open_z_image(configs)
    else:
        opened = _open_unet(configs, family)
    return replace(opened, prefer_half=prefer_half)


def _open_file(path: Path, base: Path | None, *, prefer_half: bool) -> ModelFolder:
    if path.suffix.lower() not in (_WEIGHTS, ".gguf"):
        raise single_file_error(path)
    found = open_checkpoint(path, base, prefer_half=prefer_half)
    is_flow = found.family.is_flow
    sampler = _FLOW_SCHEDULER if is_flow else scheduler_name(found.scheduler_config)
    vae = found.components.get("vae")
    levels = (128,) if vae is None or vae.values is None else vae.values["block_out_channels"]
    unet = found.components.get("unet")
    widths = None if unet is None or unet.values is None else unet.values["block_out_channels"]
    is_undistilled = (
        found.is_dev
        or found.is_base
        or (found.family is Z_IMAGE and _is_z_image_base(found.scheduler_config))
    )
    own = _UNDISTILLED[found.family] if is_undistilled else _LCM if found.is_consistency else {}
    return ModelFolder(
        path,
        found.family,
        found.variant,
        found.family.pipeline_classes[0],
        defaults_of({}, found.variant, native_side=found.native_side, scheduler=sampler, distilled=own),
        scheduler_config=found.scheduler_config,
        size_multiple=8 * _PATCH if is_flow else 8,
        native_side=found.native_side,
        is_consistency=found.is_consistency,
        is_turbo=found.family in (FLUX_2_KLEIN, Z_IMAGE) and not is_undistilled,
        unet_channels=0 if widths is None else widths[0],
        task=found.task,
        decoder_channels=levels[0],
        prefer_half=prefer_half,
        checkpoint=found,
        zeros_empty_negative=found.zeros_empty_negative,
    )


def _open_unet(configs: FolderConfigs, family: Family) -> ModelFolder:
    folder, unet, scheduler = configs.folder, configs.unet, configs.scheduler
    levels = configs.decoder_channels
    scale = 2 ** (len(levels) - 1)
    own = scheduler_name(scheduler)
    is_consistency = unet.get("time_cond_proj_dim") is not None or own == "lcm"
    # SDXL Turbo is published with the ancestral sampler; plain Euler with trailing steps is any tuned SDXL.
    is_turbo = is_distilled_turbo(scheduler) and (family is STABLE_DIFFUSION or own == "euler-a")
    variant = _unet_variant(unet, family, is_turbo=is_turbo)
    sample_size = unet.get("sample_size")
    native_side = sample_size * scale if type(sample_size) is int and 0 < sample_size <= 2**12 else None
    distilled = _LCM if is_consistency else _TURBO if is_turbo else {}
    return ModelFolder(
        folder,
        family,
        variant,
        _pipeline_class(configs, family),
        defaults_of(configs.given, variant, native_side=native_side, scheduler=own, distilled=distilled),
        given=configs.given,
        scheduler_config=scheduler,
        zeros_empty_negative=bool(configs.index.get("force_zeros_for_empty_prompt", True)),
        size_multiple=scale,
        native_side=native_side,
        is_consistency=is_consistency,
        is_turbo=is_turbo,
        unet_channels=configs.unet_channels[0],
        task=unet_task(
            *(_channels(unet, name) for name in ("in_channels", "out_channels")), family=family, path=folder
        ),
        decoder_channels=levels[0],
    )


def _channels(unet: Mapping[str, Any], name: str) -> int:
    value = unet.get(name)
    return value if type(value) is int else _LATENT_CHANNELS


def _unet_variant(unet: Mapping[str, Any], family: Family, *, is_turbo: bool) -> DiffusionVariant:
    if family in SDXL_FAMILIES:
        return DiffusionVariant.SDXL_TURBO if is_turbo else DiffusionVariant.SDXL
    return DiffusionVariant.SD_21 if unet.get("cross_attention_dim") == 1024 else DiffusionVariant.SD_15


def _open_flux(configs: FolderConfigs) -> ModelFolder:
    folder, levels = configs.folder, configs.decoder_channels
    dev = _FLUX_DEV if is_flux_dev(configs) else {}
    return ModelFolder(
        folder,
        FLUX_1,
        DiffusionVariant.FLUX,
        _pipeline_class(configs, FLUX_1),
        defaults_of(configs.given, DiffusionVariant.FLUX, scheduler=_FLOW_SCHEDULER, distilled=dev),
        given=configs.given,
        scheduler_config=configs.scheduler,
        size_multiple=_PATCH * 2 ** (len(levels) - 1),
        decoder_channels=levels[0],
    )


def _open_klein(configs: FolderConfigs) -> ModelFolder:
    levels = configs.decoder_channels
    given = configs.given
    # In layouts without an index only the name tells the base models from the distilled ones.
    is_distilled = (
        bool(configs.index.get("is_distilled")) if configs.index else not is_named_base(configs.folder)
    )
    is_distilled = is_distilled and not given.get("guidance_scale")
    return ModelFolder(
        configs.folder,
        FLUX_2_KLEIN,
        DiffusionVariant.FLUX_2_KLEIN,
        _pipeline_class(configs, FLUX_2_KLEIN),
        defaults_of(
            given,
            DiffusionVariant.FLUX_2_KLEIN,
            scheduler=_FLOW_SCHEDULER,
            distilled={} if is_distilled else _KLEIN_BASE,
        ),
        given=given,
        scheduler_config=configs.scheduler,
        size_multiple=_PATCH * 2 ** (len(levels) - 1),
        is_turbo=is_distilled,
        decoder_channels=levels[0],
    )


def _open_z_image(configs: FolderConfigs) -> ModelFolder:
    levels, is_base = configs.decoder_channels, _is_z_image_base(configs.scheduler)
    return ModelFolder(
        configs.folder,
        Z_IMAGE,
        DiffusionVariant.Z_IMAGE,
        _pipeline_class(configs, Z_IMAGE),
        defaults_of(
            configs.given,
            DiffusionVariant.Z_IMAGE,
            scheduler=_FLOW_SCHEDULER,
            distilled=_Z_IMAGE_BASE if is_base else {},
        ),
        given=configs.given,
        scheduler_config=configs.scheduler,
        size_multiple=_PATCH * 2 ** (len(levels) - 1),
        is_turbo=not is_base,
        decoder_channels=levels[0],
    )


def _is_z_image_base(scheduler: Mapping[str, Any]) -> bool:
    """Z-Image and Z-Image-Turbo have the same networks; the distilled one is published with a shift of 3."""
    shift = scheduler.get("shift")
    return isinstance(shift, (int, float)) and shift >= _Z_IMAGE_BASE_SHIFT


def _pipeline_class(configs: FolderConfigs, family: Family) -> str:
    fits = configs.pipeline_class in family.pipeline_classes
    return configs.pipeline_class if fits else family.pipeline_classes[0]
