"""Previews through a tiny autoencoder (TAESD by O. Bohan): sharper than a linear map, fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidModelFilesError, UnsupportedModelError
from swiftai_nb.diffusion import ops
from swiftai_nb.diffusion.models.layers import Conv2d, NoParameters, upsample_nearest
from swiftai_nb.diffusion.models.vae import unfold_patches
from swiftai_nb.diffusion.weights.component import load_network
from swiftai_nb.diffusion.weights.tensors import Rule, TensorSource, renamed_by
from swiftai_nb.model_files.safetensors_headers import read_header

WIDTH = 64
_PATCH = 2
BLOCKS_PER_STAGE = (3, 3, 3, 1)
PreviewDecoder = Callable[[mx.array], NDArray[np.uint8]]

# diffusers' AutoencoderTiny counts from the first convolution and carries the encoder along.
_DIFFUSERS_RULES: tuple[Rule, ...] = ((r"^encoder\.", None), (r"^decoder\.", ""))
_FILE_NAMES = ("diffusion_pytorch_model.safetensors", "*decoder*.safetensors", "*.safetensors")
_FIRST_DIFFUSERS, _FIRST_NUMBERED = "decoder.layers.0.weight", "1.weight"


def _relu(x: mx.array) -> mx.array:
    return mx.maximum(x, 0)


class TinyBlock(nn.Module):  # type: ignore[misc]
    """relu(conv(relu(conv(relu(conv(x))))) + x)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Odd places are activations: the files count them.
        self.conv = [Conv2d(channels, channels) if i % 2 == 0 else NoParameters() for i in range(5)]

    def __call__(self, x: mx.array) -> mx.array:
        """[B, h, w, C] -> the same shape."""
        y = _relu(self.conv[0](x))
        y = _relu(self.conv[2](y))
        return _relu(self.conv[4](y) + x)


class Upsample(NoParameters):
    """Nearest-neighbor, by two."""

    def __call__(self, x: mx.array) -> mx.array:
        """[B, h, w, C] -> [B, 2 h, 2 w, C]."""
        return ops.checkpoint(upsample_nearest(x))


class Relu(NoParameters):
    """max(x, 0)."""

    def __call__(self, x: mx.array) -> mx.array:
        """Any shape."""
        return _relu(x)


class TinyDecoder(nn.Module):  # type: ignore[misc]
    """Latents [B, h, w, C] -> pixels [B, 8 h, 8 w, 3] in about 0..1.

    Latents are taken as the denoiser sees them, not divided by the big autoencoder's scaling factor.

    Args:
        latent_channels: 4 for Stable Diffusion, 16 for FLUX.1, 32 for FLUX.2.
        blocks: residual blocks before each upsampling, and before the last convolution.
    """

    def __init__(self, latent_channels: int, *, blocks: Sequence[int] = BLOCKS_PER_STAGE) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.scale = 2 ** (len(blocks) - 1)
        layers: list[nn.Module] = [Conv2d(latent_channels, WIDTH), Relu()]
        for count in blocks[:-1]:
            layers += [TinyBlock(WIDTH) for _ in range(count)]
            layers += [Upsample(), Conv2d(WIDTH, WIDTH, bias=False)]
        layers += [*(TinyBlock(WIDTH) for _ in range(blocks[-1])), Conv2d(WIDTH, 3)]
        self.layers = layers

    def __call__(self, latents: mx.array) -> mx.array:
        """See the class."""
        x = mx.tanh(latents / 3) * 3
        for layer in self.layers:
            x = layer(x)
        return x


def load_preview_decoder(path: str | Path, *, dtype: mx.Dtype = mx.float32) -> PreviewDecoder:
    """Loads a TAESD, TAESDXL, TAEF1 or TAEF2 decoder.

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
    tensors, _ = read_header(file)
    first = tensors.get(_FIRST_DIFFUSERS) or tensors.get(_FIRST_NUMBERED)
    if first is None or len(first.shape) != 4 or first.shape[0] != WIDTH:
        raise InvalidModelFilesError(
            f"{file.name} is not a TAESD decoder: no {_FIRST_DIFFUSERS} or {_FIRST_NUMBERED} of 64 channels",
            hint="use taesd (SD 1.x/2.x), taesdxl (SDXL) or taef1 (FLUX.1) or taef2 (FLUX.2)",
        )
    rules = _DIFFUSERS_RULES if first.name == _FIRST_DIFFUSERS else _numbered_rules(tensors)
    channels = first.shape[1]
    source = TensorSource("taesd decoder", (file,), renamed_by(rules))
    decoder = load_network(source, lambda: TinyDecoder(latent_channels=channels), dtype=dtype)

    def preview(latents: mx.array) -> NDArray[np.uint8]:
        if latents.ndim == 4 and latents.shape[-1] == _PATCH**2 * decoder.latent_channels:
            latents = unfold_patches(latents, _PATCH)  # FLUX.2's denoiser works on patches
        _check_latents(latents, decoder.latent_channels)
        pixels = mx.clip(decoder(latents.astype(dtype)).astype(mx.float32), 0, 1)
        return np.asarray(mx.round(pixels * 255).astype(mx.uint8))

    return preview


def _check_latents(latents: mx.array, channels: int) -> None:
    if latents.ndim != 4 or latents.shape[-1] != channels:
        raise UnsupportedModelError(
            f"this preview decoder takes latents of {channels} channels, not shape {list(latents.shape)}",
            hint="taesd and taesdxl take 4 channels, taef1 takes 16, taef2 takes 32",
        )


def _numbered_rules(names: Iterable[str]) -> tuple[Rule, ...]:
    """The author's files count a clamp before the first convolution: shift every number by one."""
    numbers = sorted({int(m[0]) for name in names if (m := re.match(r"\d+", name))})
    # Rules run in order on the same key: the marker keeps a shifted number from being shifted again.
    shift = ((rf"^{number}\.", f"layers#{number - 1}.") for number in numbers)
    return (*shift, ("^layers#", "layers."))


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    for pattern in _FILE_NAMES:
        found = [f for f in sorted(path.glob(pattern)) if "encoder" not in f.name or "decoder" in f.name]
        if found:
            return found[0]
    raise InvalidModelFilesError(
        f"no preview decoder at {path}", hint="download taesd, taesdxl, taef1 or taef2 from the catalog"
    )
