"""The middle of every pipeline: start latents, the denoising loop, blending with a given picture."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import count_run_steps
from swiftai_nb.diffusion.noise import start_noise, step_noise
from swiftai_nb.diffusion.schedulers.scheduler import Scheduler
from swiftai_nb.model_files.samplers import canonical_name

FLOW_SAMPLER = "flow-match-euler"
Latents = NDArray[np.float32]
NoiseSource = Callable[[int, tuple[int, ...]], Any]
# (scaled latents [B, h, w, C], timestep) -> model output after guidance, the same shape, float32
Predict = Callable[[mx.array, float], mx.array]


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt, evaluated.

    Attributes:
        prompt_embeds: [B, L, D].
        negative_prompt_embeds: [B, L, D], or None when guidance is off.
        pooled_prompt_embeds: [B, P], or None for families without it.
        negative_pooled_prompt_embeds: [B, P], or None.
        guidance_scale: of classifier-free guidance, or of the guidance embedding of distilled models.
        prompt_lengths: tokens of each prompt, where L is the longest one's and the rest of a row is zeros;
            None where all L count.
        negative_prompt_lengths: as prompt_lengths.
        and_weights: of n prompts that are followed at the same time (composable diffusion, Liu et al. 2022):
            prompt_embeds and pooled_prompt_embeds then have n rows, of one picture. Empty for one prompt.
        changes: of a prompt that is edited during the run: (first step, 0-based, counted from the first one
            that runs; the conditioning from there on), in order. Empty for other prompts.
        notes: for the user, e.g. which part of the prompt was cut.
    """

    prompt_embeds: mx.array
    negative_prompt_embeds: mx.array | None = None
    pooled_prompt_embeds: mx.array | None = None
    negative_pooled_prompt_embeds: mx.array | None = None
    guidance_scale: float = 1.0
    prompt_lengths: tuple[int, ...] | None = None
    negative_prompt_lengths: tuple[int, ...] | None = None
    and_weights: tuple[float, ...] = ()
    changes: tuple[tuple[int, Conditioning], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def final(self) -> Conditioning:
        """What the prompt is in the last step."""
        return self.changes[-1][1] if self.changes else self

    @property
    def batch_size(self) -> int:
        """B, the number of pictures."""
        return int(self.prompt_embeds.shape[0]) // max(1, len(self.and_weights))

    def evaluated(self) -> Conditioning:
        """Itself, with every array computed, so that the text encoders can be released."""
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
    reference_latents: tuple[Latents, ...] = ()
    eta: float | None = None
    masked_image_latents: Latents | None = None
    image_guidance_scale: float | None = None
    controls: tuple[Any, ...] = ()


def run_denoising(
    predict: Predict,
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
        noise: (number of the draw in this run, shape) -> unit-normal array, for stochastic samplers.
        start_index: first index of the schedule to run (image to image starts later).
        after_step: (latents, next index) -> latents, e.g. blending for inpainting.

    Yields:
        One evaluated `DenoiseStep` per network call.
    """
    total = len(scheduler.timesteps) - start_index
    history: Any = None
    draws = itertools.count()
    for position in range(total):
        index = start_index + position
        model_input = scheduler.scale_model_input(latents, index)
        model_output = predict(model_input, float(scheduler.timesteps[index]))
        fresh = noise(next(draws), tuple(latents.shape)) if index in scheduler.noise_calls else None
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
                hint=f"use {max(round(side / multiple), 1) * multiple}",
            )
    inner = (request.height // vae_scale, request.width // vae_scale, channels)
    batch = conditioning.batch_size if request.latents is None else len(request.latents)
    given = request.latents if request.latents is not None else np.empty((batch, *inner))
    if given.shape != (batch, *inner) or batch % conditioning.batch_size:
        raise InvalidInputError(
            f"latents have shape {tuple(given.shape)}, need {('B', *inner)} with B a multiple of "
            f"{conditioning.batch_size}"
        )
    given_arrays = (
        ("image_latents", request.image_latents, channels),
        ("masked_image_latents", request.masked_image_latents, channels),
        ("mask", request.mask, 1),
    )
    for name, array, last in given_arrays:
        if array is not None and tuple(array.shape[-3:]) not in ((*inner[:2], last), inner):
            raise InvalidInputError(
                f"{name} has shape {tuple(array.shape)}, need {(*inner[:2], last)} for "
                f"{request.width}x{request.height}"
            )
    return (batch, *inner)


def sample(
    request: DenoiseRequest,
    scheduler: Scheduler,
    predict: Predict,
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
    start_index = find_start_index(request, scheduler)
    return _run(request, scheduler, predict, unit_noise, start_index)


def flow_request(request: DenoiseRequest) -> DenoiseRequest:
    """A request to a flow model, with the strength at which it runs as many steps as in diffusers.

    Its flow pipelines leave out int(steps - steps * strength) steps: with a broken number they run one more
    than the shared rule, int(steps * strength).

    Raises:
        InvalidInputError: a sampler that is not for flow models.
    """
    name, strength, steps = request.scheduler, request.strength, request.steps
    if name is not None and canonical_name(name) != FLOW_SAMPLER:
        raise InvalidInputError(
            f"scheduler {name!r} does not fit this model, which is a flow model", hint=f"use {FLOW_SAMPLER}"
        )
    if strength is None or not 0.0 < strength < 1.0:
        return request
    runs = steps - int(steps - steps * strength)
    return replace(request, strength=min(1.0, (runs + 0.5) / steps))


def rescale_guidance(combined: mx.array, conditional: mx.array, factor: float) -> mx.array:
    """Pulls the standard deviation back to the conditional's (Lin et al. 2024, section 3.4).

    Args:
        combined: [B, h, w, C], after guidance.
        conditional: the same shape, with the prompt.
        factor: 0 (nothing) to 1.
    """
    if factor == 0.0:
        return combined
    axes = tuple(range(1, combined.ndim))
    ratio = mx.std(conditional, axis=axes, keepdims=True, ddof=1) / mx.std(
        combined, axis=axes, keepdims=True, ddof=1
    )
    return factor * combined * ratio + (1 - factor) * combined


def _run(
    request: DenoiseRequest,
    scheduler: Scheduler,
    predict: Predict,
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


def find_start_index(request: DenoiseRequest, scheduler: Scheduler) -> int:
    """Where in the schedule a run starts: 0, or later the weaker `strength` is.

    Raises:
        InvalidInputError: a mask without a picture, or a strength outside 0..1.
    """
    if request.image_latents is None:
        if request.mask is not None:
            raise InvalidInputError("mask without image", hint="give the picture to paint on as image")
        return 0
    strength = request.strength
    if strength is None:
        strength = 0.8 if request.mask is None else 1.0
    if not 0.0 <= strength <= 1.0:
        raise InvalidInputError(f"strength is {strength}, must be in 0..1")
    if strength == 0.0:
        return len(scheduler.timesteps)
    return (request.steps - count_run_steps(request.steps, strength)) * scheduler.calls_per_step


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
