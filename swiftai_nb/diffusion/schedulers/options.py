"""The fields of `scheduler_config.json` that the samplers share, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import (
    FloatArray,
    leading_timesteps,
    linspace_timesteps,
    make_alphas_cumprod,
    make_betas,
    rescale_zero_terminal_snr,
    trailing_timesteps,
)

_SWITCHES_WE_LACK = ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas")


@dataclass(frozen=True)
class ScheduleOptions:
    """Fields of a scheduler's config; absent ones take the named sampler's defaults, as in diffusers."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = False
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    use_karras_sigmas: bool = False
    interpolation_type: str = "linear"
    final_sigmas_type: str = "zero"
    skip_prk_steps: bool = False
    algorithm_type: str = "dpmsolver++"
    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    use_lu_lambdas: bool = False
    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float = 0.5
    max_shift: float = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    shift_terminal: float | None = None
    time_shift_type: str = "exponential"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **sampler_defaults: Any) -> ScheduleOptions:
        """Reads a config over the defaults of one sampler.

        Raises:
            UnsupportedModelError: the config switches on something no sampler here has.
        """
        lacking = [name for name in _SWITCHES_WE_LACK if config.get(name)]
        if lacking:
            raise UnsupportedModelError(f"scheduler_config.json asks for {', '.join(lacking)}: not supported")
        names = {f.name for f in fields(cls)}
        taken = {k: v for k, v in config.items() if k in names and v is not None}
        if "trained_betas" in taken:
            taken["trained_betas"] = tuple(taken["trained_betas"])
        return cls(**{**sampler_defaults, **taken})

    def check_steps(self, steps: int) -> None:
        """Refuses a number of steps this schedule cannot be cut into.

        Raises:
            InvalidInputError: fewer than 1 or more than the training had.
        """
        if not 1 <= steps <= self.num_train_timesteps:
            raise InvalidInputError(f"steps is {steps}, must be in 1..{self.num_train_timesteps}")

    def make_alphas_cumprod(self) -> FloatArray:
        """Cumulative products of 1 - beta, [T], with zero terminal SNR where asked for."""
        if self.trained_betas is not None:
            betas = np.asarray(self.trained_betas, dtype=np.float32).astype(np.float64)
        else:
            betas = make_betas(
                self.beta_schedule,
                beta_start=self.beta_start,
                beta_end=self.beta_end,
                num_train_timesteps=self.num_train_timesteps,
            )
        return make_alphas_cumprod(rescale_zero_terminal_snr(betas) if self.rescale_betas_zero_snr else betas)

    def make_timesteps(self, steps: int) -> FloatArray:
        """[steps], decreasing, spaced as the config says.

        Raises:
            UnsupportedModelError: another spacing.
        """
        self.check_steps(steps)
        count = self.num_train_timesteps
        if self.timestep_spacing == "leading":
            return leading_timesteps(steps, num_train_timesteps=count, steps_offset=self.steps_offset)
        if self.timestep_spacing == "trailing":
            return trailing_timesteps(steps, num_train_timesteps=count)
        if self.timestep_spacing == "linspace":
            return linspace_timesteps(steps, num_train_timesteps=count)
        raise UnsupportedModelError(f"timestep_spacing {self.timestep_spacing!r} is not supported")


def split_prediction(
    prediction_type: str, model_output: mx.array, sample: mx.array, *, alpha: float, sigma: float
) -> tuple[mx.array, mx.array]:
    """x0 and epsilon from what the network predicts for x = alpha x0 + sigma epsilon.

    Args:
        prediction_type: "epsilon", "sample" or "v_prediction" (Salimans and Ho 2022).
        model_output: [B, h, w, C].
        sample: x, [B, h, w, C].
        alpha: signal factor, alpha^2 + sigma^2 = 1.
        sigma: noise factor.

    Raises:
        UnsupportedModelError: another prediction type.
    """
    if prediction_type == "epsilon":
        return (sample - sigma * model_output) / alpha, model_output
    if prediction_type == "v_prediction":
        return alpha * sample - sigma * model_output, alpha * model_output + sigma * sample
    if prediction_type == "sample":
        return model_output, (sample - alpha * model_output) / sigma
    raise UnsupportedModelError(f"prediction_type {prediction_type!r} is not supported")
