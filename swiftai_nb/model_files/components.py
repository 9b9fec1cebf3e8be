"""Where the networks of a model are in its folder, and in whose tensor names they are stored.

Models with a UNet have one subfolder for each network. FLUX.1, FLUX.2 klein and Z-Image are published in
several layouts, and one folder may mix them: each part is looked for in its own subfolders, then in single
files at the top, which are told apart by their tensor names. Wherever a safetensors file is read, a GGUF file
is too, with text encoders in llama.cpp's names. FLUX.1:

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

FLUX.2 klein:

=============== ============================== =======================================================
part            subfolders                     single files at the top
=============== ============================== =======================================================
transformer     transformer                    BFL (`flux-2-klein-4b.safetensors`)
text_encoder    text_encoder                   Qwen3 (`qwen_3_4b.safetensors`)
vae             vae                            `flux2-vae.safetensors`
tokenizer       tokenizer
=============== ============================== =======================================================

Z-Image; one ComfyUI file may hold several parts:

=============== ============================== =======================================================
part            subfolders                     single files at the top
=============== ============================== =======================================================
transformer     transformer                    ComfyUI (`z_image_turbo_bf16.safetensors`)
text_encoder    text_encoder                   Qwen3 (`qwen_3_4b.safetensors`)
vae             vae                            `ae.safetensors`
tokenizer       tokenizer
=============== ============================== =======================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidModelFilesError
from swiftai_nb.model_files.families import FLUX_1, FLUX_2_KLEIN, Z_IMAGE, Family, family_of_tensors
from swiftai_nb.model_files.refusals import PICKLE_SUFFIXES, refuse_unsupported, single_file_error
from swiftai_nb.model_files.safetensors_headers import (
    StoredTensor,
    find_weight_files,
    read_header,
)


@dataclass(frozen=True)
class Part:
    """Where one part of a model in several layouts is.

    Attributes:
        folders: subfolders it may be in.
        layouts: whose tensor names, and a piece of a name that only they have; the first that matches wins.
        files: of a tokenizer; one of them is enough.
        may_have_prefix: whether names may stand behind those of a larger model, as in `model.layers.0.`.
    """

    folders: tuple[str, ...]
    layouts: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    may_have_prefix: bool = False


# The layouts of text encoders in GGUF, by llama.cpp's names.
_LLAMA_T5 = ("llama.cpp", "enc.blk.0.attn_q.")
_QWEN3_LAYOUTS = (
    ("transformers or mflux", "layers.0.self_attn.q_norm."),
    ("llama.cpp", "blk.0.attn_q_norm."),
)
_VAE_LAYOUTS = (
    ("mflux", "decoder.conv_in.conv"),
    ("BFL", "decoder.mid.block_1."),
    ("diffusers", "decoder.mid_block."),
)
# Families whose parts come in several layouts -> their parts, and the page that lists them.
PARTS: Mapping[str, Mapping[str, Part]] = {
    FLUX_1.name: {
        "transformer": Part(
            ("transformer",),
            (
                ("BFL", "double_blocks.0.img_attn.qkv."),
                ("Argmax", "multimodal_transformer_blocks.0."),
                ("mflux", "transformer_blocks.0.ff.linear1."),
                ("diffusers", "transformer_blocks.0.ff.net."),
            ),
        ),
        "text_encoder": Part(
            ("text_encoder", "clip_l"), (("transformers or mflux", "encoder.layers.0.self_attn."),)
        ),
        "text_encoder_2": Part(
            ("text_encoder_2", "t5"),
            (("mflux", "t5_blocks.0."), ("transformers", "encoder.block.0.layer.0."), _LLAMA_T5),
        ),
        "vae": Part(("vae",), _VAE_LAYOUTS),
        "tokenizer": Part(("tokenizer", "tokenizer_l", "clip_l"), files=("vocab.json", "tokenizer.json")),
        "tokenizer_2": Part(("tokenizer_2", "t5"), files=("tokenizer.json", "spiece.model")),
    },
    FLUX_2_KLEIN.name: {
        "transformer": Part(
            ("transformer",),
            (
                ("mflux", "time_guidance_embed.linear_1."),
                ("diffusers", "time_guidance_embed.timestep_embedder."),
                ("BFL", "double_stream_modulation_img.lin."),
            ),
            may_have_prefix=True,
        ),
        "text_encoder": Part(
            ("text_encoder",),
            _QWEN3_LAYOUTS,
            may_have_prefix=True,
        ),
        "vae": Part(
            ("vae",),
            (
                ("mflux", "decoder.mid_block.attentions.0.to_out.weight"),
                ("BFL", "decoder.mid.block_1."),
                ("diffusers", "decoder.mid_block."),
            ),
            may_have_prefix=True,
        ),
        "tokenizer": Part(("tokenizer",), files=("tokenizer.json", "vocab.json")),
    },
    Z_IMAGE.name: {
        "transformer": Part(
            ("transformer",),
            (
                ("mflux", "t_embedder.linear1."),
                ("diffusers", "all_x_embedder.2-1."),
                ("ComfyUI", "noise_refiner.0."),
            ),
            may_have_prefix=True,
        ),
        "text_encoder": Part(
            ("text_encoder",),
            _QWEN3_LAYOUTS,
            may_have_prefix=True,
        ),
        "vae": Part(("vae",), _VAE_LAYOUTS, may_have_prefix=True),
        "tokenizer": Part(("tokenizer",), files=("tokenizer.json", "vocab.json")),
    },
}


def layouts_hint(family: Family) -> str:
    """Where the documentation lists the layouts of a family in `PARTS`."""
    return f"docs/models.md, '{family.name} in other layouts', lists where each part is looked for"


@dataclass(frozen=True)
class ComponentFiles:
    """The weight files of one network.

    Attributes:
        layout: whose tensor names they use: "diffusers", "transformers", "mflux", "BFL", "Argmax", "ComfyUI",
            "LDM", "OpenCLIP" or "llama.cpp".
        paths: safetensors files, or one GGUF file.
        config: the `config.json` beside them, or None.
        prefix: what the names of its tensors begin with; other tensors in the files belong to other networks.
        values: the configuration where no `config.json` holds it; None reads or infers it.
    """

    layout: str
    paths: tuple[Path, ...]
    config: Path | None = None
    prefix: str = ""
    values: Mapping[str, Any] | None = None

    def tensors(self) -> dict[str, StoredTensor]:
        """Its tensors by their names without the prefix.

        Raises:
            InvalidModelFilesError: a file is corrupt.
        """
        return {
            name[len(self.prefix) :]: tensor
            for path in self.paths
            for name, tensor in read_header(path)[0].items()
            if name.startswith(self.prefix)
        }


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


def find_part(folder: Path, family: Family, name: str, *, prefer_half: bool = False) -> ComponentFiles | None:
    """The files of one part: of its own subfolder, else one file at the top; None without either.

    Args:
        folder: the model.
        family: one of `PARTS`.
        name: of a network, e.g. "transformer".
        prefer_half: take `X.fp16.safetensors` where there is a choice.

    Raises:
        InvalidModelFilesError: the subfolder holds another network, or the part is broken or ambiguous.
        UnsupportedModelError: the subfolder holds a transformer of another family.
    """
    part = PARTS[family.name][name]
    for candidate in (folder / subfolder for subfolder in part.folders):
        paths = _files_in(candidate, prefer_half=prefer_half)
        if paths:
            names = _tensor_names(paths)
            found = _match(part, names)
            other = family_of_tensors(names) if name == "transformer" else None
            if other is not None:
                refuse_unsupported(other, candidate)
            if found is None:
                raise InvalidModelFilesError(
                    f"{candidate} does not hold a {family.name} {name}", hint=layouts_hint(family)
                )
            layout, prefix = found
            return ComponentFiles(layout, paths, _config_in(candidate), prefix)
    single = _single_file(folder, family, name)
    if single is None:
        _refuse_pickles(folder, part)
    return single


def parts_in_file(path: Path, family: Family) -> dict[str, ComponentFiles]:
    """The networks of a family in `PARTS` that one file holds, by name."""
    names = _tensor_names((path,))
    found = {name: _match(PARTS[family.name][name], names) for name in family.components}
    return {n: ComponentFiles(hit[0], (path,), prefix=hit[1]) for n, hit in found.items() if hit is not None}


def holds_transformer(folder: Path, family: Family) -> bool:
    """Whether the transformer's subfolder, or one file at the top, has the tensor names of a family."""
    part = PARTS[family.name]["transformer"]
    inside = (_weights_in(folder / name) for name in part.folders)
    alone = ((path,) for path in _weights_in(folder))
    candidates = (paths for paths in (*inside, *alone) if paths)
    return any(family_of_tensors(_tensor_names(paths)) is family for paths in candidates)


