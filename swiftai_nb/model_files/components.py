"""Where the networks of a model are in its folder, and in whose tensor names they are stored.

Models with a UNet have one subfolder for each network. FLUX.1 is published in several layouts, and one
folder may mix them: each part is looked for in its own subfolders, then in single files at the top, which
are told apart by their tensor names:

=============== ============================== =======================================================
part            subfolders                     single files at the top
=============== ============================== =======================================================
transformer     transformer                    BFL (`flux1-schnell.safetensors`) or Argmax
                                               (`flux-schnell-4bit-quantized.safetensors`)
text_encoder    text_encoder, clip_l           CLIP-L (`clip_l.safetensors`)
text_encoder_2  text_encoder_2, t5             T5 (`t5xxl_fp16.safetensors`)
vae             vae                            `ae.safetensors`
tokenizer       tokenizer, tokenizer_l, clip_l
tokenizer_2     tokenizer_2, t5
=============== ============================== =======================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.families import (
    FLUX_1,
    MODEL_FILE_SUFFIXES,
    family_of_tensors,
    refuse_unsupported,
    single_file_error,
)
from swiftai_nb.model_files.safetensors_headers import find_weight_files, read_header

FLUX_FOLDERS: dict[str, tuple[str, ...]] = {
    "transformer": ("transformer",),
    "text_encoder": ("text_encoder", "clip_l"),
    "text_encoder_2": ("text_encoder_2", "t5"),
    "vae": ("vae",),
    "tokenizer": ("tokenizer", "tokenizer_l", "clip_l"),
    "tokenizer_2": ("tokenizer_2", "t5"),
}
FLUX_HINT = "docs/models.md, 'FLUX.1 in other layouts', lists where each part is looked for"
_TOKENIZER_FILES = {
    "tokenizer": ("vocab.json", "tokenizer.json"),
    "tokenizer_2": ("tokenizer.json", "spiece.model"),
}
# (part, layout, a piece of a tensor name that only it has); the first that matches wins.
_FLUX_LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("transformer", "BFL", "double_blocks.0.img_attn.qkv."),
    ("transformer", "Argmax", "multimodal_transformer_blocks.0."),
    ("transformer", "mflux", "transformer_blocks.0.ff.linear1."),
    ("transformer", "diffusers", "transformer_blocks.0.ff.net."),
    ("text_encoder_2", "mflux", "t5_blocks.0."),
    ("text_encoder_2", "transformers", "encoder.block.0.layer.0."),
    ("text_encoder", "transformers or mflux", "encoder.layers.0.self_attn."),
    ("vae", "mflux", "decoder.conv_in.conv2d."),
    ("vae", "BFL", "decoder.mid.block_1."),
    ("vae", "diffusers", "decoder.mid_block."),
)


@dataclass(frozen=True)
class ComponentFiles:
    """The weight files of one network.

    Attributes:
        layout: whose tensor names they use: "diffusers", "transformers", "mflux", "BFL" or "Argmax".
        paths: safetensors files.
        config: the `config.json` beside them, or None.
    """

    layout: str
    paths: tuple[Path, ...]
    config: Path | None = None


def find_unet_component(folder: Path, name: str, *, prefer_half: bool = False) -> ComponentFiles | None:
    """The files of a network of a model with a UNet; None when its subfolder is missing.

    Args:
        folder: the model.
        name: "unet", "vae", "text_encoder" or "text_encoder_2".
        prefer_half: take `X.fp16.safetensors` where there is a choice.

    Raises:
        InvalidModelFilesError: the subfolder has no weights, or not all shards.
    """
    if not (folder / name).is_dir():
        return None
    paths = find_weight_files(folder / name, prefer_half=prefer_half)
    layout = "transformers" if name.startswith("text_encoder") else "diffusers"
    return ComponentFiles(layout, paths, _config_in(folder / name))


def find_flux_component(folder: Path, part: str, *, prefer_half: bool = False) -> ComponentFiles | None:
    """The files of one part of FLUX.1: of its own subfolder, else one file at the top; None without either.

    Args:
        folder: the model.
        part: "transformer", "text_encoder", "text_encoder_2" or "vae".
        prefer_half: take `X.fp16.safetensors` where there is a choice.

    Raises:
        InvalidModelFilesError: the subfolder holds another network, or the part is broken or ambiguous.
        UnsupportedModelError: the subfolder holds a transformer of another family, or only a GGUF file.
    """
    for candidate in (folder / name for name in FLUX_FOLDERS[part]):
        if candidate.is_dir() and any(candidate.glob("*.safetensors")):
            paths = find_weight_files(candidate, prefer_half=prefer_half)
            names = _tensor_names(paths)
            layout = _flux_layout(names, part)
            family = family_of_tensors(names) if part == "transformer" else None
            if family is not None:
                refuse_unsupported(family, candidate)
            if layout is None:
                raise InvalidModelFilesError(f"{candidate} does not hold a FLUX.1 {part}", hint=FLUX_HINT)
            return ComponentFiles(layout, paths, _config_in(candidate))
    found = _single_flux_file(folder, part)
    if found is None:
        _refuse_other_formats(folder, part)
    return found


def find_flux_tokenizer(folder: Path, name: str) -> Path | None:
    """The folder of FLUX.1's "tokenizer" (CLIP) or "tokenizer_2" (T5), or None."""
    candidates = (folder / subfolder for subfolder in FLUX_FOLDERS[name])
    return next((c for c in candidates if any((c / file).is_file() for file in _TOKENIZER_FILES[name])), None)


def _single_flux_file(folder: Path, part: str) -> ComponentFiles | None:
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        names = _tensor_names((path,))
        layout = _flux_layout(names, part)
        if layout is not None and (part != "transformer" or family_of_tensors(names) is FLUX_1):
            found.append(ComponentFiles(layout, (path,)))
    if len(found) > 1:
        listed = ", ".join(files.paths[0].name for files in found)
        raise InvalidModelFilesError(
            f"{folder} holds more than one {part}: {listed}", hint="keep one of them"
        )
    return found[0] if found else None


def _refuse_other_formats(folder: Path, part: str) -> None:
    """Raises the error of a GGUF or pickle file in the part's own folder: it is there, but cannot be read."""
    for candidate in (folder / name for name in FLUX_FOLDERS[part]):
        for path in sorted(candidate.glob("*")):
            if path.suffix.lower() in MODEL_FILE_SUFFIXES:
                raise single_file_error(path)


def _tensor_names(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(name for path in paths for name in read_header(path)[0])


def _flux_layout(names: Iterable[str], part: str) -> str | None:
    names = tuple(names)
    marks = ((layout, mark) for owner, layout, mark in _FLUX_LAYOUTS if owner == part)
    return next((layout for layout, mark in marks if any(mark in name for name in names)), None)


def _config_in(folder: Path) -> Path | None:
    config = folder / "config.json"
    return config if config.is_file() else None
