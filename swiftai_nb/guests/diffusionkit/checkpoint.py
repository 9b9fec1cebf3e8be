"""Detects which of DiffusionKit's models a folder holds and locates its files. Standard library only.

DiffusionKit knows six checkpoints by name and downloads their parts from three repositories. This package
passes it local files, from one folder that holds all or from the three snapshots of a Hub cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.model_files.json_file import read_json_object

T5_REPOSITORY = "google/t5-v1_1-xxl"
SIZE_MULTIPLE = 16
_CLIP_L = ("clip_l/config.json", "clip_l/model.fp16.safetensors")
_CLIP_G = ("clip_g/config.json", "clip_g/model.fp16.safetensors")
_TOKENIZER_L = ("tokenizer_l/vocab.json", "tokenizer_l/merges.txt")
_TOKENIZER_G = ("tokenizer_g/vocab.json", "tokenizer_g/merges.txt")
_T5 = "t5/t5xxl.safetensors"
_T5_TOKENIZERS = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True)
class Checkpoint:
    """A model known to DiffusionKit.

    Attributes:
        version: DiffusionKit's name of the model, a Hub repository.
        weights: file of the denoiser; Stable Diffusion 3 keeps the autoencoder in the same file.
        is_flux: a FLUX.1 model; else Stable Diffusion 3.
        shift: of the noise schedule, as published.
        dtype: 16-bit type its network computes in.
        is_quantized: whether its linear layers are quantized to 4 bits.
        max_side: pixels; the positional embeddings of Stable Diffusion 3 end there.
    """

    version: str
    weights: str
    is_flux: bool
    shift: float
    dtype: str
    is_quantized: bool = False
    max_side: int = 4096

    @property
    def name(self) -> str:
        """Without the owner: "mlx-stable-diffusion-3-medium"."""
        return self.version.partition("/")[2]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files it needs, as DiffusionKit names them, without the T5 tokenizer."""
        shared = (*_CLIP_L, *_TOKENIZER_L, _T5)
        own = ("ae.safetensors",) if self.is_flux else (*_CLIP_G, *_TOKENIZER_G)
        return (self.weights, *own, *shared)


_SD3_SIDE = 1536
CHECKPOINTS = (
    Checkpoint("argmaxinc/mlx-stable-diffusion-3-medium", "sd3_medium.safetensors", False, 3.0, "float16",
               max_side=_SD3_SIDE),
    Checkpoint("argmaxinc/mlx-stable-diffusion-3.5-large", "sd3.5_large.safetensors", False, 3.0, "float16",
               max_side=_SD3_SIDE),
    Checkpoint("argmaxinc/mlx-stable-diffusion-3.5-large-4bit-quantized",
               "sd3.5_large_4bit_quantized.safetensors", False, 3.0, "float16", is_quantized=True,
               max_side=_SD3_SIDE),
    Checkpoint("argmaxinc/mlx-FLUX.1-schnell", "flux-schnell.safetensors", True, 1.0, "bfloat16"),
    Checkpoint("argmaxinc/mlx-FLUX.1-schnell-4bit-quantized", "flux-schnell-4bit-quantized.safetensors", True,
               1.0, "bfloat16", is_quantized=True),
)  # fmt: skip
_LEFT_OUT = {"flux1-dev.safetensors": "DiffusionKit 0.5.2 runs FLUX.1-dev without its guidance"}


@dataclass(frozen=True)
class LocatedCheckpoint:
    """A checkpoint with all its files found.

    Attributes:
        checkpoint: which.
        files: DiffusionKit's name of a file -> where it is.
        t5_folder: configuration and tokenizer of T5.
        sizes: dimensions of networks that are not the published ones: {"mmdit": {...}, "vae": {...}},
            from `sizes` in the folder's config.json.
    """

    checkpoint: Checkpoint
    files: Mapping[str, Path]
    t5_folder: Path
    sizes: Mapping[str, Any] = field(default_factory=dict)


def find_checkpoint(folder: Path) -> Checkpoint:
    """Detects the checkpoint of a folder by its weight file.

    Raises:
        UnsupportedModelError: none that DiffusionKit runs correctly.
        InvalidModelFilesError: no such folder.
    """
    if not folder.is_dir():
        raise InvalidModelFilesError(f"{folder} is not a folder", hint="give the folder of the weights")
    for checkpoint in CHECKPOINTS:
        if (folder / checkpoint.weights).is_file():
            return checkpoint
    for name, reason in _LEFT_OUT.items():
        if (folder / name).is_file():
            raise UnsupportedModelError(reason, hint="--engine local runs FLUX.1 dev")
    raise UnsupportedModelError(
        f"{folder} has no weights known to DiffusionKit",
        hint=f"expected one of {', '.join(c.weights for c in CHECKPOINTS)}; or use --engine local",
    )


def locate(folder: Path, more_folders: Sequence[Path] = ()) -> LocatedCheckpoint:
    """Locates every file, in `folder` first.

    Raises:
        UnsupportedModelError: see `find_checkpoint`.
        InvalidModelFilesError: files are missing; names them.
    """
    checkpoint = find_checkpoint(folder)
    places = (folder, *more_folders)
    files = {path: found for path in checkpoint.paths if (found := _first(places, path)) is not None}
    missing = [path for path in checkpoint.paths if path not in files]
    t5_folder = next((p for place in places for p in (place / "t5", place) if _is_t5(p)), None)
    if t5_folder is None:
        missing.append("t5/config.json with t5/tokenizer.json or t5/spiece.model")
    if missing or t5_folder is None:
        raise InvalidModelFilesError(
            f"{folder.name} is missing {', '.join(missing)}",
            hint="add them to the model's folder; docs/diffusionkit.md shows the layout",
        )
    return LocatedCheckpoint(checkpoint, files, t5_folder, _sizes(folder))


def _first(places: Sequence[Path], path: str) -> Path | None:
    return next((place / path for place in places if (place / path).is_file()), None)


def _is_t5(folder: Path) -> bool:
    if not any((folder / name).is_file() for name in _T5_TOKENIZERS):
        return False
    return str(_read_json(folder / "config.json").get("model_type", "")).endswith("t5")


def _sizes(folder: Path) -> Mapping[str, Any]:
    sizes = _read_json(folder / "config.json").get("sizes", {})
    if not isinstance(sizes, dict) or not all(isinstance(v, dict) for v in sizes.values()):
        raise InvalidModelFilesError(
            f"{folder / 'config.json'}: sizes is not of the form {{mmdit: {{...}}, vae: {{...}}}}",
            hint="leave sizes out for published models",
        )
    return sizes


def _read_json(path: Path) -> dict[str, Any]:
    return read_json_object(path)
