"""Previews through a tiny autoencoder: sharper than a linear map, far cheaper than the VAE."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion.models.taesd import WIDTH, TinyDecoder
from swiftai_nb.diffusion.weights.key_mapping import Rule
from swiftai_nb.diffusion.weights.load import plan_weights, read_weights
from swiftai_nb.model_files.safetensors_headers import WeightFiles, read_header

PreviewDecoder = Callable[[mx.array], NDArray[np.uint8]]

# diffusers' AutoencoderTiny counts from the first convolution and carries the encoder along.
_DIFFUSERS_RULES = (Rule(r"^encoder\.", None), Rule(r"^decoder\.", ""))
_FILE_NAMES = ("diffusion_pytorch_model.safetensors", "*decoder*.safetensors", "*.safetensors")
_FIRST_DIFFUSERS, _FIRST_NUMBERED = "decoder.layers.0.weight", "1.weight"


def load_preview_decoder(path: str | Path, *, dtype: mx.Dtype = mx.float32) -> PreviewDecoder:
    """Loads a TAESD, TAESDXL or TAEF1 decoder.

    Both layouts are read: diffusers' `AutoencoderTiny` (`decoder.layers.N...`) and the author's own
    decoder files, whose keys are bare numbers.

    Args:
        path: a safetensors file, or a folder that holds one.
        dtype: of weights and arithmetic; float16 is enough.

    Returns:
        a function from latents as the denoiser sees them, [B, h, w, C], to pixels [B, 8 h, 8 w, 3], uint8. It
        must be called in the thread that loaded it.

    Raises:
        InvalidModelFilesError: no such file, or tensors that are not a TAESD decoder's.
    """
    file = _find_file(Path(path))
    tensors, metadata = read_header(file)
    first = tensors.get(_FIRST_DIFFUSERS) or tensors.get(_FIRST_NUMBERED)
    if first is None or len(first.shape) != 4 or first.shape[0] != WIDTH:
        raise InvalidModelFilesError(
            f"{file.name} is not a TAESD decoder: no {_FIRST_DIFFUSERS} or {_FIRST_NUMBERED} of 64 channels",
            hint="use taesd (SD 1.x/2.x), taesdxl (SDXL) or taef1 (FLUX.1)",
        )
    rules = _DIFFUSERS_RULES if first.name == _FIRST_DIFFUSERS else _numbered_rules(tensors)
    decoder = TinyDecoder(latent_channels=first.shape[1])
    plan = plan_weights(decoder, WeightFiles(tensors, metadata), rules=rules, component="taesd decoder")
    read_weights(decoder, plan, dtype=dtype)

    def preview(latents: mx.array) -> NDArray[np.uint8]:
        _check_latents(latents, decoder.latent_channels)
        pixels = mx.clip(decoder(latents.astype(dtype)).astype(mx.float32), 0, 1)
        return np.asarray(mx.round(pixels * 255).astype(mx.uint8))

    return preview


def _check_latents(latents: mx.array, channels: int) -> None:
    if latents.ndim != 4 or latents.shape[-1] != channels:
        raise UnsupportedModelError(
            f"this preview decoder takes latents of {channels} channels, not shape {list(latents.shape)}",
            hint="taesd and taesdxl take 4 channels, taef1 takes 16",
        )


def _numbered_rules(names: object) -> tuple[Rule, ...]:
    """The author's files count a clamp before the first convolution: shift every number by one."""
    numbers = sorted({int(m[0]) for name in names if (m := re.match(r"\d+", name))})  # type: ignore[attr-defined]
    # Rules run in order on the same key: the marker keeps a shifted number from being shifted again.
    shift = (Rule(rf"^{number}\.", f"layers#{number - 1}.") for number in numbers)
    return (*shift, Rule("^layers#", "layers."))


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    for pattern in _FILE_NAMES:
        found = [f for f in sorted(path.glob(pattern)) if "encoder" not in f.name or "decoder" in f.name]
        if found:
            return found[0]
    raise InvalidModelFilesError(
        f"no preview decoder at {path}", hint="download taesd, taesdxl or taef1 from the catalog"
    )
