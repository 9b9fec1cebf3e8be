"""Latent consistency sampling (Luo et al. 2023): predict x0, add noise back, repeat a few times."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions, split_prediction
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep

_SIGMA_DATA = 0.5


@dataclass(frozen=True)
class LCMScheduler:
    """Multistep consistency sampling.

    Attributes:
        timesteps: [N], from the distillation's own schedule.
        alphas: [N], alphas_cumprod at each.
        prediction_type: what the network predicts.
        timestep_scaling: s in the boundary conditions.
        clip_range: x0 is clipped to plus-minus this; None for latents.
    """

    timesteps: FloatArray
    alphas: FloatArray
    prediction_type: str
    timestep_scaling: float
    clip_range: float | None = None
    init_noise_sigma: float = 1.0

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> LCMScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`.

        Raises:
            InvalidInputError: more steps than the distillation had.
        """
        options = ScheduleOptions.from_config(
            config, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        original = options.original_inference_steps
        if not 1 <= steps <= original:
            raise InvalidInputError(f"steps is {steps}, must be in 1..{original} with the LCM scheduler")
        stride = options.num_train_timesteps // original
        distilled = (np.arange(1, original + 1) * stride - 1)[::-1]
        picked = distilled[np.floor(np.linspace(0, original, num=steps, endpoint=False)).astype(int)]
        return cls(
            timesteps=picked.astype(np.float64),
            alphas=options.make_alphas_cumprod()[picked],
            prediction_type=options.prediction_type,
            timestep_scaling=options.timestep_scaling,
            clip_range=options.clip_sample_range if options.clip_sample else None,
        )

    @property
    def needs_noise(self) -> bool:
        """Fresh noise follows every step but the last."""
        return True

    def scale_model_input(self, latents: mx.array, index: int) -> mx.array:
        """The latents unchanged."""
        return latents

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: Any = None,
    ) -> SchedulerStep:
        """x0 by the consistency function, then noise of the next level."""
        alpha = float(self.alphas[index])
        predicted, _ = split_prediction(
            self.prediction_type, model_output, latents, alpha=math.sqrt(alpha), sigma=math.sqrt(1 - alpha)
        )
        if self.clip_range is not None:
            predicted = mx.clip(predicted, -self.clip_range, self.clip_range)
        c_skip, c_out = _boundary_conditions(float(self.timesteps[index]) * self.timestep_scaling)
        denoised = c_out * predicted + c_skip * latents
        if index == len(self.timesteps) - 1 or noise is None:
            return SchedulerStep(denoised, denoised)
        alpha_next = float(self.alphas[index + 1])
        return SchedulerStep(math.sqrt(alpha_next) * denoised + math.sqrt(1 - alpha_next) * noise, denoised)

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """sqrt(a) x0 + sqrt(1 - a) noise; at the end x0 itself."""
        if index >= len(self.alphas):
            return latents
        alpha = float(self.alphas[index])
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise


def _boundary_conditions(scaled_timestep: float) -> tuple[float, float]:
    """c_skip and c_out: the identity at timestep 0 (section 3 of the paper)."""
    total = scaled_timestep**2 + _SIGMA_DATA**2
    return _SIGMA_DATA**2 / total, scaled_timestep / math.sqrt(total)
