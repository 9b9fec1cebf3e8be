"""The part Euler, Euler ancestral and LMS share: a falling list of sigmas and x = x0 + sigma noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import (
    FloatArray,
    karras_sigmas,
    sigmas_from_alphas,
    timesteps_from_sigmas,
)
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions


@dataclass(frozen=True)
class SigmaPlan:
    """Timesteps and sigmas of one run.

    Attributes:
        timesteps: [N].
        sigmas: [N + 1], the last one 0 (or the smallest of training).
        init_noise_sigma: factor of the start noise.
        prediction_type: what the network predicts.
    """

    timesteps: FloatArray
    sigmas: FloatArray
    init_noise_sigma: float
    prediction_type: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> SigmaPlan:
        """Plans `steps` steps; spacing defaults to "linspace" as in these samplers.

        Raises:
            UnsupportedModelError: another interpolation of sigmas.
        """
        options = ScheduleOptions.from_config(config, timestep_spacing="linspace")
        alphas_cumprod = options.make_alphas_cumprod()
        if options.rescale_betas_zero_snr:
            # The last alpha is zero; a sigma must stay finite.
            alphas_cumprod[-1] = 2.0**-24
        train_sigmas = sigmas_from_alphas(alphas_cumprod)
        timesteps = options.make_timesteps(steps)
        sigmas = _interpolate(options, timesteps, train_sigmas, steps)
        if options.use_karras_sigmas:
            sigmas = karras_sigmas(float(sigmas[-1]), float(sigmas[0]), steps)
            timesteps = timesteps_from_sigmas(sigmas, train_sigmas)
        last = float(train_sigmas[0]) if options.final_sigmas_type == "sigma_min" else 0.0
        largest = float(sigmas.max())
        leading = options.timestep_spacing == "leading"
        return cls(
            timesteps=timesteps,
            sigmas=np.append(sigmas, last),
            init_noise_sigma=math.sqrt(largest**2 + 1) if leading else largest,
            prediction_type=options.prediction_type,
        )

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """X / sqrt(sigma^2 + 1): the variance-preserving sample the network was trained on."""
        return latents / math.sqrt(float(self.sigmas[index]) ** 2 + 1)

    def denoise(self, model_output: mx.array, latents: mx.array, index: int) -> mx.array:
        """The predicted x0.

        Raises:
            UnsupportedModelError: another prediction type.
        """
        sigma = float(self.sigmas[index])
        if self.prediction_type == "epsilon":
            return latents - sigma * model_output
        if self.prediction_type == "v_prediction":
            return latents / (sigma**2 + 1) - model_output * (sigma / math.sqrt(sigma**2 + 1))
        if self.prediction_type == "sample":
            return model_output
        raise UnsupportedModelError(f"prediction_type {self.prediction_type!r} is not supported")

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """x0 + sigma noise."""
        return latents + float(self.sigmas[index]) * noise


@dataclass(frozen=True)
class SigmaSampler:
    """All of `Scheduler` but `step`, for samplers that walk down the sigmas of a plan."""

    plan: SigmaPlan
    needs_noise: bool = False

    @property
    def timesteps(self) -> FloatArray:
        """[N]: what the network is given."""
        return self.plan.timesteps

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the start noise."""
        return self.plan.init_noise_sigma

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """X / sqrt(sigma^2 + 1)."""
        return self.plan.scale_model_input(latents, index)

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """x0 + sigma noise."""
        return self.plan.add_noise(latents, noise, index)


def _interpolate(
    options: ScheduleOptions, timesteps: FloatArray, train_sigmas: FloatArray, steps: int
) -> FloatArray:
    if options.interpolation_type == "linear":
        return np.interp(timesteps, np.arange(len(train_sigmas)), train_sigmas)
    if options.interpolation_type == "log_linear":
        ends = np.log(train_sigmas[-1]), np.log(train_sigmas[0])
        # One more than steps, as in diffusers: the run ends at the smallest sigma, not at 0.
        return np.exp(np.linspace(ends[0], ends[1], steps + 1))
    raise UnsupportedModelError(f"interpolation_type {options.interpolation_type!r} is not supported")