def find_tokenizer(folder: Path, family: Family, name: str) -> Path | None:
    """The folder of a tokenizer of a family in `PARTS`, or None."""
    part = PARTS[family.name][name]
    candidates = (folder / subfolder for subfolder in part.folders)
    return next((c for c in candidates if any((c / file).is_file() for file in part.files)), None)


def _single_file(folder: Path, family: Family, name: str) -> ComponentFiles | None:
    part, files = PARTS[family.name][name], []
    for path in _weights_in(folder):
        names = _tensor_names((path,))
        found = _match(part, names)
        if found is not None and (name != "transformer" or family_of_tensors(names) is family):
            files.append(ComponentFiles(found[0], (path,), prefix=found[1]))
    if len(files) > 1:
        listed = ", ".join(file.paths[0].name for file in files)
        raise InvalidModelFilesError(
            f"{folder} holds more than one {name}: {listed}", hint="keep one of them"
        )
    return files[0] if files else None


def _weights_in(folder: Path) -> tuple[Path, ...]:
    """All safetensors and GGUF files of a folder."""
    return tuple(sorted((*folder.glob("*.safetensors"), *folder.glob("*.gguf"))))


def _files_in(folder: Path, *, prefer_half: bool) -> tuple[Path, ...]:
    """The weight files of a network's own subfolder: its safetensors, else its GGUF file; none without."""
    if any(folder.glob("*.safetensors")):
        return find_weight_files(folder, prefer_half=prefer_half)
    found = _weights_in(folder)
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise InvalidModelFilesError(
            f"{folder} holds more than one GGUF file: {listed}", hint="keep one of them"
        )
    return found


def _refuse_pickles(folder: Path, part: Part) -> None:
    """Raises the error of a pickle file in the part's own folder: it is there, but is never loaded."""
    for candidate in (folder / name for name in part.folders):
        for path in sorted(candidate.glob("*")):
            if path.suffix.lower() in PICKLE_SUFFIXES:
                raise single_file_error(path)


def _tensor_names(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(name for path in paths for name in read_header(path)[0])


def _match(part: Part, names: Iterable[str]) -> tuple[str, str] | None:
    """(layout, prefix) of the part's tensors among these; None when there are none."""
    names = tuple(names)
    for layout, mark in part.layouts:
        first = next((name for name in names if mark in name), None)
        if first is not None:
            return layout, first[: first.index(mark)] if part.may_have_prefix else ""
    return None


def _config_in(folder: Path) -> Path | None:
    config = folder / "config.json"
    return config if config.is_file() else None
