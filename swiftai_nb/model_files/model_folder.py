"""A model folder, as its own files describe it: family, networks and their files, settings, what it takes.

The kernel plans from it and the engine's pipelines load from it, so that both decide alike. `open_model` of
`model_files.folder` makes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.model_files.checkpoint import Checkpoint
from swiftai_nb.model_files.components import (
    PARTS,
    ComponentFiles,
    find_part,
    find_tokenizer,
    find_unet_component,
    layouts_hint,
)
from swiftai_nb.model_files.families import (
    INSTRUCT_PIX2PIX,
    PIX2PIX_REFERENCES,
    TEXT_TO_IMAGE,
    Family,
    editing_families,
)
from swiftai_nb.model_files.references import ReferenceLimits
from swiftai_nb.model_files.safetensors_headers import StoredTensor
from swiftai_nb.model_files.samplers import SAMPLERS, SamplerKind, find_sampler, fitting_samplers
from swiftai_nb.model_files.variants import DiffusionVariant, GenerationDefaults

_LAYER = re.compile(r"(?:^|\.)(?:layers|blk)\.(\d+)\.")
_HEAD = re.compile(r"(lm_head|output)\.")  # of a language model, whose hidden states are read


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
        vae: the files of an autoencoder that is used instead of its own, or None.
        task: what its UNet is for: `families.TEXT_TO_IMAGE`, `INPAINTING` or `INSTRUCT_PIX2PIX`.
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
    task: str = TEXT_TO_IMAGE
    vae: ComponentFiles | None = field(default=None, hash=False)

    @property
    def is_flow(self) -> bool:
        """Whether it was trained by flow matching (FLUX.1, Z-Image)."""
        return self.family.is_flow

    @property
    def references(self) -> ReferenceLimits | None:
        """The pictures that it changes by the prompt; None if it does not."""
        return PIX2PIX_REFERENCES if self.task == INSTRUCT_PIX2PIX else self.family.references

    def check_image(self, *, is_given: bool) -> None:
        """Raises InvalidInputError when there is no picture to start from, and the model only refines one."""
        if self.family.refining_strength is not None and not is_given:
            raise InvalidInputError(
                f"the {self.family.name} only refines a given picture, and there is none",
                hint="give the picture with --image",
            )

    def check_references(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Refuses reference pictures that the model does not take; sizes are (width, height) in pixels.

        Raises:
            InvalidInputError: it takes none (names those that do), too many, one whose size does not fit, or
                none is given to a model that does nothing else.
        """
        if self.task == INSTRUCT_PIX2PIX and not sizes:
            raise InvalidInputError(
                "this model changes a given picture by the prompt, and there is none",
                hint="give the picture with --with",
            )
        if not sizes:
            return
        if self.references is None:
            raise InvalidInputError(
                f"{self.family.name} makes pictures from text and cannot change given ones by the prompt",
                hint=f"use {' or '.join(editing_families())}, or start from the picture with --image",
            )
        self.references.check(sizes)

    @cached_property
    def components(self) -> Mapping[str, ComponentFiles]:
        """The files of each network that is there, by name; what else lies in the folder is left out.

        Raises:
            InvalidModelFilesError: shards are missing, or the files of a network are ambiguous or corrupt.
        """
        replaced = {} if self.vae is None else {"vae": self.vae}
        if self.checkpoint is not None:
            return {**self.checkpoint.components, **replaced}
        found = {name: replaced.get(name) or self._find(name) for name in self.family.components}
        return {name: files for name, files in found.items() if files is not None}

    def _find(self, name: str) -> ComponentFiles | None:
        if self.family.name in PARTS:
            return find_part(self.folder, self.family, name, prefer_half=self.prefer_half)
        return find_unet_component(self.folder, name, prefer_half=self.prefer_half)

    def loaded_tensors(self, name: str) -> dict[str, StoredTensor]:
        """The tensors of a network that a pipeline reads, by name; layers that are not used are left out."""
        tensors, states = self.components[name].tensors(), self.family.text_layers
        if name != "text_encoder" or not states:
            return tensors
        matches = ((key, _LAYER.search(key)) for key in tensors if not _HEAD.match(key))
        layers = {key: -1 if match is None else int(match[1]) for key, match in matches}
        last = max(states) if max(states) >= 0 else max(layers.values(), default=0) + 2 + max(states)
        return {key: tensors[key] for key, layer in layers.items() if layer < last}

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
