"""The middle of a Stable Diffusion pipeline: start latents, guided UNet calls, the sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.models.layers import sinusoidal_embedding
from swiftai_nb.diffusion.models.unet import UNet
from swiftai_nb.diffusion.models.unet_config import UNetConfig
from swiftai_nb.diffusion.noise import start_noise, step_noise
from swiftai_nb.diffusion.pipelines.stages import (
    Conditioning,
    DenoiseStep,
    Latents,
    NoiseSource,
    run_denoising,
)
from swiftai_nb.diffusion.schedulers.factory import make_scheduler
from swiftai_nb.diffusion.schedulers.scheduler import Scheduler
from swiftai_nb.diffusion.weights.component import Component, read_config
from swiftai_nb.diffusion.weights.key_mapping import UNET_RULES


@dataclass(frozen=True)
class DenoiseRequest:
    """One run's settings, as `DiffusionPipeline.denoise` takes them, with defaults filled in."""

    width: int
    height: int
    steps: int
    seed: int = 0
    latents: Latents | None = None
    noise: NoiseSource | None = None
    scheduler: str | None = None
    image_latents: Latents | None = None
    strength: float | None = None
    mask: Latents | None = None
    guidance_rescale: float = 0.0


class UNetStage:
    """The UNet of a model folder, and how it is sampled.

    Args:
        folder: the model.
        scheduler_config: the `scheduler_config.json` to plan runs from.
        vae_scale: pixels per latent.
        dtype: compute dtype.
        quantization_bits: of the UNet's linear maps, or None.
    """

    def __init__(
        self,
        folder: Path,
        *,
        scheduler_config: Mapping[str, Any],
        vae_scale: int,
        dtype: mx.Dtype,
        quantization_bits: int | None = None,
    ) -> None:
        self.config = UNetConfig.from_dict(read_config(folder / "unet" / "config.json"))
        self.scheduler_config = dict(scheduler_config)
        self.vae_scale = vae_scale
        self.component = Component(
            folder / "unet",
            lambda: UNet(self.config),
            rules=UNET_RULES,
            dtype=dtype,
            quantization_bits=quantization_bits,
        )

    @property
    def uses_guidance_embedding(self) -> bool:
        """Whether guidance is an input of the network (LCM), which rules out negative prompts."""
        return self.config.time_cond_proj_dim is not None

    def denoise(
        self,
        conditioning: Conditioning,
        request: DenoiseRequest,
        *,
        added: Mapping[str, tuple[mx.array, mx.array]] | None = None,
    ) -> Iterator[DenoiseStep]:
        """Runs a request.

        Args:
            conditioning: the encoded prompt.
            request: settings.
            added: further UNet inputs as (negative, positive) pairs, each [n, ...] with n prompts.

        Raises:
            InvalidInputError: sizes, latents, strength or mask that do not fit; before any work.
        """
        scheduler = make_scheduler(self.scheduler_config, request.steps, name=request.scheduler)
        shape = latent_shape(
            conditioning, request, vae_scale=self.vae_scale, channels=self.config.in_channels
        )
        predict = self._make_predict(conditioning, shape[0], request.guidance_rescale, added or {})
        return sample(request, scheduler, predict, shape=shape)

    def _make_predict(
        self,
        conditioning: Conditioning,
        batch: int,
        guidance_rescale: float,
        added: Mapping[str, tuple[mx.array, mx.array]],
    ) -> Callable[[mx.array, float], mx.array]:
        """(scaled latents, timestep) -> model output after guidance."""
        repeats = batch // conditioning.batch_size
        negative, scale = conditioning.negative_prompt_embeds, conditioning.guidance_scale
        guided = negative is not None

        def both(unconditional: mx.array | None, conditional: mx.array) -> mx.array:
            parts = [conditional] if unconditional is None or not guided else [unconditional, conditional]
            return mx.concatenate([mx.repeat(p, repeats, axis=0) for p in parts])

        inputs = {name: both(*pair) for name, pair in added.items()}
        context = both(negative, conditioning.prompt_embeds)
        if self.config.time_cond_proj_dim is not None:
            inputs["timestep_cond"] = _guidance_embedding(scale, self.config.time_cond_proj_dim, len(context))

        def predict(latents: mx.array, timestep: float) -> mx.array:
            sample = mx.concatenate([latents, latents]) if guided else latents
            times = mx.full((len(sample),), timestep, dtype=mx.float32)
            predicted = self.component.network(sample, times, context, **inputs).astype(mx.float32)
            if not guided:
                return predicted
            unconditional, conditional = mx.split(predicted, 2)
            combined = unconditional + scale * (conditional - unconditional)
            return _rescale_guidance(combined, conditional, guidance_rescale)

        return predict


