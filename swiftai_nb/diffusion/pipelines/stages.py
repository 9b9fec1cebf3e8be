"""What pipelines give each other and their callers: conditioning, steps, and the one denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.diffusion.schedulers.scheduler import Scheduler

Pixels = NDArray[np.uint8]
Latents = NDArray[np.float32]
NoiseSource = Callable[[int, tuple[int, ...]], Any]


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt, evaluated.

    Attributes:
        prompt_embeds: [B, L, D].
        negative_prompt_embeds: [B, L, D], or None when guidance is off.
        pooled_prompt_embeds: [B, P], or None for families without it.
        negative_pooled_prompt_embeds: [B, P], or None.
        guidance_scale: of classifier-free guidance, or of the guidance embedding of distilled models.
        notes: what the user should know, e.g. which words of the prompt were cut.
    """

    prompt_embeds: mx.array
    negative_prompt_embeds: mx.array | None = None
    pooled_prompt_embeds: mx.array | None = None
    negative_pooled_prompt_embeds: mx.array | None = None
    guidance_scale: float = 1.0
    notes: tuple[str, ...] = ()

    @property
    def batch_size(self) -> int:
        """B, the number of prompts."""
        return int(self.prompt_embeds.shape[0])

    def evaluated(self) -> Conditioning:
        """Itself, with every array computed, so that the text encoders can go."""
        mx.eval([a for a in vars(self).values() if isinstance(a, mx.array)])
        return self


@dataclass(frozen=True)
class DenoiseStep:
    """One finished step.

    Attributes:
        index: 0-based.
        total: number of network calls of the whole run (PNDM has one more than steps).
        latents: [B, H/s, W/s, C], float32: the sample after this step.
        denoised: [B, H/s, W/s, C], float32: the predicted x0, for previews.
    """

    index: int
    total: int
    latents: Latents
    denoised: Latents


@dataclass(frozen=True)
class PipelineDefaults:
    """What a model wants when the user says nothing."""

    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str


class DiffusionPipeline(Protocol):
    """A loaded model folder: text in, latents step by step, pixels out. Bound to the thread it runs in.

    Attributes:
        defaults: what the model wants when the user says nothing.
        size_multiple: width and height must be multiples of it.
        latent_channels: C.
        vae_scale: pixels per latent in each direction.
        components: bytes in memory of each loaded component, 0 when released.
    """

    @property
    def defaults(self) -> PipelineDefaults:
        """See above."""
        ...

    @property
    def size_multiple(self) -> int:
        """See above."""
        ...

    @property
    def latent_channels(self) -> int:
        """See above."""
        ...

    @property
    def vae_scale(self) -> int:
        """See above."""
        ...

    @property
    def components(self) -> Mapping[str, int]:
        """See above."""
        ...

    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float = 7.5,
        clip_skip: int | None = None,
        max_sequence_length: int | None = None,
    ) -> Conditioning:
        """Text -> what the denoiser is conditioned on."""
        ...

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
        """Yields one evaluated step per network call; None stands for the model's own default."""
        ...

    def decode(self, latents: Latents | mx.array) -> Pixels:
        """Latents [B, h, w, C] -> pixels [B, H, W, 3], uint8."""
        ...

    def encode_image(self, pixels: Pixels) -> Latents:
        """Pixels [H, W, 3], uint8 -> latents [1, h, w, C]."""
        ...

    def preview(self, denoised: Latents | mx.array) -> Pixels:
        """Predicted x0 [B, h, w, C] -> small pictures [B, h', w', 3], uint8; cheap."""
        ...

    def preload(self) -> None:
        """Reads all weights now instead of on first use."""
        ...

    def release_text_encoders(self) -> None:
        """Frees their memory; the next prompt reads them again."""
        ...

    def release_denoiser(self) -> None:
        """Frees its memory; the next run reads it again."""
        ...

    def release_decoder(self) -> None:
        """Frees the autoencoder's memory; the next use reads it again."""
        ...


def run_denoising(
    predict: Callable[[mx.array, float], mx.array],
    scheduler: Scheduler,
    latents: mx.array,
    *,
    noise: NoiseSource,
    start_index: int = 0,
    after_step: Callable[[mx.array, int], mx.array] | None = None,
) -> Iterator[DenoiseStep]:
    """Network, scheduler step, evaluation, report; until the schedule ends.

    Args:
        predict: (scaled latents, timestep) -> model output after guidance, float32.
        scheduler: planned for this run.
        latents: [B, h, w, C], float32, at the noise level of start_index.
        noise: (step index in this run, shape) -> unit-normal array, for stochastic samplers.
        start_index: first index of the schedule to run (image to image starts later).
        after_step: (latents, next index) -> latents, e.g. blending for inpainting.

    Yields:
        One evaluated `DenoiseStep` per network call.
    """
    total = len(scheduler.timesteps) - start_index
    history: Any = None
    for position in range(total):
        index = start_index + position
        model_input = scheduler.scale_model_input(latents, index)
        model_output = predict(model_input, float(scheduler.timesteps[index]))
        fresh = noise(position, tuple(latents.shape)) if scheduler.needs_noise else None
        step = scheduler.step(
            model_output,
            latents,
            index,
            noise=None if fresh is None else mx.array(np.asarray(fresh, dtype=np.float32)),
            history=history,
        )
        latents, history = step.latents, step.history
        if after_step is not None:
            latents = after_step(latents, index + 1)
        mx.eval(latents, step.denoised, history)
        yield DenoiseStep(position, total, np.array(latents), np.array(step.denoised))
