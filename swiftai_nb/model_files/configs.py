"""The configuration files of a model folder, with the values that decide its family and sizes checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.json_file import read_json_object

_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2")
_MAX_LEVELS = 8
_MAX_CHANNELS = 2**16
_MAX_LAYERS = 1024
_MAX_TIMESTEPS = 100_000
_LAYER_COUNTS = re.compile(r"(^|_)(layers|blocks)(_|$)")
_COUNTS = frozenset({"width", "height", "steps", "display_scale"})


@dataclass(frozen=True)
class FolderConfigs:
    """What the JSON files of a model folder hold; empty where one is missing.

    Attributes:
        folder: the model.
        index: of `model_index.json`.
        unet, transformer, vae: of the `config.json` of these subfolders.
        scheduler: of `scheduler/scheduler_config.json`.
        given: the values of `generation_defaults.json` that are not null.
    """

    folder: Path
    index: Mapping[str, Any]
    unet: Mapping[str, Any]
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    given: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> FolderConfigs:
        """Reads them all.

        Raises:
            InvalidModelFilesError: one is not a JSON object, or has a value that makes no sense. Numbers of
                layers and timesteps are bounded: networks are built before their tensors are compared.
        """
        networks = {name: _read_network_config(folder / name / "config.json") for name in _NETWORKS}
        return cls(
            folder,
            index=read_json_object(folder / "model_index.json"),
            unet=networks["unet"],
            transformer=networks["transformer"],
            vae=networks["vae"],
            scheduler=_read_scheduler_config(folder / "scheduler" / "scheduler_config.json"),
            given=read_generation_defaults(folder),
        )

    @property
    def pipeline_class(self) -> str:
        """Diffusers' class name in `model_index.json`; "" without one."""
        return str(self.index.get("_class_name") or "")

    @property
    def denoiser_class(self) -> str:
        """Diffusers' class name of the transformer; "" without one."""
        return str(self.transformer.get("_class_name") or "")

    @property
    def unet_channels(self) -> tuple[int, ...]:
        """Of the UNet's levels."""
        return _channels(self.unet, (320,), self.folder / "unet" / "config.json")

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the autoencoder's levels; each but the last halves the size."""
        return _channels(self.vae, (128, 256, 512, 512), self.folder / "vae" / "config.json")


def _read_network_config(path: Path) -> dict[str, Any]:
    config = read_json_object(path)
    for name, value in config.items():
        if _LAYER_COUNTS.search(name) and any(_is_above(n, _MAX_LAYERS) for n in _flat(value)):
            raise _wrong_value(path, name, value)
    return config


def _read_scheduler_config(path: Path) -> dict[str, Any]:
    config = read_json_object(path)
    for name in ("num_train_timesteps", "original_inference_steps", "steps_offset"):
        if _is_above(config.get(name), _MAX_TIMESTEPS):
            raise _wrong_value(path, name, config[name])
    return config


def _flat(value: object) -> Iterator[object]:
    """The items of a list of lists, or the value itself."""
    if isinstance(value, list):
        for item in value:
            yield from item if isinstance(item, list) else (item,)
    else:
        yield value


def _is_above(value: object, limit: int) -> bool:
    return isinstance(value, (int, float)) and not value <= limit


def _wrong_value(path: Path, name: str, value: object) -> InvalidModelFilesError:
    return InvalidModelFilesError(f"{path}: {name} cannot be {value!r:.80}", hint="download the model again")


def read_generation_defaults(folder: Path) -> Mapping[str, Any]:
    """The values of a folder's `generation_defaults.json` that are not null; empty without such a file.

    Raises:
        InvalidModelFilesError: not a JSON object, or a value of the wrong type or out of range.
    """
    path = folder / "generation_defaults.json"
    given = {name: value for name, value in read_json_object(path).items() if value is not None}
    for name, value in given.items():
        if not _is_default(name, value):
            raise InvalidModelFilesError(
                f"{path}: {name} cannot be {value!r:.80}", hint="correct it, or remove it from the file"
            )
    return given


def _is_default(name: str, value: object) -> bool:
    if name in _COUNTS:
        return type(value) is int and 0 < value <= 2**16
    if name == "guidance_scale":
        return isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
    return name != "scheduler" or isinstance(value, str)


def _channels(config: Mapping[str, Any], default: tuple[int, ...], path: Path) -> tuple[int, ...]:
    value = config.get("block_out_channels") or default
    is_list = isinstance(value, (list, tuple)) and len(value) <= _MAX_LEVELS
    if not is_list or not all(type(n) is int and 0 < n <= _MAX_CHANNELS for n in value):
        raise _wrong_value(path, "block_out_channels", value)
    return tuple(value)