def latent_shape(
    conditioning: Conditioning,
    request: DenoiseRequest,
    *,
    vae_scale: int,
    channels: int,
    size_multiple: int | None = None,
) -> tuple[int, ...]:
    """[B, h, w, C] of a run, after checking everything the request gives against it.

    Args:
        conditioning: its batch divides B.
        request: settings.
        vae_scale: pixels per latent.
        channels: C.
        size_multiple: of width and height, when it is not vae_scale.

    Raises:
        InvalidInputError: a size, latents or mask that do not fit; names the value and the limit.
    """
    multiple = vae_scale if size_multiple is None else size_multiple
    for name, side in (("width", request.width), ("height", request.height)):
        if side < multiple or side % multiple:
            raise InvalidInputError(
                f"{name} is {side}, must be a multiple of {multiple}",
                hint=f"Use {max(round(side / multiple), 1) * multiple}.",
            )
    inner = (request.height // vae_scale, request.width // vae_scale, channels)
    batch = conditioning.batch_size if request.latents is None else len(request.latents)
    given = request.latents if request.latents is not None else np.empty((batch, *inner))
    if given.shape != (batch, *inner) or batch % conditioning.batch_size:
        raise InvalidInputError(
            f"latents have shape {tuple(given.shape)}, need {('B', *inner)} with B a multiple of "
            f"{conditioning.batch_size}"
        )
    for name, array, last in (("image_latents", request.image_latents, channels), ("mask", request.mask, 1)):
        if array is not None and tuple(array.shape[-3:]) not in ((*inner[:2], last), inner):
            raise InvalidInputError(
                f"{name} has shape {tuple(array.shape)}, need {(*inner[:2], last)} for "
                f"{request.width}x{request.height}"
            )
    return (batch, *inner)


def sample(
    request: DenoiseRequest,
    scheduler: Scheduler,
    predict: Callable[[mx.array, float], mx.array],
    *,
    shape: tuple[int, ...],
) -> Iterator[DenoiseStep]:
    """Start latents (noise, or a picture brought to a noise level), then the denoising loop.

    Args:
        request: settings; checked now, worked on when iterated.
        scheduler: planned for this run.
        predict: (scaled latents, timestep) -> model output after guidance.
        shape: from `latent_shape`.

    Raises:
        InvalidInputError: a mask without a picture, or a strength outside 0..1.
    """
    unit = start_noise(request.seed, shape) if request.latents is None else request.latents
    unit_noise = mx.array(np.asarray(unit, dtype=np.float32))
    start_index = _start_index(request, len(scheduler.timesteps))
    return _run(request, scheduler, predict, unit_noise, start_index)


def _run(
    request: DenoiseRequest,
    scheduler: Scheduler,
    predict: Callable[[mx.array, float], mx.array],
    unit_noise: mx.array,
    start_index: int,
) -> Iterator[DenoiseStep]:
    latents = unit_noise * scheduler.init_noise_sigma
    blend = None
    if request.image_latents is not None:
        image = mx.broadcast_to(mx.array(request.image_latents), unit_noise.shape)
        if start_index >= len(scheduler.timesteps):
            yield DenoiseStep(0, 1, np.array(image), np.array(image))
            return
        # A mask at full strength starts from noise alone, as in diffusers.
        if request.mask is None or start_index > 0:
            latents = scheduler.add_noise(image, unit_noise, start_index)
        blend = _blend_with(image, unit_noise, request.mask, scheduler)
    yield from run_denoising(
        predict,
        scheduler,
        latents,
        noise=step_noise(request.seed) if request.noise is None else request.noise,
        start_index=start_index,
        after_step=blend,
    )


def _guidance_embedding(guidance_scale: float, width: int, batch: int) -> mx.array:
    """The guidance input of LCM UNets (Luo et al. 2023): [B, width] of 1000 (scale - 1), sines first."""
    values = mx.full((batch,), (guidance_scale - 1.0) * 1000.0, dtype=mx.float32)
    return sinusoidal_embedding(values, width, cosine_first=False, frequency_shift=1.0)


def _rescale_guidance(combined: mx.array, conditional: mx.array, factor: float) -> mx.array:
    """Pulls the standard deviation back to the conditional's (Lin et al. 2024, section 3.4)."""
    if factor == 0.0:
        return combined
    axes = tuple(range(1, combined.ndim))
    ratio = mx.std(conditional, axis=axes, keepdims=True, ddof=1) / mx.std(
        combined, axis=axes, keepdims=True, ddof=1
    )
    return factor * combined * ratio + (1 - factor) * combined


def _start_index(request: DenoiseRequest, total: int) -> int:
    """Where in the schedule a run starts: 0, or later the weaker `strength` is."""
    if request.image_latents is None:
        if request.mask is not None:
            raise InvalidInputError("mask without image", hint="Give the picture to paint on as image.")
        return 0
    strength = request.strength
    if strength is None:
        strength = 0.8 if request.mask is None else 1.0
    if not 0.0 <= strength <= 1.0:
        raise InvalidInputError(f"strength is {strength}, must be in 0..1")
    if strength == 0.0:
        return total
    return request.steps - max(min(int(request.steps * strength), request.steps), 1)


def _blend_with(
    image: mx.array, unit_noise: mx.array, mask: Latents | None, scheduler: Scheduler
) -> Callable[[mx.array, int], mx.array] | None:
    """Keeps the picture where the mask is 0, at each step's noise level."""
    if mask is None:
        return None
    weights = mx.array(np.asarray(mask, dtype=np.float32))

    def blend(latents: mx.array, next_index: int) -> mx.array:
        at_end = next_index >= len(scheduler.timesteps)
        kept = image if at_end else scheduler.add_noise(image, unit_noise, next_index)
        return weights * latents + (1 - weights) * kept

    return blend
