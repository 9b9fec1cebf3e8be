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
from swiftai_nb.model_files.ldm_configs import adapter_config, control_config, t2i_adapter_names, with_base
from swiftai_nb.model_files.model_folder import ModelFolder
from swiftai_nb.model_files.refusals import MODEL_FILE_SUFFIXES, PICKLE_SUFFIXES, single_file_error
from swiftai_nb.model_files.safetensors_headers import StoredTensor, find_weight_files, read_header

UNET_CONTROL, Z_IMAGE_CONTROL, T2I_ADAPTER = "ControlNet", "Z-Image ControlNet", "T2I-Adapter"
# Kind, layout, prefix, and a tensor that only such files have; the first that matches wins.
_LAYOUTS: tuple[tuple[str, str, str, str], ...] = (
    (UNET_CONTROL, "diffusers", "", "controlnet_cond_embedding.conv_in.weight"),
    (UNET_CONTROL, "LDM", "control_model.", "input_hint_block.0.weight"),
    (UNET_CONTROL, "LDM", "", "input_hint_block.0.weight"),
    (Z_IMAGE_CONTROL, "diffusers", "", "control_all_x_embedder.2-1.weight"),
    (T2I_ADAPTER, "diffusers", "adapter.", "body.0.resnets.0.block1.weight"),
    (T2I_ADAPTER, "TencentARC", "", "body.0.block1.weight"),
    (T2I_ADAPTER, "TencentARC light", "", "body.0.body.0.block1.weight"),
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
    (".lora_", "a LoRA"),
)
_CONTEXT = re.compile(r"attn2\.to_k\.weight$")
_FIRST_ATTENTION = re.compile(r"^(down_blocks\.0\.attentions|input_blocks\.1\.1)\.")
_CONTEXT_NAMES = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
_SDXL_PATCH = 16  # pixels that the T2I-Adapters of SDXL take as one; those of Stable Diffusion take 8
_OF_UNETS = (UNET_CONTROL, T2I_ADAPTER)
_HINT = "give a ControlNet for Stable Diffusion, SDXL or Z-Image: a folder in diffusers layout or a file"


@dataclass(frozen=True)
class ControlFiles:
    """A ControlNet on disk.

    Attributes:
        path: its folder or file.
        kind: `UNET_CONTROL`, `Z_IMAGE_CONTROL` or `T2I_ADAPTER`.
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
        if self.kind == T2I_ADAPTER:
            names = t2i_adapter_names(shapes, layout=self.files.layout)
            return adapter_config({names[name]: shape for name, shape in shapes.items()}, path=self.path)
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


def check_control(control: ControlFiles, model: ModelFolder, *, is_guess: bool = False) -> None:
    """Refuses a ControlNet or T2I-Adapter that was made for another family than the model.

    Args:
        control: on disk.
        model: that it shall steer.
        is_guess: whether guess mode is wanted, which only ControlNets of UNets have.

    Raises:
        InvalidInputError: it does not fit; names both families.
    """
    takes = (Z_IMAGE_CONTROL,) if model.family is Z_IMAGE else () if model.is_flow else _OF_UNETS
    if not takes:
        raise InvalidInputError(
            f"{model.family.name} takes no ControlNets here",
            hint="use a model of Stable Diffusion, SDXL or Z-Image",
        )
    if control.kind not in takes:
        raise InvalidInputError(
            f"{control.path.name} is a {control.kind}, which does not fit {model.family.name}",
            hint=f"use a {takes[0]}",
        )
    if is_guess and control.kind != UNET_CONTROL:
        raise InvalidInputError(
            f"{control.path.name} is a {control.kind}, which has no guess mode", hint="leave out :guess"
        )
    if model.is_flow or "unet" not in model.components:
        return
    own, unet = control.tensors(), model.loaded_tensors("unet")
    width = _context_width(unet)
    used = _CONTEXT_NAMES.get(width or 0, f"a text width of {width}")
    if control.kind == T2I_ADAPTER:
        # SDXL alone has no attention at its first level, and a feature for it of half the size.
        is_of_sdxl = control.config({}).get("downscale_factor") == _SDXL_PATCH
        if is_of_sdxl == any(_FIRST_ATTENTION.search(name) for name in unet):
            family = "SDXL" if is_of_sdxl else "Stable Diffusion 1.x and 2.x"
            raise InvalidInputError(
                f"{control.path.name} is a T2I-Adapter for {family}, which does not fit this model",
                hint="use one for this model's family",
            )
    made = _context_width(own)
    if None not in (made, width) and made != width:
        raise InvalidInputError(
            f"{control.path.name} was made for {_CONTEXT_NAMES.get(made or 0, f'a text width of {made}')}, "
            f"and this model is {used}",
            hint=f"use a ControlNet for {used}",
        )
    channels = [_first_channels(tensors) for tensors in (own, unet)]
    if None not in channels and channels[0] != channels[1]:
        raise InvalidInputError(
            f"{control.path.name} was made for a model of {channels[0]} channels, this one has {channels[1]}",
            hint="use one that was made for this model's family",
        )


def _first_channels(tensors: Mapping[str, StoredTensor]) -> int | None:
    """Channels of the first feature map; None where it is unknown."""
    found = (tensors.get(name) for name in ("conv_in.weight", "input_blocks.0.0.weight"))
    return next((tensor.shape[0] for tensor in found if tensor is not None and tensor.shape), None)


def _context_width(tensors: Mapping[str, StoredTensor]) -> int | None:
    return next((t.shape[-1] for n, t in tensors.items() if _CONTEXT.search(n) and len(t.shape) == 2), None)
