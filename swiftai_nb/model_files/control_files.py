"""What is in the folder or file of a ControlNet: its kind, weights and configuration. Reads no weights.

A ControlNet is published as a folder in diffusers layout or as one file, in diffusers' names or in those of
its authors' code; without a `config.json`, shapes tell what they can and the model's UNet the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftai_nb.core.errors import InvalidInputError, ModelNotFoundError, UnsupportedModelError
from swiftai_nb.core.paths import user_path
from swiftai_nb.model_files.components import ComponentFiles
from swiftai_nb.model_files.configs import read_checked_config
from swiftai_nb.model_files.families import Z_IMAGE
from swiftai_nb.model_files.ldm_configs import control_config, with_base
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES, PICKLE_SUFFIXES, single_file_error
from swiftai_nb.model_files.safetensors_headers import StoredTensor, find_weight_files, read_header

UNET_CONTROL, Z_IMAGE_CONTROL = "ControlNet", "Z-Image ControlNet"
# Kind, layout, prefix, and a tensor that only such files have; the first that matches wins.
_LAYOUTS: tuple[tuple[str, str, str, str], ...] = (
    (UNET_CONTROL, "diffusers", "", "controlnet_cond_embedding.conv_in.weight"),
    (UNET_CONTROL, "LDM", "control_model.", "input_hint_block.0.weight"),
    (UNET_CONTROL, "LDM", "", "input_hint_block.0.weight"),
    (Z_IMAGE_CONTROL, "diffusers", "", "control_all_x_embedder.2-1.weight"),
)
# Pieces of tensor names of what is refused by name.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("lora_controlnet", "a Control-LoRA"),
    ("task_embedding", "a ControlNet-Union of SDXL"),
    ("control_add_embedding.", "a ControlNet-Union of SDXL"),
    ("controlnet_x_embedder.", "a ControlNet of a transformer (FLUX.1, Qwen-Image)"),
    ("controlnet_blocks.", "a ControlNet of a transformer (FLUX.1, Stable Diffusion 3)"),
    ("ip_adapter.", "an IP-Adapter"),
    ("image_proj.", "an IP-Adapter"),
    ("adapter.body.", "a T2I-Adapter"),
    ("body.0.resnets.", "a T2I-Adapter"),
    ("body.0.block1.", "a T2I-Adapter"),
    (".lora_", "a LoRA"),
)
_CONTEXT = re.compile(r"attn2\.to_k\.weight$")
_CONTEXT_NAMES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_HINT = "give a ControlNet of Stable Diffusion, SDXL or Z-Image: a folder in diffusers layout or a file"


@dataclass(frozen=True)
class ControlFiles:
    """A ControlNet on disk.

    Attributes:
        path: its folder or file.
        kind: `UNET_CONTROL` or `Z_IMAGE_CONTROL`.
        files: its weights; their `config` or `values` are its configuration.
    """

    path: Path
    kind: str
    files: ComponentFiles

    def tensors(self) -> dict[str, StoredTensor]:
        """Its tensors by name."""
        return self.files.tensors()

    def config(self, unet: Mapping[str, Any]) -> dict[str, Any]:
        """Its configuration: of its `config.json`, else by its tensors' shapes.

        Args:
            unet: `config.json` of the model's UNet, for what no shape tells.

        Raises:
            InvalidModelFilesError: a tensor is missing, or the file makes no sense.
        """
        if self.files.config is not None:
            return read_checked_config(self.files.config)
        shapes = {name: tensor.shape for name, tensor in self.tensors().items()}
        inferred = control_config(shapes, layout=self.files.layout, path=self.path)
        return {**with_base(inferred, unet, key="block_out_channels"), "_class_name": "ControlNetModel"}


def open_control(path: Path, *, prefer_half: bool = False) -> ControlFiles:
    """Describes a ControlNet.

    Args:
        path: a folder with `config.json` and weights, or with one file; or a safetensors file.
        prefer_half: take 16-bit files where there is a choice.

    Raises:
        ModelNotFoundError: there is nothing of that name.
        UnsupportedModelError: another kind of control; names it.
        InvalidInputError: no ControlNet, such as a whole model, or no file can have that path.
        InvalidModelFilesError: a file is a pickle or broken.
    """
    path = user_path(path)
    if path.is_dir():
        if (path / "model_index.json").is_file():
            raise InvalidInputError(f"{path} is a whole model, not a ControlNet", hint=_HINT)
        paths = find_weight_files(path, prefer_half=prefer_half)
        config = path / "config.json" if (path / "config.json").is_file() else None
    elif path.is_file():
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise single_file_error(path)
        paths, config = (path,), None
    else:
        raise ModelNotFoundError(f"there is no ControlNet {path}", hint=_HINT)
    names = frozenset(name for file in paths for name in read_header(file)[0])
    if "difference" in names:
        raise UnsupportedModelError(
            f"{path} holds the difference to a model, not a ControlNet", hint="use the file it was made from"
        )
    found = next(((k, lay, p) for k, lay, p, mark in _LAYOUTS if p + mark in names), None)
    other = next((what for piece, what in _REFUSED if any(piece in name for name in names)), None)
    if other is not None and (found is None or found[0] == UNET_CONTROL):
        raise UnsupportedModelError(f"{path} is {other}, which the local engine cannot run", hint=_HINT)
    if found is None:
        raise InvalidInputError(f"{path} is no ControlNet", hint=_HINT)
    kind, layout, prefix = found
    return ControlFiles(path, kind, ComponentFiles(layout, paths, config, prefix))


def is_control_path(path: Path) -> bool:
    """Whether a name that the user gave is a file or folder rather than the name of a kind or a model."""
    return path.is_dir() or (path.is_file() and path.suffix.lower() in MODEL_FILE_SUFFIXES)


def check_control(control: ControlFiles, model: ModelFolder) -> None:
    """Refuses a ControlNet that was made for another family than the model.

    Raises:
        InvalidInputError: it does not fit; names both families.
    """
    takes = Z_IMAGE_CONTROL if model.family is Z_IMAGE else None if model.is_flow else UNET_CONTROL
    if takes is None:
        raise InvalidInputError(
            f"{model.family.name} takes no ControlNets here",
            hint="use a model of Stable Diffusion, SDXL or Z-Image",
        )
    if control.kind != takes:
        raise InvalidInputError(
            f"{control.path.name} is a {control.kind}, which does not fit {model.family.name}",
            hint=f"use a {takes}",
        )
    if takes == UNET_CONTROL and "unet" in model.components:
        widths = _context_width(control.tensors()), _context_width(model.loaded_tensors("unet"))
        if None not in widths and widths[0] != widths[1]:
            made, used = (_CONTEXT_NAMES.get(width or 0, f"a text width of {width}") for width in widths)
            raise InvalidInputError(
                f"{control.path.name} was made for {made}, and this model is {used}",
                hint=f"use a ControlNet for {used}",
            )


def _context_width(tensors: Mapping[str, StoredTensor]) -> int | None:
    return next((t.shape[-1] for n, t in tensors.items() if _CONTEXT.search(n) and len(t.shape) == 2), None)
