"""Stable Diffusion 1.x and 2.x, and LCM-distilled models of their shape (one text encoder)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.diffusion.pipelines.defaults import read_defaults
from swiftai_nb.diffusion.pipelines.denoising_stage import DenoiseRequest, UNetStage
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage
from swiftai_nb.diffusion.pipelines.stages import (
    Conditioning,
    DenoiseStep,
    Latents,
    NoiseSource,
    PipelineDefaults,
    Pixels,
)
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage, negative_prompt_list, prompt_list
from swiftai_nb.diffusion.preview import SD_PREVIEW
from swiftai_nb.diffusion.weights.component import read_config


class StableDiffusionPipeline:
    """See `DiffusionPipeline`.

    Args:
        folder: a model in diffusers layout.
        dtype: compute dtype.
        quantization_bits: 4, 8 or None.

    Raises:
        InvalidModelFilesError: files that do not fit; UnsupportedModelError: networks we lack.
    """

    def __init__(self, folder: Path, *, dtype: mx.Dtype, quantization_bits: int | None = None) -> None:
        self._text = CLIPTextStage(folder, dtype=dtype, quantization_bits=quantization_bits)
        self._image = ImageStage(folder, dtype=dtype, published_preview=SD_PREVIEW)
        self._unet = UNetStage(
            folder,
            scheduler_config=_scheduler_config(folder),
            vae_scale=self._image.config.scale,
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        self.defaults: PipelineDefaults = read_defaults(
            folder,
            unet=self._unet.config,
            vae_scale=self.vae_scale,
            scheduler_config=self._unet.scheduler_config,
            steps=20,
            guidance_scale=7.5,
        )

    @property
    def vae_scale(self) -> int:
        """Pixels per latent in each direction."""
        return self._image.config.scale

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of it."""
        return self.vae_scale

    @property
    def latent_channels(self) -> int:
        """C."""
        return self._image.config.latent_channels

    @property
    def components(self) -> Mapping[str, int]:
        """Bytes in memory by component; 0 when released."""
        parts = (self._text.component, self._unet.component, self._image.component)
        return {part.name: part.size_bytes for part in parts}

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """Encodes prompts.

        Args:
            prompt: one or several texts; what exceeds the encoder's length is cut, with a note.
            negative_prompt: None is "".
            guidance_scale: above 1 turns guidance on.
            clip_skip: how many last layers to leave out, for the prompt only (as in diffusers).
            max_sequence_length: has no meaning here.

        Raises:
            InvalidInputError: clip_skip beyond the encoder's layers.
        """
        prompts = prompt_list(prompt, "prompt")
        output = self._text.encode(prompts)
        embeds = output.last_hidden_state
        if clip_skip is not None:
            network = self._text.component.network
            embeds = network.final_norm(self._text.hidden_state(output, clip_skip + 1))
        notes = self._text.truncation_notes(prompts, "prompt")
        negative = None
        if guidance_scale > 1 and not self._unet.uses_guidance_embedding:
            negatives = negative_prompt_list(negative_prompt, len(prompts))
            negative = self._text.encode(negatives).last_hidden_state
            notes += self._text.truncation_notes(negatives, "negative prompt")
        return Conditioning(embeds, negative, guidance_scale=guidance_scale, notes=notes).evaluated()

    def denoise(
        self,
        conditioning: Conditioning,
        *,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        latents: Latents | None = None,
        noise: NoiseSource | None = None,
        scheduler: str | None = None,
        image_latents: Latents | None = None,
        strength: float | None = None,
        mask: Latents | None = None,
        guidance_rescale: float = 0.0,
    ) -> Iterator[DenoiseStep]:
        """Yields one evaluated step per network call; see `DiffusionPipeline.denoise`."""
        request = DenoiseRequest(
            width=self.defaults.width if width is None else width,
            height=self.defaults.height if height is None else height,
            steps=self.defaults.steps if steps is None else steps,
            seed=seed,
            latents=latents,
            noise=noise,
            scheduler=scheduler,
            image_latents=image_latents,
            strength=strength,
            mask=mask,
            guidance_rescale=guidance_rescale,
        )
        return self._unet.denoise(conditioning, request)

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8."""
        return self._image.decode(latents)

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3], uint8 -> latents [1, h, w, C]."""
        return self._image.encode_image(pixels)

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures [B, h, w, 3], uint8."""
        return self._image.preview(denoised)

    def release_text_encoders(self) -> None:
        """Drops the text encoder's weights; the next prompt reads them again."""
        self._text.component.release()

    def release_denoiser(self) -> None:
        """Drops the UNet's weights; the next run reads them again."""
        self._unet.component.release()

    def release_decoder(self) -> None:
        """Drops the autoencoder's weights; the next decoding reads them again."""
        self._image.component.release()


def _scheduler_config(folder: Path) -> dict[str, Any]:
    """The folder's config, with the two fields diffusers corrects in old files of this family."""
    config = read_config(folder / "scheduler" / "scheduler_config.json")
    return {**config, "steps_offset": 1, "clip_sample": False}
