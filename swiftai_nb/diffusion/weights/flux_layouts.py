"""Finds the parts of a FLUX.1 model in a folder of any layout, by what the files hold.

One folder holds everything. Each part is looked for first in its own subfolder, then in single files at
the top; contents decide which layout a file has, so layouts may be mixed:

=============== ============================== =======================================================
part            subfolders                     single files at the top, told by their key names
=============== ============================== =======================================================
transformer     transformer                    BFL (`flux1-schnell.safetensors`) or Argmax
                                               (`flux-schnell-4bit-quantized.safetensors`)
text_encoder    text_encoder, clip_l           CLIP-L (`clip_l.safetensors`)
text_encoder_2  text_encoder_2, t5             T5 (`t5xxl_fp16.safetensors`)
vae             vae                            `ae.safetensors`
tokenizer       tokenizer, tokenizer_l, clip_l
tokenizer_2     tokenizer_2, t5
=============== ============================== =======================================================

So for Argmax's file, or a BFL file alone, put (or link) `ae.safetensors` next to it, and the
`text_encoder`, `text_encoder_2`, `tokenizer` and `tokenizer_2` folders of any FLUX.1 or mflux copy.
A `config.json` in a subfolder is used; where there is none, shapes are read off the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.diffusion.weights import flux_convert
from swiftai_nb.diffusion.weights.component import read_config
from swiftai_nb.diffusion.weights.converted_component import open_tensors, read_headers
from swiftai_nb.diffusion.weights.flux_convert import Convert
from swiftai_nb.model_files.components import (
    FLUX_FOLDERS,
    FLUX_HINT,
    find_flux_component,
    find_flux_tokenizer,
)
from swiftai_nb.model_files.families import FLUX_1

# (part, layout) -> what turns its tensors into the module's.
_CONVERTERS: dict[tuple[str, str], Convert] = {
    ("transformer", "BFL"): flux_convert.convert_bfl_transformer,
    ("transformer", "Argmax"): flux_convert.convert_argmax_transformer,
    ("transformer", "mflux"): flux_convert.convert_mflux_transformer,
    ("transformer", "diffusers"): flux_convert.as_diffusers,
    ("text_encoder_2", "mflux"): flux_convert.convert_mflux_t5,
    ("text_encoder_2", "transformers"): flux_convert.convert_hf_t5,
    ("text_encoder", "transformers or mflux"): flux_convert.convert_clip,
    ("vae", "mflux"): flux_convert.convert_mflux_vae,
    ("vae", "BFL"): flux_convert.convert_ldm_vae,
    ("vae", "diffusers"): flux_convert.convert_diffusers_vae,
}


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
    parts = {name: _find_part(folder, name, prefer_half=prefer_half) for name in FLUX_1.components}
    found = {name: part for name, part in parts.items() if part is not None}
    tokenizers = {
        "tokenizer": find_flux_tokenizer(folder, "tokenizer"),
        "tokenizer_2": find_flux_tokenizer(folder, "tokenizer_2"),
    }
    missing = [name for name in FLUX_1.components if name not in found]
    missing += [name for name, path in tokenizers.items() if path is None]
    if missing:
        places = "; ".join(f"{name} (in {', '.join(FLUX_FOLDERS[name])})" for name in missing)
        raise InvalidModelFilesError(f"{folder} lacks parts of a FLUX.1 model: {places}", hint=FLUX_HINT)
    scheduler = folder / "scheduler" / "scheduler_config.json"
    return FluxFolder(
        parts=found,
        tokenizer=tokenizers["tokenizer"] or folder,
        tokenizer_2=tokenizers["tokenizer_2"] or folder,
        scheduler_config=read_config(scheduler) if scheduler.is_file() else None,
    )


def _find_part(folder: Path, name: str, *, prefer_half: bool) -> FluxPart | None:
    files = find_flux_component(folder, name, prefer_half=prefer_half)
    if files is None:
        return None
    read_headers(files.paths)  # refuses float8 and repeated tensors before anything is built
    convert = _CONVERTERS[name, files.layout]
    config = None if files.config is None else read_config(files.config)
    return FluxPart(name, files.layout, files.paths, convert, config)
