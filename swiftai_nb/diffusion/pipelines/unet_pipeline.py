"""What Stable Diffusion and Stable Diffusion XL have in common: a UNet, an autoencoder, their lifetimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
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
from swiftai_nb.diffusion.pipelines.text_stage import CLIPTextStage
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.model_files.samplers import canonical_name, scheduler_name


class UNetPipeline:
    """All of `DiffusionPipeline` but `encode_prompt`, which each family adds.

    Args:
        folder: a model in diffusers layout.
        text_stages: the text encoders.
        image_stage: the autoencoder.
        scheduler_config: to plan runs from.
        dtype: compute dtype of the UNet.
        quantization_bits: 4, 8 or None.
        steps: the family's default.
        guidance_scale: the family's default.

    Raises:
        InvalidModelFilesError: files that do not fit.
        UnsupportedModelError: networks we lack.
    """

    def __init__(
        self,
        folder: Path,
        *,
        text_stages: tuple[CLIPTextStage, ...],
        image_stage: ImageStage,
        scheduler_config: Mapping[str, Any],
        dtype: mx.Dtype,
        quantization_bits: int | None,
        steps: int,
        guidance_scale: float,
    ) -> None:
        self._text_stages, self._image = text_stages, image_stage
        self._unet = UNetStage(
            folder,
            scheduler_config=scheduler_config,
            vae_scale=self.vae_scale,
            dtype=dtype,
            quantization_bits=quantization_bits,
        )
        if self._unet.config.in_channels != self.latent_channels:
            raise UnsupportedModelError(
                f"the UNet takes {self._unet.config.in_channels} channels, the latents have "
                f"{self.latent_channels}: inpainting and depth models are not supported",
                hint="Use the text-to-image model of this family; masks work with it.",
            )
        self.defaults: PipelineDefaults = read_defaults(
            folder,
            unet=self._unet.config,
            vae_scale=self.vae_scale,
            scheduler_config=scheduler_config,
            steps=steps,
            guidance_scale=guidance_scale,
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
    def networks(self) -> Mapping[str, Component[Any]]:
        """The components by folder name: where adapters (LoRA) attach."""
        parts = [stage.component for stage in self._text_stages]
        parts += [self._unet.component, self._image.component]
        return {part.name: part for part in parts}

    @property
    def components(self) -> Mapping[str, int]:
        """Bytes in memory by component; 0 when released."""
        return {name: part.size_bytes for name, part in self.networks.items()}

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
        """Yields one evaluated step per network call.

        Args:
            conditioning: from `encode_prompt`.
            width: pixels, a multiple of `size_multiple`; None is the model's own.
            height: as width.
            steps: at least 1; None is the model's own.
            seed: of the start noise and of stochastic samplers (`diffusion.noise` has the recipe).
            latents: unit-normal start [B, h, w, C] instead of the seed's.
            noise: (step index, shape) -> fresh noise, instead of the seed's.
            scheduler: a sampler's short name or diffusers class name; None is the model's own.
            image_latents: [1 or B, h, w, C] from `encode_image`: start from a picture.
            strength: how far to leave that picture, 0 (not at all) to 1; None is 0.8, with a mask 1.
            mask: [h, w, 1] or [B, h, w, 1] in 0..1: 1 where to paint, 0 where to keep the picture.
            guidance_rescale: 0..1, against over-exposure by strong guidance (Lin et al. 2024).

        Raises:
            InvalidInputError: values out of range, before any work.
        """
        request = DenoiseRequest(
            width=self.defaults.width if width is None else width,
            height=self.defaults.height if height is None else height,
            steps=self.defaults.steps if steps is None else steps,
            seed=seed,
            latents=latents,
            noise=noise,
            scheduler=self._scheduler_choice(scheduler),
            image_latents=image_latents,
            strength=strength,
            mask=mask,
            guidance_rescale=guidance_rescale,
        )
        added = self._added_inputs(conditioning, request)
        return self._unet.denoise(conditioning, request, added=added)

    def _scheduler_choice(self, name: str | None) -> str | None:
        """The sampler to plan with: None stands for the config's own, of whatever class."""
        own = scheduler_name(self._unet.scheduler_config)
        choice = self.defaults.scheduler if name is None else name
        if choice == own:
            return None
        if canonical_name(choice) == "flow-match-euler":
            raise InvalidInputError(
                "flow-match-euler samples flow models, and this is none", hint="Use euler."
            )
        return choice

    def _added_inputs(
        self, conditioning: Conditioning, request: DenoiseRequest
    ) -> Mapping[str, tuple[mx.array, mx.array]]:
        """Further UNet inputs as (negative, positive) pairs."""
        return {}

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8."""
        return self._image.decode(latents)

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3], uint8 -> latents [1, h, w, C]."""
        return self._image.encode_image(pixels)

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures [B, h, w, 3], uint8."""
        return self._image.preview(denoised)

    def preload(self) -> None:
        """Reads all weights now instead of on first use."""
        for part in self.networks.values():
            _ = part.network

    def release_text_encoders(self) -> None:
        """Drops the text encoders' weights; the next prompt reads them again."""
        for stage in self._text_stages:
            stage.component.release()

    def release_denoiser(self) -> None:
        """Drops the UNet's weights; the next run reads them again."""
        self._unet.component.release()

    def release_decoder(self) -> None:
        """Drops the autoencoder's weights; the next decoding reads them again."""
        self._image.component.release()
