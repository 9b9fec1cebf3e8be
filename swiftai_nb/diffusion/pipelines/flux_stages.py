"""FLUX.1's text encoders and autoencoder: the stages of other families on files of any layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from swiftai_nb.diffusion.models.clip import CLIPTextConfig, CLIPTextModel
from swiftai_nb.diffusion.models.t5 import T5Config, T5Encoder
from swiftai_nb.diffusion.models.vae import Autoencoder, VAEConfig
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage
from swiftai_nb.diffusion.preview import FLUX_PREVIEW, read_preview
from swiftai_nb.diffusion.tokenizers.clip_tokenizer import CLIPTokenizer
from swiftai_nb.diffusion.tokenizers.t5_tokenizer import T5Tokenizer
from swiftai_nb.diffusion.weights.converted_component import ConvertedComponent
from swiftai_nb.diffusion.weights.flux_configs import (
    clip_config_from_tensors,
    t5_config_from_tensors,
    vae_config_from_tensors,
)
from swiftai_nb.diffusion.weights.flux_layouts import FluxPart

_SHOWN_CHARACTERS = 80
_PUBLISHED_CHANNELS = (128, 256, 512, 512)
_FLUX_LATENT_CHANNELS = 16


class FluxCLIPStage(CLIPTextStage):
    """CLIP-L, of which FLUX uses the pooled vector."""

    def __init__(self, part: FluxPart, tokenizer: Path, *, dtype: mx.Dtype, bits: int | None) -> None:
        config = CLIPTextConfig.from_dict(part.config_or(clip_config_from_tensors))
        self.config = replace(config, projection_dim=None)
        self.tokenizer = CLIPTokenizer(tokenizer)
        self.tokenizer.max_length = min(self.tokenizer.max_length, self.config.max_position_embeddings)
        self.component = ConvertedComponent(
            part.name,
            part.paths,
            part.convert,
            lambda: CLIPTextModel(self.config),
            dtype=dtype,
            quantization_bits=bits,
        )


class T5Stage:
    """T5 and its tokenizer."""

    def __init__(self, part: FluxPart, tokenizer: Path, *, dtype: mx.Dtype, bits: int | None) -> None:
        self.config = T5Config.from_dict(part.config_or(t5_config_from_tensors))
        self.tokenizer = T5Tokenizer.from_folder(tokenizer)
        self.component = ConvertedComponent(
            part.name,
            part.paths,
            part.convert,
            lambda: T5Encoder(self.config),
            dtype=dtype,
            quantization_bits=bits,
        )

    def encode(self, prompts: Sequence[str], length: int) -> mx.array:
        """[B] prompts -> hidden states [B, length, D]."""
        return self.component.network(mx.array(self.tokenizer(prompts, max_length=length)))

    def truncation_notes(self, prompts: Sequence[str], length: int) -> tuple[str, ...]:
        """One line for each prompt whose end was cut off."""
        cut = ((prompt, self.tokenizer.cut_text(prompt, max_length=length)) for prompt in prompts)
        return tuple(self._note(prompt, words, length) for prompt, words in cut if words)

    def _note(self, prompt: str, words: str, length: int) -> str:
        shown = " ".join(words.split())
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS].rstrip()} ..."
        count = self.tokenizer.token_count(prompt) - 1
        return f"prompt truncated at {length - 1} of {count} tokens; left out: {shown}"


class FluxImageStage(ImageStage):
    """The 16-channel autoencoder."""

    def __init__(self, part: FluxPart, folder: Path, *, dtype: mx.Dtype) -> None:
        self.config = VAEConfig.from_dict(part.config_or(vae_config_from_tensors))
        self.component = ConvertedComponent(
            part.name, part.paths, part.convert, lambda: Autoencoder(self.config), dtype=dtype
        )
        self._preview = read_preview(folder, self.config.latent_channels)
        published = (
            self.config.block_out_channels == _PUBLISHED_CHANNELS
            and self.config.latent_channels == _FLUX_LATENT_CHANNELS
        )
        if self._preview is None and published:
            self._preview = FLUX_PREVIEW
