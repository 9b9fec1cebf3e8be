"""Where the parts of a FLUX.1 model are in a folder of any layout, told from the files' headers; no MLX.

`flux_layouts` has the table of places, and reads what is found here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.safetensors_headers import find_weight_files, read_header

PARTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
FOLDERS: dict[str, tuple[str, ...]] = {
    "transformer": ("transformer",),
    "text_encoder": ("text_encoder", "clip_l"),
    "text_encoder_2": ("text_encoder_2", "t5"),
    "vae": ("vae",),
    "tokenizer": ("tokenizer", "tokenizer_l", "clip_l"),
    "tokenizer_2": ("tokenizer_2", "t5"),
}
HINT = "see swiftai_nb.diffusion.weights.flux_layouts for where each part is looked for"
# (part, layout, a piece of a key name that only it has); the first that matches wins.
_MARKS: tuple[tuple[str, str, str], ...] = (
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
class FluxFiles:
    """The weight files of one part.

    Attributes:
        layout: whose names they use.
        paths: safetensors files.
        config: the `config.json` beside them, or None.
    """

    layout: str
    paths: tuple[Path, ...]
    config: Path | None = None


def find_flux_files(folder: Path, part: str, *, prefer_half: bool = False) -> FluxFiles | None:
    """The files of one part: of its own subfolder, else a single file at the top; None without either.

    Args:
        folder: the model.
        part: one of `PARTS`.
        prefer_half: take `X.fp16.safetensors` where there is a choice.

    Raises:
        InvalidModelFilesError: the subfolder holds another network, or the part is broken or ambiguous.
    """
    for candidate in (folder / name for name in FOLDERS[part]):
        if candidate.is_dir() and any(candidate.glob("*.safetensors")):
            paths = _files_in(candidate, prefer_half=prefer_half)
            layout, config = _layout(paths, part), candidate / "config.json"
            if layout is None:
                raise InvalidModelFilesError(f"{candidate} does not hold a FLUX.1 {part}", hint=HINT)
            return FluxFiles(layout, paths, config if config.is_file() else None)
    return _single_file(folder, part)


def _single_file(folder: Path, part: str) -> FluxFiles | None:
    found = [
        FluxFiles(layout, (path,))
        for path in sorted(folder.glob("*.safetensors"))
        if (layout := _layout((path,), part)) is not None
    ]
    if len(found) > 1:
        names = ", ".join(files.paths[0].name for files in found)
        raise InvalidModelFilesError(f"{folder} holds more than one {part}: {names}", hint="keep one of them")
    return found[0] if found else None


def _files_in(folder: Path, *, prefer_half: bool) -> tuple[Path, ...]:
    """As diffusers names them, or numbered from 0 as mflux does (older versions write no index)."""
    numbered = [p for p in folder.glob("*.safetensors") if p.stem.isdecimal()]
    numbered.sort(key=lambda p: int(p.stem))
    if not numbered or any(folder.glob("*.index.json")):
        return find_weight_files(folder, prefer_half=prefer_half)
    gaps = sorted(set(range(int(numbered[-1].stem) + 1)) - {int(p.stem) for p in numbered})
    if gaps:
        raise InvalidModelFilesError(f"{folder} lacks {gaps[0]}.safetensors", hint="download the model again")
    return tuple(numbered)


def _layout(paths: Iterable[Path], part: str) -> str | None:
    names = [name for path in paths for name in read_header(path)[0]]
    return next(
        (layout for owner, layout, mark in _MARKS if owner == part and any(mark in name for name in names)),
        None,
    )
