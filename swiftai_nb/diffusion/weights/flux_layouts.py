"""Finds the parts of a FLUX.1 model in a folder of any layout, by what the files hold.

One folder holds everything. Each part is looked for first in its own subfolder, then in single files at
the top; contents decide which layout a file has, so layouts may be mixed:

=============== ============================== =======================================================
part            subfolders                     single files at the top, told by their key names
=============== ============================== =======================================================
transformer     transformer                    BFL (`flux1-schnell.safetensors`) or DiffusionKit
                                               (`flux-schnell-4bit-quantized.safetensors`)
text_encoder    text_encoder, clip_l           CLIP-L (`clip_l.safetensors`)
text_encoder_2  text_encoder_2, t5             T5 (`t5xxl_fp16.safetensors`)
vae             vae                            `ae.safetensors`
tokenizer       tokenizer, tokenizer_l, clip_l
tokenizer_2     tokenizer_2, t5
=============== ============================== =======================================================

So for DiffusionKit's file, or a BFL file alone, put (or link) `ae.safetensors` next to it, and the
`text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` folders of any FLUX.1 or mflux copy.
A `config.json` in a subfolder is used; where there is none, shapes are read off the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights import flux_convert
from swiftai_nb.diffusion.weights.component import read_config
from swiftai_nb.diffusion.weights.converted_component import open_tensors, read_headers
from swiftai_nb.diffusion.weights.flux_convert import Convert
from swiftai_nb.diffusion.weights.safetensors_files import find_weight_files

PARTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
_FOLDERS: dict[str, tuple[str, ...]] = {
    "transformer": ("transformer",),
    "text_encoder": ("text_encoder", "clip_l"),
    "text_encoder_2": ("text_encoder_2", "t5"),
    "vae": ("vae",),
    "tokenizer": ("tokenizer", "tokenizer_l", "clip_l"),
    "tokenizer_2": ("tokenizer_2", "t5"),
}
# (part, layout, a piece of a key name that only it has, converter); the first that matches wins.
_MARKS: tuple[tuple[str, str, str, Convert], ...] = (
    ("transformer", "BFL", "double_blocks.0.img_attn.qkv.", flux_convert.convert_bfl_transformer),
    ("transformer", "DiffusionKit", "multimodal_transformer_blocks.0.",
     flux_convert.convert_diffusionkit_transformer),
    ("transformer", "mflux", "transformer_blocks.0.ff.linear1.", flux_convert.convert_mflux_transformer),
    ("transformer", "diffusers", "transformer_blocks.0.ff.net.", flux_convert.as_diffusers),
    ("text_encoder_2", "mflux", "t5_blocks.0.", flux_convert.convert_mflux_t5),
    ("text_encoder_2", "transformers", "encoder.block.0.layer.0.", flux_convert.convert_hf_t5),
    ("text_encoder", "transformers or mflux", "encoder.layers.0.self_attn.", flux_convert.convert_clip),
    ("vae", "mflux", "decoder.conv_in.conv2d.", flux_convert.convert_mflux_vae),
    ("vae", "BFL", "decoder.mid.block_1.", flux_convert.convert_ldm_vae),
    ("vae", "diffusers", "decoder.mid_block.", flux_convert.convert_diffusers_vae),
)  # fmt: skip
_HINT = "see swiftai_nb.diffusion.weights.flux_layouts for where each part is looked for"


@dataclass(frozen=True)
class FluxPart:
    """The files of one network and how to read them.

    Attributes:
        name: "transformer", "text_encoder", "text_encoder_2" or "vae".
        layout: whose names the files use.
        paths: safetensors files.
        convert: foreign tensors -> the module's.
        config: its `config.json`, or None where the layout has none.
    """

    name: str
    layout: str
    paths: tuple[Path, ...]
    convert: Convert
    config: dict[str, Any] | None

    def config_or(self, infer: Callable[[flux_convert.Tensors], dict[str, Any]]) -> dict[str, Any]:
        """The config from the file, or inferred from the tensors' shapes."""
        return infer(open_tensors(self.paths, self.convert)) if self.config is None else self.config


