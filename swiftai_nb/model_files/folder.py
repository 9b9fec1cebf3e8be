"""What is in a model folder: family, networks and their files, configuration, defaults. Reads no weights.

The kernel plans from it and the engine's pipelines load from it, so that both decide alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.model_files.checkpoint import Checkpoint, open_checkpoint
from swiftai_nb.model_files.components import (
    PARTS,
    ComponentFiles,
    find_part,
    find_tokenizer,
    find_unet_component,
    layouts_hint,
)
from swiftai_nb.model_files.configs import FolderConfigs
from swiftai_nb.model_files.families import (
    FLUX_1,
    FLUX_2_KLEIN,
    MODEL_FILE_SUFFIXES,
    STABLE_DIFFUSION,
    STABLE_DIFFUSION_XL,
    Z_IMAGE,
    Family,
    editing_families,
    single_file_error,
)
from swiftai_nb.model_files.identify import identify_family, is_flux_dev
from swiftai_nb.model_files.safetensors_headers import StoredTensor
from swiftai_nb.model_files.samplers import (
    SAMPLERS,
    SamplerKind,
    find_sampler,
    fitting_samplers,
    is_distilled_turbo,
    scheduler_name,
)
from swiftai_nb.model_files.variants import DiffusionVariant, GenerationDefaults, defaults_of

_WEIGHTS = ".safetensors"
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PATCH = 2  # a token of FLUX.1 and Z-Image is 2x2 latents
_FLOW_SCHEDULER = "flow-match-euler"
_LCM = {"steps": 4, "guidance_scale": 8.5}
_TURBO = {"steps": 4, "guidance_scale": 0.0}
_FLUX_DEV = {"steps": 28, "guidance_scale": 3.5}
_KLEIN_BASE = {"steps": 50, "guidance_scale": 4.0}
_Z_IMAGE_BASE = {"steps": 28, "guidance_scale": 4.0}
_Z_IMAGE_BASE_SHIFT = 6.0


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, as its own files describe it.

    The weight files are looked for when `components` is first read.

    Attributes:
        folder: where it is.
        family: its networks and pipeline.
        variant: the family as users name it.
        pipeline_class: diffusers' name of the pipeline that runs it.
        defaults: with the values of `generation_defaults.json`, if the folder has one.
        given: those values of `generation_defaults.json` that are not null.
        scheduler_config: of `scheduler/scheduler_config.json`; empty without one.
        size_multiple: width and height must be multiples of it.
        native_side: pixels the network was trained at, None when its configuration does not give it.
        is_consistency: distilled for few steps (LCM).
        is_turbo: distilled for few steps without guidance.
        unet_channels: of its first level; 0 for FLUX.
        decoder_channels: of the autoencoder's first level.
        prefer_half: whether 16-bit files are taken where there is a choice.
        checkpoint: what is in the file and its base where the model is one file; `folder` is then the file.
        zeros_empty_negative: whether no negative prompt means zeros (SDXL).
    """

    folder: Path
    family: Family
    variant: DiffusionVariant
    pipeline_class: str
    defaults: GenerationDefaults
    given: Mapping[str, Any] = field(default_factory=dict, hash=False)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    size_multiple: int = 8
    native_side: int | None = None
    is_consistency: bool = False
    is_turbo: bool = False
    unet_channels: int = 0
    decoder_channels: int = 128
    prefer_half: bool = False
    checkpoint: Checkpoint | None = None
    zeros_empty_negative: bool = True

    @property
    def is_flow(self) -> bool:
        """Whether it was trained by flow matching (FLUX.1, Z-Image)."""
        return self.family.is_flow

    def check_references(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuses reference pictures that the model does not take; sizes are (width, height) in pixels.

        Raises:
            InvalidInputError: it takes none (names those that do), too many, or one whose size does not fit.
        """
        if not sizes:
            return
        if self.family.references is None:
            raise InvalidInputError(
                f"{self.family.name} makes pictures from text and cannot change given ones by the prompt",
                hint=f"use {' or '.join(editing_families())}, or start from the picture with --image",
            )
        self.family.references.check(sizes)

    @cached_property
    def components(self) -> Mapping[str, ComponentFiles]:
        """The files of each network that is there, by name; what else lies in the folder is left out.

        Raises:
            InvalidModelFilesError: shards are missing, or the files of a network are ambiguous or corrupt.
        """
        if self.checkpoint is not None:
            return self.checkpoint.components
        found = {name: self._find(name) for name in self.family.components}
        return {name: files for name, files in found.items() if files is not None}

    def _find(self, name: str) -> ComponentFiles | None:
        if self.family.name in PARTS:
            return find_part(self.folder, self.family, name, prefer_half=self.prefer_half)
        return find_unet_component(self.folder, name, prefer_half=self.prefer_half)

    def loaded_tensors(self, name: str) -> dict[str, StoredTensor]:
        """The tensors of a network that a pipeline reads, by name; layers that are not used are left out."""
        tensors, last = self.components[name].tensors(), max(self.family.text_layers, default=None)
        if name != "text_encoder" or last is None:
            return tensors
        layers = ((key, _LAYER.search(key)) for key in tensors)
        return {key: tensors[key] for key, layer in layers if layer is None or int(layer[1]) < last}

    @property
    def weight_files(self) -> Mapping[str, tuple[Path, ...]]:
        """The safetensors files a pipeline reads, by component."""
        return {name: files.paths for name, files in self.components.items()}

    @property
    def tokenizers(self) -> Mapping[str, Path]:
        """The tokenizers' folders that are there, by name."""
        if self.checkpoint is not None:
            return self.checkpoint.tokenizers
        names = [name.replace("text_encoder", "tokenizer") for name in self.family.components]
        if self.family.name in PARTS:
            found = {
                name: find_tokenizer(self.folder, self.family, name) for name in names if "tokenizer" in name
            }
            return {name: path for name, path in found.items() if path is not None}
        return {name: self.folder / name for name in names if (self.folder / name).is_dir()}

    @property
    def missing(self) -> tuple[str, ...]:
        """The networks and tokenizers it needs and does not have."""
        tokenizers = (n.replace("text_encoder", "tokenizer") for n in self.family.components if "text" in n)
        there = {*self.components, *self.tokenizers}
        return tuple(name for name in (*self.family.components, *tokenizers) if name not in there)

    def check_complete(self) -> None:
        """Raises InvalidModelFilesError when parts are missing; names each and where it is looked for."""
        if self.missing:
            parts = PARTS[self.family.name]
            places = "; ".join(f"{name} (in {', '.join(parts[name].folders)})" for name in self.missing)
            raise InvalidModelFilesError(
                f"{self.folder} lacks parts of a {self.family.name} model: {places}",
                hint=layouts_hint(self.family),
            )

    @property
    def is_quantized(self) -> bool:
        """Whether the files hold quantized weights."""
        return any(name.endswith(".scales") for files in self.components.values() for name in files.tensors())

    def defaults_with(self, entry_settings: Mapping[str, float]) -> GenerationDefaults:
        """The defaults of a registered model: its entry's own settings over those read from the folder.

        The values of `generation_defaults.json` stay: its publisher chose them for these weights.

        Args:
            entry_settings: fields of `GenerationDefaults` that the entry has of its own.
        """
        values = {name: value for name, value in entry_settings.items() if name not in self.given}
        return replace(self.defaults, **values)  # type: ignore[arg-type]

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The samplers that fit it."""
        return fitting_samplers(kind=self._sampler_kind)

    @property
    def _sampler_kind(self) -> SamplerKind:
        if self.is_flow:
            return "flow"
        own = SAMPLERS.get(self.defaults.scheduler)
        return "noise" if own is None else own.kind

    def check_scheduler(self, name: str) -> str:
        """The short name of a sampler that fits.

        Raises:
            InvalidInputError: no such sampler, or none for this kind of model; lists those that fit.
        """
        listed = f"use one of {', '.join(self.schedulers)}"
        try:
            sampler = find_sampler(name)
        except InvalidInputError as error:
            raise InvalidInputError(error.message, hint=listed) from None
        if sampler.kind != self._sampler_kind:
            raise InvalidInputError(f"scheduler {name!r} does not fit this model", hint=listed)
        return sampler.name

    def check_size(self, width: int, height: int) -> None:
        """Raises InvalidInputError when a side is no multiple of `size_multiple`; names the nearest."""
        for name, side in (("width", width), ("height", height)):
            rest = side % self.size_multiple
            if rest:
                below, above = side - rest, side - rest + self.size_multiple
                near = f"{below} or {above}" if below > 0 else str(above)
                raise InvalidInputError(
                    f"{name} {side} is not a multiple of {self.size_multiple}, which this model needs",
                    hint=f"use {near}",
                )


def open_model(path: Path, *, base: Path | None = None, prefer_half: bool = False) -> ModelFolder:
    """Reads a model folder's configuration files; where there are none, the headers of its weights.

    Args:
        path: the model's folder, or its single file.
        base: for a single file, the folder of a model of its family, which has what the file lacks.
        prefer_half: as the pipeline will: take the 16-bit files where there is a choice.

    Raises:
        InvalidModelFilesError: no model folder, or a configuration file with values that make no sense.
        UnsupportedModelError: a family the local engine cannot run, or a file that is no model.
        InvalidInputError: the path is a LoRA.
    """
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
    distilled = _FLUX_DEV if found.is_dev else _LCM if found.is_consistency else {}
    return ModelFolder(
        path,
        found.family,
        found.variant,
        found.family.pipeline_classes[0],
        defaults_of({}, found.variant, native_side=found.native_side, scheduler=sampler, distilled=distilled),
        scheduler_config=found.scheduler_config,
        size_multiple=8 * _PATCH if is_flow else 8,
        native_side=found.native_side,
        is_consistency=found.is_consistency,
        unet_channels=0 if widths is None else widths[0],
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
        decoder_channels=levels[0],
    )


def _unet_variant(unet: Mapping[str, Any], family: Family, *, is_turbo: bool) -> DiffusionVariant:
    if family is STABLE_DIFFUSION_XL:
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
    # Layouts without an index do not tell the base models from the distilled ones.
    is_distilled = bool(configs.index.get("is_distilled", not configs.index)) and not given.get(
        "guidance_scale"
    )
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
    levels, shift = configs.decoder_channels, configs.scheduler.get("shift")
    # Z-Image and Z-Image-Turbo have the same networks; the distilled one is published with a shift of 3.
    is_base = isinstance(shift, (int, float)) and shift >= _Z_IMAGE_BASE_SHIFT
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


def _pipeline_class(configs: FolderConfigs, family: Family) -> str:
    fits = configs.pipeline_class in family.pipeline_classes
    return configs.pipeline_class if fits else family.pipeline_classes[0]
