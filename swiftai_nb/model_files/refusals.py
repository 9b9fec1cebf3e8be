"""Errors for files and folders that the local engine does not run: what they are, what to use instead."""

from __future__ import annotations

from pathlib import Path

from swiftai_nb.core.errors import (
    AIError,
    InvalidInputError,
    InvalidModelFilesError,
    UnsupportedModelError,
)
from swiftai_nb.model_files.families import (
    ADAPTER_MARKS,
    CONTROL_MARKS,
    FLUX_1,
    INPAINTING,
    INSTRUCT_PIX2PIX,
    TEXT_TO_IMAGE,
    UNET_FAMILIES,
    Family,
    family_of_class,
    family_of_tensors,
    has_pieces,
)
from swiftai_nb.model_files.safetensors_headers import read_header

CHOOSE_SUPPORTED = "use a Stable Diffusion 1.x/2.x, SDXL, FLUX.1, FLUX.2 klein or Z-Image model"
PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
MODEL_FILE_SUFFIXES = PICKLE_SUFFIXES | {".safetensors", ".gguf"}
# What a file that is no whole model is, by a piece of its tensors' names.
_PART_MARKS: tuple[tuple[str, str], ...] = (
    *(("a ControlNet", mark) for mark in CONTROL_MARKS),
    ("an IP-Adapter", "ip_adapter."),
    ("a motion module", "motion_modules."),
    ("an upscaler", "body.0.rdb1."),
    ("an upscaler", "model.1.sub.0.RDB1."),
    ("a preview decoder", "decoder.layers.0."),
    ("a preview decoder", "taesd_decoder."),
    ("an autoencoder", "decoder.mid.block_1."),
    ("an autoencoder", "decoder.mid_block."),
    ("an autoencoder", "decoder.middle.0."),
    ("a CLIP text encoder", "text_model.encoder.layers.0."),
    ("a CLIP text encoder", "transformer.resblocks.0."),
    ("a T5 text encoder", "encoder.block.0.layer.0."),
    ("a T5 text encoder", "enc.blk.0.attn_q."),
    ("a Qwen3 text encoder", "layers.0.self_attn.q_norm."),
    ("a Qwen3 text encoder", "blk.0.attn_q_norm."),
    ("a textual inversion embedding", "emb_params"),
    ("a textual inversion embedding", "clip_g"),
)
_PART_OPTIONS = {
    "a ControlNet": "control", "an upscaler": "upscaler", "an autoencoder": "vae",
    "a textual inversion embedding": "embedding",
}  # fmt: skip
# UNets of other purposes, by the channels they take.
_OTHER_UNETS = {5: "a depth model", 7: "an upscaler"}


def refuse_unsupported(family: Family, path: Path) -> None:
    """Raises UnsupportedModelError, with the family's name, for one that the local engine does not run."""
    if not family.is_supported:
        raise _unsupported(f"{path} holds {family.name}", family)


def unsupported_class(class_name: str, path: Path) -> UnsupportedModelError:
    """The error for a pipeline or network by its class in diffusers, with its family where that is known."""
    family = family_of_class(class_name)
    of = "" if family is None else f" of {family.name}"
    return _unsupported(f"{path} holds a {class_name}{of}", family)


def _unsupported(what: str, family: Family | None) -> UnsupportedModelError:
    error = UnsupportedModelError(f"{what}, which the local engine cannot run", hint=CHOOSE_SUPPORTED)
    error.family = "" if family is None or family.is_supported else family.name
    return error


def unet_task(in_channels: int, out_channels: int, *, family: Family, path: Path) -> str:
    """What a UNet is for: `TEXT_TO_IMAGE`, `INPAINTING` or `INSTRUCT_PIX2PIX`.

    Args:
        in_channels: that it takes.
        out_channels: that it gives, as many as the latents have.
        family: for the error.
        path: the model, for the error.

    Raises:
        UnsupportedModelError: a UNet of another purpose; names it.
    """
    tasks = {0: TEXT_TO_IMAGE, out_channels: INSTRUCT_PIX2PIX, out_channels + 1: INPAINTING}
    task = tasks.get(in_channels - out_channels)
    if task is not None:
        return task
    what = _OTHER_UNETS.get(in_channels, f"a model with {in_channels} input channels")
    raise UnsupportedModelError(
        f"{path} holds {what} of {family.name}, which the local engine cannot run",
        hint="use the text-to-image model of this family; images and masks work with it",
    )


def single_file_error(path: Path) -> AIError:
    """The error for a single file given as a model: names what it holds and what to use instead.

    Args:
        path: an existing file with one of `MODEL_FILE_SUFFIXES`.

    Raises:
        InvalidModelFilesError: its header is corrupt.
    """
    suffix = path.suffix.lower()
    if suffix in PICKLE_SUFFIXES:
        return InvalidModelFilesError(
            f"{path} is a pickle file, which can run code and is never loaded",
            hint="use the safetensors files of this model",
        )
    tensors, metadata = read_header(path)
    names = tuple(tensors)
    family = family_of_tensors(names)
    if family is not None and not family.is_supported:
        return _unsupported(f"{path} holds {family.name}", family)
    if has_pieces(names, *ADAPTER_MARKS):
        return InvalidInputError(f"{path} is a LoRA, not a model", hint=f"--lora {path}")
    message, hint = _describe(path, names, family)
    architecture = metadata.get("general.architecture")
    if "no model that is known" in message and architecture:
        message += f" (GGUF architecture {architecture!r:.40})"
    return UnsupportedModelError(message, hint=hint)


def describe_content(file: Path) -> tuple[str, str | None]:
    """What a file holds, such as "a LoRA", and the option of the magic that takes it; "" if it isn't known.

    Raises:
        InvalidModelFilesError: its header is corrupt.
    """
    names = tuple(read_header(file)[0])
    if has_pieces(names, *ADAPTER_MARKS):
        return "a LoRA", "lora"
    family = family_of_tensors(names)
    if family is not None:
        return f"a model of {family.name}", "model" if family.is_supported else None
    part = next((label for label, mark in _PART_MARKS if has_pieces(names, mark)), "")
    return part, _PART_OPTIONS.get(part)


def _describe(path: Path, names: tuple[str, ...], family: Family | None) -> tuple[str, str]:
    """(message, hint) for a file that is not a LoRA, of a supported family or of none."""
    if family is None:
        part = next((label for label, mark in _PART_MARKS if has_pieces(names, mark)), None)
        what = "holds no model that is known" if part is None else f"is {part}, not a whole model"
        return f"{path} {what}", CHOOSE_SUPPORTED
    if family in UNET_FAMILIES:
        return (
            f"{path} is a {family.name} checkpoint in a single file",
            "give the file itself as the model",
        )
    hint = "give the file itself as the model"
    if family is FLUX_1:
        hint = "give the folder that holds it with ae.safetensors, the text encoders and the tokenizers"
    return f"{path} is a transformer of {family.name}, which needs its other parts", hint