@dataclass(frozen=True)
class FluxFolder:
    """Where everything of a FLUX.1 model is.

    Attributes:
        parts: by name, all four.
        tokenizer: CLIP's tokenizer folder.
        tokenizer_2: T5's.
        scheduler_config: None where the layout has none.
    """

    parts: dict[str, FluxPart]
    tokenizer: Path
    tokenizer_2: Path
    scheduler_config: dict[str, Any] | None


def is_flux_folder(folder: Path) -> bool:
    """Whether the folder, without `model_index.json`, holds a FLUX.1 transformer in a known layout.

    Raises:
        InvalidModelFilesError: it holds a transformer that is broken or of another family.
        UnsupportedModelError: one in float8.
    """
    return _find_part(folder, "transformer", prefer_half=False) is not None


def find_flux_folder(folder: Path, *, prefer_half: bool = False) -> FluxFolder:
    """Finds all parts.

    Args:
        folder: see the module's text.
        prefer_half: take `X.fp16.safetensors` where there is a choice.

    Raises:
        InvalidModelFilesError: a part is missing (names it and where it was looked for), ambiguous or broken.
    """
    parts = {name: _find_part(folder, name, prefer_half=prefer_half) for name in PARTS}
    found = {name: part for name, part in parts.items() if part is not None}
    tokenizers = {
        "tokenizer": _first_folder(folder, "tokenizer", ("vocab.json", "tokenizer.json")),
        "tokenizer_2": _first_folder(folder, "tokenizer_2", ("tokenizer.json", "spiece.model")),
    }
    missing = [name for name in PARTS if name not in found]
    missing += [name for name, path in tokenizers.items() if path is None]
    if missing:
        places = "; ".join(f"{name} (in {', '.join(_FOLDERS[name])})" for name in missing)
        raise InvalidModelFilesError(f"{folder} lacks parts of a FLUX.1 model: {places}", hint=_HINT)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return FluxFolder(
        parts=found,
        tokenizer=tokenizers["tokenizer"] or folder,
        tokenizer_2=tokenizers["tokenizer_2"] or folder,
        scheduler_config=read_config(scheduler) if scheduler.is_file() else None,
    )


def _first_folder(folder: Path, part: str, files: Sequence[str]) -> Path | None:
    candidates = (folder / name for name in _FOLDERS[part])
    return next((c for c in candidates if any((c / file).is_file() for file in files)), None)


def _find_part(folder: Path, name: str, *, prefer_half: bool) -> FluxPart | None:
    for candidate in (folder / n for n in _FOLDERS[name]):
        if candidate.is_dir() and any(candidate.glob("*.safetensors")):
            paths = _part_files(candidate, prefer_half=prefer_half)
            config = candidate / "config.json"
            mark = _recognise(paths, name)
            if mark is None:
                raise InvalidModelFilesError(f"{candidate} does not hold a FLUX.1 {name}", hint=_HINT)
            return FluxPart(name, mark[0], paths, mark[1], read_config(config) if config.is_file() else None)
    return _single_file(folder, name)


def _single_file(folder: Path, name: str) -> FluxPart | None:
    found = [
        FluxPart(name, mark[0], (path,), mark[1], None)
        for path in sorted(folder.glob("*.safetensors"))
        if (mark := _recognise((path,), name)) is not None
    ]
    if len(found) > 1:
        names = ", ".join(part.paths[0].name for part in found)
        raise InvalidModelFilesError(f"{folder} holds more than one {name}: {names}", hint="keep one of them")
    return found[0] if found else None


def _part_files(folder: Path, *, prefer_half: bool) -> tuple[Path, ...]:
    """As diffusers names them, or numbered from 0 as mflux does (older versions write no index)."""
    numbered = [p for p in folder.glob("*.safetensors") if p.stem.isdecimal()]
    numbered.sort(key=lambda p: int(p.stem))
    if not numbered or any(folder.glob("*.index.json")):
        return find_weight_files(folder, prefer_half=prefer_half)
    gaps = sorted(set(range(int(numbered[-1].stem) + 1)) - {int(p.stem) for p in numbered})
    if gaps:
        raise InvalidModelFilesError(f"{folder} lacks {gaps[0]}.safetensors", hint="download the model again")
    return tuple(numbered)


def _recognise(paths: Iterable[Path], part: str) -> tuple[str, Convert] | None:
    names = read_headers(paths).tensors
    for owner, layout, mark, convert in _MARKS:
        if owner == part and any(mark in name for name in names):
            return layout, convert
    return None
