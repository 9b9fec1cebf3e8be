"""A sampler planned for one run: noise levels, what the network predicts, and the function that takes a step.

A sampler is a function from the predicted x0 (or epsilon) and the sample to the next sample, as in
k-diffusion. What the network predicts is turned into x0 and epsilon here, once for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray

_PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class StepInput:
    """What a sampler takes a step from, with x = alpha x0 + sigma epsilon.

    Attributes:
        scheduler: the run.
        index: of the network call, from 0.
        sample: [B, h, w, C], float32: x.
        output: [B, h, w, C], float32: the network's own, after guidance.
        denoised: [B, h, w, C]: the predicted x0.
        epsilon: [B, h, w, C]: the predicted noise.
        noise: unit-normal, same shape; None where none was drawn.
        history: of the previous step's result; None at the first.
    """

    scheduler: Scheduler
    index: int
    sample: mx.array
    output: mx.array
    denoised: mx.array
    epsilon: mx.array
    noise: mx.array | None = None
    history: Any = None


@dataclass(frozen=True)
class SchedulerStep:
    """One step's result.

    Attributes:
        latents: [B, h, w, C], float32: the sample at the next noise level.
        denoised: [B, h, w, C], float32: the predicted x0.
        history: what the next step needs of this one; opaque to the caller.
    """

    latents: mx.array
    denoised: mx.array
    history: Any = None


Sampler = Callable[[StepInput], SchedulerStep]


@dataclass(frozen=True)
class Scheduler:
    """A run of N network calls; `index` counts them from 0.

    Attributes:
        sampler: takes the steps.
        timesteps: [N]: the timestep the network is given at each call.
        alphas: [N + 1]: signal factor at each call and at the end.
        sigmas: [N + 1]: noise factor.
        prediction_type: "epsilon", "v_prediction" (Salimans and Ho 2022), "sample" or "flow" (velocity).
        init_noise_sigma: what unit-normal start noise is multiplied by.
        noise_calls: the indices at which `step` uses fresh noise.
        calls_per_step: network calls that a step of the user's count makes (the last step may make fewer).
        scales_input: whether the network was trained on x / sqrt(alpha^2 + sigma^2).
        clip_range: x0 is clipped to plus-minus this; None for latents.
        sigma_data: deviation of the data in EDM's preconditioning (Karras et al. 2022, section 5), under
            which the network predicts neither noise nor velocity; None without it.

    Raises:
        UnsupportedModelError: another prediction type.
    """

    sampler: Sampler
    timesteps: FloatArray
    alphas: FloatArray
    sigmas: FloatArray
    prediction_type: str
    init_noise_sigma: float = 1.0
    noise_calls: frozenset[int] = frozenset()
    calls_per_step: int = 1
    scales_input: bool = False
    clip_range: float | None = None
    sigma_data: float | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in _PREDICTION_TYPES:
            raise UnsupportedModelError(f"prediction_type {self.prediction_type!r} is not supported")

    @property
    def needs_noise(self) -> bool:
        """Whether any call uses fresh noise."""
        return bool(self.noise_calls)

    def level(self, index: int) -> tuple[float, float]:
        """(alpha, sigma) at a call; index N is the end of the run."""
        return float(self.alphas[index]), float(self.sigmas[index])

    def _variance(self, index: int) -> float:
        """Of the sample relative to what the network was trained on."""
        alpha, sigma = self.level(index)
        data = 1.0 if self.sigma_data is None else self.sigma_data
        return (data * alpha) ** 2 + sigma**2 if self.scales_input else 1.0

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """The sample as the network takes it at this noise level."""
        return latents / math.sqrt(self._variance(index)) if self.scales_input else latents

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: Any = None,
    ) -> SchedulerStep:
        """Goes from the noise level of `index` to the next.

        Args:
            model_output: [B, h, w, C], float32, after guidance.
            latents: [B, h, w, C], float32.
            index: of the network call.
            noise: unit-normal, same shape; needed at `noise_calls`.
            history: what the previous step returned; None at the first.
        """
        denoised, epsilon = self._predict(model_output, latents, index)
        if self.clip_range is not None:
            denoised = mx.clip(denoised, -self.clip_range, self.clip_range)
        return self.sampler(
            StepInput(self, index, latents, model_output, denoised, epsilon, noise=noise, history=history)
        )

    def _predict(self, output: mx.array, latents: mx.array, index: int) -> tuple[mx.array, mx.array]:
        """(x0, epsilon) from the network's output, whatever it was trained to predict."""
        alpha, sigma = self.level(index)
        if self.sigma_data is not None:
            sign = 1.0 if self.prediction_type == "epsilon" else -1.0
            variance = self._variance(index)
            scale = sign * sigma * self.sigma_data / math.sqrt(variance)
            denoised = (self.sigma_data**2 / variance) * latents + scale * output
            return denoised, (latents - alpha * denoised) / sigma
        if self.prediction_type == "epsilon":
            return (latents - sigma * output) / alpha, output
        if self.prediction_type == "flow":
            return latents - sigma * output, latents + alpha * output
        if self.prediction_type == "sample":
            return output, (latents - alpha * output) / sigma
        variance = self._variance(index)
        deviation = math.sqrt(variance)
        denoised = alpha * latents / variance - (sigma / deviation) * output
        return denoised, (alpha / deviation) * output + sigma * latents / variance

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """Clean latents brought to the noise level of `index`; index N gives the end of the run."""
        alpha, sigma = self.level(index)
        return alpha * latents + sigma * noise


def variance_preserving(
    sampler: Sampler, timesteps: FloatArray, alphas_cumprod: FloatArray, prediction_type: str, **options: Any
) -> Scheduler:
    """A run with alpha^2 + sigma^2 = 1 that ends without noise.

    Args:
        sampler: takes the steps.
        timesteps: [N].
        alphas_cumprod: [N], at each timestep.
        prediction_type: see `Scheduler`.
        options: further attributes of `Scheduler`.
    """
    signal = np.append(alphas_cumprod, 1.0)
    return Scheduler(sampler, timesteps, np.sqrt(signal), np.sqrt(1 - signal), prediction_type, **options)
