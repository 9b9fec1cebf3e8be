"""DDIM (Song et al. 2021), deterministic (eta 0)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions, split_prediction
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep


@dataclass(frozen=True)
class DDIMScheduler:
    """Steps along equation 12 of the paper.

    Attributes:
        timesteps: [N], whole numbers.
        alphas: [N], alphas_cumprod at each timestep.
        alphas_prev: [N], alphas_cumprod at the next one.
        prediction_type: what the network predicts.
        clip_range: x0 is clipped to plus-minus this; None for latents.
    """

    timesteps: FloatArray
    alphas: FloatArray
    alphas_prev: FloatArray
    prediction_type: str
    clip_range: float | None = None
    init_noise_sigma: float = 1.0
    needs_noise: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> DDIMScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`."""
        options = ScheduleOptions.from_config(config, clip_sample=True)
        alphas_cumprod = options.make_alphas_cumprod()
        timesteps = np.round(options.make_timesteps(steps))
        final = 1.0 if options.set_alpha_to_one else float(alphas_cumprod[0])
        at = timesteps.astype(int)
        before = at - options.num_train_timesteps // steps
        return cls(
            timesteps=timesteps,
            alphas=alphas_cumprod[np.minimum(at, len(alphas_cumprod) - 1)],
            alphas_prev=np.where(before >= 0, alphas_cumprod[np.maximum(before, 0)], final),
            prediction_type=options.prediction_type,
            clip_range=options.clip_sample_range if options.clip_sample else None,
        )

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
        """X' = sqrt(a') x0 + sqrt(1 - a') epsilon."""
        alpha, alpha_prev = float(self.alphas[index]), float(self.alphas_prev[index])
        denoised, epsilon = split_prediction(
            self.prediction_type, model_output, latents, alpha=math.sqrt(alpha), sigma=math.sqrt(1 - alpha)
        )
        if self.clip_range is not None:
            denoised = mx.clip(denoised, -self.clip_range, self.clip_range)
        return SchedulerStep(math.sqrt(alpha_prev) * denoised + math.sqrt(1 - alpha_prev) * epsilon, denoised)

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """sqrt(a) x0 + sqrt(1 - a) noise; at the end x0 itself."""
        if index >= len(self.alphas):
            return latents
        alpha = float(self.alphas[index])
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise
