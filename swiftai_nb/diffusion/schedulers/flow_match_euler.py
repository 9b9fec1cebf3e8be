"""Euler steps of rectified flow (Esser et al. 2024; FLUX): x = (1 - sigma) x0 + sigma noise."""

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
    dynamic_shift,
    flow_sigmas,
    karras_sigmas,
)
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep


@dataclass(frozen=True)
class FlowMatchEulerScheduler:
    """Follows the velocity the network predicts.

    Attributes:
        timesteps: [N], 1000 sigma.
        sigmas: [N + 1], from 1 to 0.
    """

    timesteps: FloatArray
    sigmas: FloatArray
    init_noise_sigma: float = 1.0
    needs_noise: bool = False

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], steps: int, *, sequence_length: int = 4096
    ) -> FlowMatchEulerScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`.

        Args:
            config: with `use_dynamic_shifting` the shift grows with the picture.
            steps: at least 1.
            sequence_length: number of latent tokens of the picture.

        Raises:
            UnsupportedModelError: stochastic or inverted flow matching.
        """
        options = ScheduleOptions.from_config(config)
        if config.get("stochastic_sampling") or config.get("invert_sigmas"):
            raise UnsupportedModelError("stochastic or inverted flow matching is not supported")
        options.check_steps(steps)
        sigmas = flow_sigmas(steps, shift=options.shift, mu=_mu(options, sequence_length))
        if options.shift_terminal:
            sigmas = 1 - (1 - sigmas) * (1 - options.shift_terminal) / (1 - sigmas[-1])
        if options.use_karras_sigmas:
            sigmas = karras_sigmas(float(sigmas[-1]), float(sigmas[0]), steps)
        return cls(timesteps=sigmas * options.num_train_timesteps, sigmas=np.append(sigmas, 0.0))

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
        """X' = x + (sigma' - sigma) v, x0 = x - sigma v."""
        sigma, sigma_next = (float(s) for s in self.sigmas[index : index + 2])
        return SchedulerStep(latents + (sigma_next - sigma) * model_output, latents - sigma * model_output)

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """(1 - sigma) x0 + sigma noise."""
        sigma = float(self.sigmas[index])
        return (1 - sigma) * latents + sigma * noise


def _mu(options: ScheduleOptions, sequence_length: int) -> float | None:
    """The logarithm of the shift, or None for the config's constant shift."""
    if not options.use_dynamic_shifting:
        return None
    mu = dynamic_shift(
        sequence_length,
        base_seq_len=options.base_image_seq_len,
        max_seq_len=options.max_image_seq_len,
        base_shift=options.base_shift,
        max_shift=options.max_shift,
    )
    if options.time_shift_type == "linear":
        return math.log(mu)
    return mu
