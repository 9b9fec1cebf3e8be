"""What every pipeline is: text in, latents step by step, pixels out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.pipelines.controls import read_controls
from swiftai_nb.diffusion.pipelines.denoising import (
    Conditioning,
    DenoiseRequest,
    DenoiseStep,
    Latents,
    NoiseSource,
)
from swiftai_nb.diffusion.pipelines.image_stage import ImageStage, Pixels
from swiftai_nb.diffusion.weights.component import Component
from swiftai_nb.diffusion.weights.textual_inversion import TextualInversion
from swiftai_nb.model_files.families import TEXT_TO_IMAGE
from swiftai_nb.model_files.references import ReferenceLimits
from swiftai_nb.model_files.variants import GenerationDefaults


class DiffusionPipeline(ABC):
    """A loaded model folder. All calls belong to the thread that made it (MLX arrays do).

    Weights are read when they are first needed and can be released in between. A family adds
    `encode_prompt` and `_denoise`.

    Args:
        text_encoders: in the order they are read.
        denoiser: the UNet or transformer.
        image: the autoencoder.
        defaults: the settings of this model where the user gives none.

    Attributes:
        defaults: as given.
        embeddings: textual inversions in use; `set_embeddings` changes them.
    """

    def __init__(
        self,
        *,
        text_encoders: Sequence[Component[Any]],
        denoiser: Component[Any],
        image: ImageStage,
        defaults: GenerationDefaults,
    ) -> None:
        self.defaults = defaults
        self.embeddings: tuple[TextualInversion, ...] = ()
        self._text_encoders, self._denoiser, self._image = tuple(text_encoders), denoiser, image

    @property
    def vae_scale(self) -> int:
        """Pixels per latent in each direction."""
        return self._image.config.denoiser_scale

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of it."""
        return self.vae_scale

    @property
    def references(self) -> ReferenceLimits | None:
        """The pictures it changes by the prompt (`reference_latents` of `denoise`); None if it does not."""
        return None

    @property
    def takes_controls(self) -> bool:
        """Whether ControlNets can steer it (`controls` of `denoise`)."""
        return False

    @property
    def task(self) -> str:
        """What its denoiser is for: TEXT_TO_IMAGE, INPAINTING, INSTRUCT_PIX2PIX of `model_files.families`."""
        return TEXT_TO_IMAGE

    @property
    def latent_channels(self) -> int:
        """C."""
        return self._image.config.denoiser_channels

    @property
    def networks(self) -> Mapping[str, Component[Any]]:
        """The components by folder name: where adapters (LoRA) attach."""
        parts = (*self._text_encoders, self._denoiser, self._image.component)
        return {part.name: part for part in parts}

    @property
    def dtype(self) -> mx.Dtype:
        """What the denoiser computes in."""
        return self._denoiser.dtype

    @property
    def components(self) -> dict[str, int]:
        """Bytes in memory by component; 0 when released."""
        return {name: part.size_bytes for name, part in self.networks.items()}

    def set_embeddings(self, embeddings: Sequence[TextualInversion]) -> None:
        """Adds the words of textual inversions to the prompt's vocabulary, in place of those added before.

        Raises:
            InvalidInputError: this family has none.
            InvalidModelFilesError: one was made for other text encoders; then nothing has changed.
        """
        if embeddings:
            raise InvalidInputError(
                "this model takes no textual inversion", hint="use it with Stable Diffusion or SDXL"
            )

    @abstractmethod
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
        *,
        prompt_syntax: str | None = None,
        steps: int | None = None,
    ) -> Conditioning:
        """Encodes one prompt or several; the conditioning's notes name what was cut or left out.

        Args:
            prompt: one or several texts.
            negative_prompt: what to avoid: one text for all, or one for each.
            guidance_scale: weight of the prompt.
            clip_skip: how many last layers of CLIP to leave out.
            max_sequence_length: tokens of T5 and Qwen.
            prompt_syntax: for CLIP: "plain" takes brackets as text and cuts what exceeds the encoder's
                length; "weighted" reads weights, BREAK, AND and `[from:to:when]` as AUTOMATIC1111 does, and
                long prompts in chunks; "compel" the weights of compel; None is "weighted" where a prompt has
                a bracket with a number, such as "(red:1.3)".
            steps: of the run, for prompts that are edited during it; None is the model's own.
        """

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
        reference_latents: Sequence[Latents] = (),
        eta: float | None = None,
        masked_image_latents: Latents | None = None,
        image_guidance_scale: float | None = None,
        controls: Sequence[Sequence[Any]] = (),
    ) -> Iterator[DenoiseStep]:
        """Yields one evaluated step per network call.

        Args:
            conditioning: from `encode_prompt`.
            width: pixels, a multiple of `size_multiple`; None is the model's own.
            height: as width.
            steps: at least 1; None is the model's own.
            seed: of the start noise and of stochastic samplers (`diffusion.noise` has the recipe).
            latents: unit-normal start [B, h, w, C] instead of the seed's.
            noise: (draw index, shape) -> fresh noise, asked once per draw, instead of the seed's.
            scheduler: a sampler's short name or diffusers class name; None is the model's own.
            image_latents: [1 or B, h, w, C] from `encode_image`: start from a picture.
            strength: how much that picture may change, 0 (not at all) to 1; None is 0.8, with a mask 1; of
                the SDXL refiner, which needs that picture, 0.3.
            mask: [h, w, 1] or [B, h, w, 1] in 0..1: 1 where to paint, 0 where to keep the picture.
            guidance_rescale: 0..1, against over-exposure by strong guidance (Lin et al. 2024); without
                effect where guidance is an input of the network.
            reference_latents: pictures that the prompt refers to, each [1, h, w, C] from `encode_image`, of
                any sizes; only where `references` is not None.
            eta: 0..1, how much fresh noise DDIM (None is 0) and TCD (None is 0.3) add; without effect on the
                other samplers, as in diffusers.
            masked_image_latents: [1 or B, h, w, C] from `encode_masked_image`, for inpainting models (9 input
                channels): beside `mask`. Without either such a model paints the whole picture.
            image_guidance_scale: how closely InstructPix2Pix keeps to the picture, from 1; None is 1.5. Below
                1 there is no guidance, as in diffusers. Without effect on other models.

            controls: ControlNets that steer the picture, each (folder or file, pixels [H, W, 3], scale) or
                further values of `controls.ControlInput`; only where `takes_controls`.

        Raises:
            InvalidInputError: values out of range, a sampler that does not fit, or references or controls
                for a model that takes none; before any work.
        """
        if reference_latents and self.references is None:
            raise InvalidInputError("this model takes no reference pictures", hint="use FLUX.2 klein")
        if controls and not self.takes_controls:
            raise InvalidInputError("this model takes no ControlNets", hint="use SD 1.5, SDXL or Z-Image")
        width = self.defaults.width if width is None else width
        height = self.defaults.height if height is None else height
        request = DenoiseRequest(
            width=width,
            height=height,
            steps=self.defaults.steps if steps is None else steps,
            seed=seed,
            latents=latents,
            noise=noise,
            scheduler=scheduler,
            image_latents=image_latents,
            strength=strength,
            mask=mask,
            guidance_rescale=guidance_rescale,
            reference_latents=tuple(reference_latents),
            eta=eta,
            masked_image_latents=masked_image_latents,
            image_guidance_scale=image_guidance_scale,
            controls=read_controls(controls, width=width, height=height) if controls else (),
        )
        return self._denoise(conditioning, request)

    @abstractmethod
    def _denoise(self, conditioning: Conditioning, request: DenoiseRequest) -> Iterator[DenoiseStep]:
        """Checks a request now; works on it when iterated."""

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8."""
        return self._image.decode(latents)

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3], uint8 -> latents [1, h, w, C]."""
        return self._image.encode_image(pixels)

    def encode_masked_image(self, pixels: Pixels, mask: NDArray[np.float32]) -> Latents:
        """What an inpainting model sees of a picture: gray where it is to paint.

        Args:
            pixels: [H, W, 3], uint8.
            mask: [H, W] in 0..1: 1 where to paint; from 0.5 on a pixel is hidden.

        Returns:
            [1, h, w, C].
        """
        return self._image.encode_masked_image(pixels, mask)

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures [B, h, w, 3], uint8; cheap."""
        return self._image.preview(denoised)

    def prepare_preview(self) -> None:
        """Makes what `preview` needs while the decoder is loaded; it then needs the decoder no more."""
        self._image.prepare_preview()

    def preload(self) -> None:
        """Reads all weights now instead of on first use."""
        for part in self.networks.values():
            _ = part.network

    def release_text_encoders(self) -> None:
        """Drops the text encoders' weights; the next prompt reads them again."""
        for part in self._text_encoders:
            part.release()

    def release_denoiser(self) -> None:
        """Drops the UNet's or transformer's weights; the next run reads them again."""
        self._denoiser.release()

    def release_decoder(self) -> None:
        """Drops the autoencoder's weights; the next decoding reads them again."""
        self._image.component.release()
