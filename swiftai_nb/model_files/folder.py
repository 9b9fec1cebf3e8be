"""What the kernel must know of a model folder before any work, read without MLX."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, InvalidModelFilesError
from swiftai_nb.model_files.flux_files import PARTS, find_flux_files
from swiftai_nb.model_files.json_file import read_json_file
from swiftai_nb.model_files.safetensors_headers import find_weight_files, read_header
from swiftai_nb.model_files.samplers import (
    canonical_name,
    fitting_samplers,
    is_distilled_turbo,
    scheduler_name,
)

FLOW_SCHEDULER = "flow-match-euler"
_WHOLE_FILE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**18
_SAMPLES = 16
_WEIGHTS = ".safetensors"
_UNET_COMPONENTS = ("text_encoder", "text_encoder_2", "unet", "vae")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder in numbers.

    Attributes:
        folder: where it is.
        is_flow: a FLUX model; else one with a UNet.
        size_multiple: width and height must be multiples of it.
        native_side: pixels the network was trained at, when its configuration says so.
        is_consistency: distilled for few steps (LCM).
        is_turbo: distilled for few steps without guidance.
        given: values of the folder's own `generation_defaults.json`.
        scheduler: short name of the model's own sampler.
        weight_files: the safetensors files a pipeline reads, by component.
        unet_channels: of its first level; 0 for FLUX.
        decoder_channels: of the autoencoder's first level.
    """

    folder: Path
    is_flow: bool
    size_multiple: int
    native_side: int | None = None
    is_consistency: bool = False
    is_turbo: bool = False
    given: dict[str, Any] = field(default_factory=dict, hash=False)
    scheduler: str = ""
    weight_files: dict[str, tuple[Path, ...]] = field(default_factory=dict, hash=False)
    unet_channels: int = 0
    decoder_channels: int = 128

    @property
    def is_quantized(self) -> bool:
        """Whether the files hold weights of 4 or 8 bits already."""
        paths = (path for paths in self.weight_files.values() for path in paths)
        return any(name.endswith(".scales") for path in paths for name in read_header(path)[0])

    @property
    def schedulers(self) -> tuple[str, ...]:
        """The samplers that fit it."""
        return fitting_samplers(is_flow=self.is_flow)

    def check_scheduler(self, name: str) -> str:
        """The short name of a sampler that fits.

        Raises:
            InvalidInputError: no such sampler, or none for this kind of model; lists those that fit.
        """
        listed = f"use one of {', '.join(self.schedulers)}"
        try:
            short = canonical_name(name)
        except InvalidInputError as error:
            raise InvalidInputError(error.message, hint=listed) from None
        if short not in self.schedulers:
            raise InvalidInputError(f"scheduler {name!r} does not fit this model", hint=listed)
        return short

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


def open_model(folder: Path, *, prefer_half: bool = False) -> ModelFolder:
    """Reads a model folder's configuration files and the headers of its weights.

    Args:
        folder: the model.
        prefer_half: as the pipeline will: take the 16-bit files where there is a choice.

    Raises:
        InvalidModelFilesError: a configuration file is not a JSON object, or there is no model.
    """
    vae = _read_json(folder / "vae" / "config.json")
    unet = _read_json(folder / "unet" / "config.json")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json")
    given = _read_json(folder / "generation_defaults.json")
    levels = vae.get("block_out_channels") or (128, 256, 512, 512)
    scale = 2 ** (len(levels) - 1)
    weight_files = _weight_files(folder, is_flow=not unet, prefer_half=prefer_half)
    if not weight_files:
        raise InvalidModelFilesError(
            f"{folder} holds no safetensors weights", hint="give the folder that holds unet/ or transformer/"
        )
    if not unet:
        return ModelFolder(
            folder, True, 2 * scale, given=given, scheduler=FLOW_SCHEDULER, weight_files=weight_files
        )
    own = scheduler_name(scheduler)
    sample_size = unet.get("sample_size")
    return ModelFolder(
        folder,
        False,
        scale,
        native_side=sample_size * scale if isinstance(sample_size, int) else None,
        is_consistency=unet.get("time_cond_proj_dim") is not None or own == "lcm",
        is_turbo=is_distilled_turbo(scheduler),
        given={name: value for name, value in given.items() if value is not None},
        scheduler=own,
        weight_files=weight_files,
        unet_channels=int((unet.get("block_out_channels") or (320,))[0]),
        decoder_channels=int(levels[0]),
    )


def content_hash(folder: Path) -> str:
    """Tells apart models of different content: "sha256:" and 16 hex digits.

    Files to 64 MiB count whole; of larger ones their size, both ends (the tensors' names and shapes
    stand first) and 16 samples between.
    """
    files = sorted(p for p in (*folder.glob("*"), *folder.glob("*/*")) if p.is_file())
    stats = ((p, p.stat()) for p in files if p.suffix in (".json", ".txt", ".model", _WEIGHTS))
    return _content_hash(folder, tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stats))


@lru_cache(maxsize=16)
def _content_hash(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, size_bytes, _ in files:
        digest.update(f"{Path(name).relative_to(folder).as_posix()}:{size_bytes}\n".encode())
        with open(name, "rb") as file:  # noqa: PTH123 - the names are text for the cache's key
            for start, count in _pieces(size_bytes):
                file.seek(start)
                digest.update(file.read(count))
    return f"sha256:{digest.hexdigest()[:16]}"


def _pieces(size_bytes: int) -> Iterable[tuple[int, int]]:
    if size_bytes <= _WHOLE_FILE_BYTES:
        return [(0, size_bytes)]
    last = size_bytes - _SAMPLE_BYTES
    return [(last * index // _SAMPLES, _SAMPLE_BYTES) for index in range(_SAMPLES + 1)]


def _weight_files(folder: Path, *, is_flow: bool, prefer_half: bool) -> dict[str, tuple[Path, ...]]:
    """What the pipeline will read: other folders, other precisions and copies at the top do not count."""
    if is_flow:
        parts = {part: find_flux_files(folder, part, prefer_half=prefer_half) for part in PARTS}
        return {part: files.paths for part, files in parts.items() if files is not None}
    return {
        name: find_weight_files(folder / name, prefer_half=prefer_half)
        for name in _UNET_COMPONENTS
        if (folder / name).is_dir()
    }


def _read_json(path: Path) -> dict[str, Any]:
    data = read_json_file(path)
    if not isinstance(data, dict):
        raise InvalidModelFilesError(f"{path} is not a JSON object", hint="download the model again")
    return data
