"""DPM-Solver++ 2M (Lu et al. 2022): a second-order multistep on x0."""

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
from swiftai_nb.diffusion.schedulers.options import ScheduleOptions, split_prediction
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep


@dataclass(frozen=True)
class DPMSolverMultistepScheduler:
    """Samples x = alpha x0 + sigma epsilon with lambda = log(alpha / sigma) as time.

    Attributes:
        timesteps: [N], whole numbers.
        sigmas: [N + 1], sigma / alpha at each; the last 0 or the smallest of training.
        options: prediction type, order and what happens at the last step.
    """

    timesteps: FloatArray
    sigmas: FloatArray
    options: ScheduleOptions
    init_noise_sigma: float = 1.0
    needs_noise: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> DPMSolverMultistepScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`.

        Raises:
            UnsupportedModelError: a member of the solver's family other than 2M (or its first order).
        """
        options = ScheduleOptions.from_config(config, timestep_spacing="linspace")
        _refuse_relatives(options)
        options.check_steps(steps)
        alphas_cumprod = options.make_alphas_cumprod()
        if options.rescale_betas_zero_snr:
            alphas_cumprod[-1] = 2.0**-24
        train_sigmas = sigmas_from_alphas(alphas_cumprod)
        if options.use_karras_sigmas:
            sigmas = karras_sigmas(float(train_sigmas[0]), float(train_sigmas[-1]), steps)
            timesteps = timesteps_from_sigmas(sigmas, train_sigmas)
            if options.beta_schedule != "squaredcos_cap_v2":
                timesteps = np.round(timesteps)
            timesteps = np.trunc(timesteps)
        else:
            timesteps = _timesteps(options, steps, _usable_timesteps(config, train_sigmas))
            sigmas = np.interp(timesteps, np.arange(len(train_sigmas)), train_sigmas)
        last = float(train_sigmas[0]) if options.final_sigmas_type == "sigma_min" else 0.0
        return cls(timesteps, np.append(sigmas, last), options)

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
        history: mx.array | None = None,
    ) -> SchedulerStep:
        """Second order where a previous x0 is known and the end is not reached; first order otherwise."""
        alpha, sigma = _alpha_sigma(float(self.sigmas[index]))
        denoised, _ = split_prediction(
            self.options.prediction_type, model_output, latents, alpha=alpha, sigma=sigma
        )
        alpha_next, sigma_next = _alpha_sigma(float(self.sigmas[index + 1]))
        h = _log_snr(alpha_next, sigma_next) - _log_snr(alpha, sigma)
        factor = alpha_next * (math.exp(-h) - 1.0)
        moved = (sigma_next / sigma) * latents - factor * denoised
        if history is not None and self.options.solver_order > 1 and not self._is_lower_order(index):
            slope = self._slope(denoised, history, index, h)
            if self.options.solver_type == "heun":
                moved = moved + alpha_next * ((math.exp(-h) - 1.0) / h + 1.0) * slope
            else:
                moved = moved - 0.5 * factor * slope
        return SchedulerStep(moved, denoised, denoised)

    def _slope(self, denoised: mx.array, previous: mx.array, index: int, h: float) -> mx.array:
        """Finite difference of x0 over lambda, in units of this step."""
        now = _log_snr(*_alpha_sigma(float(self.sigmas[index])))
        before = _log_snr(*_alpha_sigma(float(self.sigmas[index - 1])))
        return (denoised - previous) * (h / (now - before))

    def _is_lower_order(self, index: int) -> bool:
        options, total = self.options, len(self.timesteps)
        return index == total - 1 and (
            options.euler_at_final
            or (options.lower_order_final and total < 15)
            or options.final_sigmas_type == "zero"
        )

    def add_noise(self, latents: mx.array, noise: mx.array, index: int) -> mx.array:
        """Alpha x0 + sigma noise."""
        alpha, sigma = _alpha_sigma(float(self.sigmas[index]))
        return alpha * latents + sigma * noise


def _refuse_relatives(options: ScheduleOptions) -> None:
    if options.algorithm_type != "dpmsolver++" or options.use_lu_lambdas:
        kind = "lu_lambdas" if options.use_lu_lambdas else options.algorithm_type
        raise UnsupportedModelError(f"DPM solver of type {kind!r} is not supported, only dpmsolver++")
    if options.solver_order not in (1, 2) or options.solver_type not in ("midpoint", "heun"):
        raise UnsupportedModelError(
            f"DPM solver of order {options.solver_order} and type {options.solver_type!r} is not supported"
        )


def _usable_timesteps(config: Mapping[str, Any], train_sigmas: FloatArray) -> int:
    """How many training timesteps have a log signal-to-noise ratio above `lambda_min_clipped`."""
    lowest = config.get("lambda_min_clipped")
    if lowest is None:
        return len(train_sigmas)
    rising = -np.log(train_sigmas)[::-1]
    return len(train_sigmas) - int(np.searchsorted(rising, float(lowest)))


def _timesteps(options: ScheduleOptions, steps: int, usable: int) -> FloatArray:
    """[steps], falling; unlike the other samplers cut from steps + 1 points."""
    if options.timestep_spacing == "linspace":
        return np.round(np.linspace(0, usable - 1, steps + 1))[::-1][:-1]
    if options.timestep_spacing == "leading":
        points = np.arange(steps + 1, dtype=np.float64) * (usable // (steps + 1))
        return points[::-1][:-1] + options.steps_offset
    if options.timestep_spacing == "trailing":
        return np.round(np.arange(usable, 0, -options.num_train_timesteps / steps)) - 1
    raise UnsupportedModelError(f"timestep_spacing {options.timestep_spacing!r} is not supported")


def _alpha_sigma(ratio: float) -> tuple[float, float]:
    alpha = 1 / math.sqrt(ratio**2 + 1)
    return alpha, ratio * alpha


def _log_snr(alpha: float, sigma: float) -> float:
    return math.inf if sigma == 0 else math.log(alpha) - math.log(sigma)
