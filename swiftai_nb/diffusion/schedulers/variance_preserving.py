"""Samplers of x = sqrt(a) x0 + sqrt(1 - a) epsilon at whole timesteps: DDIM, DDPM, LCM and TCD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray, ScheduleOptions
from swiftai_nb.diffusion.schedulers.scheduler import (
    Scheduler,
    SchedulerStep,
    StepInput,
    variance_preserving,
)

_SIGMA_DATA = 0.5  # of latent consistency models
_TCD_ETA = 0.3  # "gamma" in the paper
_SMALLEST_VARIANCE = 1e-20


def plan_ddim(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans DDIM."""
    options = ScheduleOptions.from_config(config, clip_sample=True)
    alphas_cumprod = options.make_alphas_cumprod()
    timesteps = np.round(options.make_timesteps(steps))
    final = 1.0 if options.set_alpha_to_one else float(alphas_cumprod[0])
    at = timesteps.astype(int)
    before = at - options.num_train_timesteps // steps
    next_alphas = np.where(before >= 0, alphas_cumprod[np.maximum(before, 0)], final)
    eta = 0.0 if options.eta is None else options.eta
    return variance_preserving(
        partial(ddim, next_alphas=next_alphas, eta=eta),
        timesteps,
        alphas_cumprod[np.minimum(at, len(alphas_cumprod) - 1)],
        options.prediction_type,
        clip_range=options.clip_sample_range if options.clip_sample else None,
        noise_calls=frozenset(range(steps) if eta else ()),
    )


def ddim(step: StepInput, *, next_alphas: FloatArray, eta: float = 0.0) -> SchedulerStep:
    """DDIM (Song et al. 2021, equation 12): x' = sqrt(a') x0 + sqrt(1 - a' - s^2) epsilon + s noise.

    Args:
        step: of the run.
        next_alphas: [N], a' at each call.
        eta: s in units of DDPM's deviation: 0 is deterministic.
    """
    alpha = float(next_alphas[step.index])
    deviation = eta * math.sqrt(_posterior_variance(step, alpha)) if eta else 0.0
    direction = math.sqrt(max(1 - alpha - deviation**2, 0.0))
    moved = math.sqrt(alpha) * step.denoised + direction * step.epsilon
    return SchedulerStep(_with_noise(moved, step, deviation), step.denoised)


def plan_ddpm(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans DDPM over `steps` of the training timesteps.

    Raises:
        UnsupportedModelError: a learned variance.
    """
    options = ScheduleOptions.from_config(config, clip_sample=True)
    if options.variance_type not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise UnsupportedModelError(f"variance_type {options.variance_type!r} is not supported")
    timesteps = np.round(options.make_timesteps(steps))
    return variance_preserving(
        partial(ddpm, is_large=options.variance_type == "fixed_large"),
        timesteps,
        options.make_alphas_cumprod()[timesteps.astype(int)],
        options.prediction_type,
        clip_range=options.clip_sample_range if options.clip_sample else None,
        noise_calls=frozenset(np.flatnonzero(timesteps > 0).tolist()),
    )


def ddpm(step: StepInput, *, is_large: bool) -> SchedulerStep:
    """DDPM (Ho et al. 2020, equations 6 and 7): mean and variance of the posterior q(x' | x, x0).

    Args:
        step: of the run.
        is_large: the variance is beta, the upper bound, instead of the posterior's.
    """
    (alpha, sigma), (next_alpha, next_sigma) = (step.scheduler.level(step.index + i) for i in (0, 1))
    beta = 1 - (alpha / next_alpha) ** 2
    mean = (next_alpha * beta / sigma**2) * step.denoised + (
        alpha / next_alpha * next_sigma**2 / sigma**2
    ) * step.sample
    variance = beta if is_large else max(_posterior_variance(step, next_alpha**2), _SMALLEST_VARIANCE)
    return SchedulerStep(_with_noise(mean, step, math.sqrt(variance)), step.denoised)


def _posterior_variance(step: StepInput, next_alpha_cumprod: float) -> float:
    alpha, sigma = step.scheduler.level(step.index)
    return max((1 - next_alpha_cumprod) / sigma**2 * (1 - alpha**2 / next_alpha_cumprod), 0.0)


def _with_noise(moved: mx.array, step: StepInput, deviation: float) -> mx.array:
    return moved if step.noise is None else moved + deviation * step.noise


def _distilled_timesteps(options: ScheduleOptions, steps: int, name: str) -> NDArray[np.int64]:
    """[steps] of the timesteps that a consistency distillation was made with, decreasing.

    Raises:
        InvalidInputError: more steps than the distillation had.
    """
    original = options.original_inference_steps
    if not 1 <= steps <= original:
        raise InvalidInputError(f"steps is {steps}, must be in 1..{original} with the {name} scheduler")
    stride = options.num_train_timesteps // original
    distilled = (np.arange(1, original + 1) * stride - 1)[::-1]
    picked = np.floor(np.linspace(0, original, num=steps, endpoint=False)).astype(int)
    return np.asarray(distilled[picked], dtype=np.int64)


def plan_lcm(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans latent consistency sampling on the distillation's own schedule.

    Raises:
        InvalidInputError: more steps than the distillation had.
    """
    options = ScheduleOptions.from_config(
        config, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    picked = _distilled_timesteps(options, steps, "LCM")
    return variance_preserving(
        partial(lcm, timestep_scaling=options.timestep_scaling),
        picked.astype(np.float64),
        options.make_alphas_cumprod()[picked],
        options.prediction_type,
        noise_calls=frozenset(range(steps - 1)),
        clip_range=options.clip_sample_range if options.clip_sample else None,
    )


def lcm(step: StepInput, *, timestep_scaling: float) -> SchedulerStep:
    """Latent consistency sampling (Luo et al. 2023): x0, then noise of the next level but at the end."""
    # The boundary conditions c_skip and c_out: the identity at timestep 0 (section 3 of the paper).
    scaled = float(step.scheduler.timesteps[step.index]) * timestep_scaling
    total = scaled**2 + _SIGMA_DATA**2
    denoised = (scaled / math.sqrt(total)) * step.denoised + (_SIGMA_DATA**2 / total) * step.sample
    if step.noise is None:
        return SchedulerStep(denoised, denoised)
    return SchedulerStep(step.scheduler.add_noise(denoised, step.noise, step.index + 1), denoised)


def plan_tcd(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans trajectory consistency sampling on the distillation's own schedule.

    Raises:
        InvalidInputError: more steps than the distillation had.
    """
    options = ScheduleOptions.from_config(
        config, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    picked = _distilled_timesteps(options, steps, "TCD")
    alphas_cumprod = options.make_alphas_cumprod()
    eta = _TCD_ETA if options.eta is None else options.eta
    targets = np.append(picked[1:], 0)
    levels = alphas_cumprod[np.append(picked, 0)]
    return Scheduler(
        partial(tcd, between=alphas_cumprod[np.floor((1 - eta) * targets).astype(int)]),
        picked.astype(np.float64),
        np.sqrt(levels),
        np.sqrt(1 - levels),
        options.prediction_type,
        noise_calls=frozenset(range(steps - 1) if eta else ()),
    )


def tcd(step: StepInput, *, between: FloatArray) -> SchedulerStep:
    """Trajectory consistency sampling (Zheng et al. 2024, algorithm 2).

    Goes along the trajectory to a lower noise level than the next, then adds noise up to the next.

    Args:
        step: of the run.
        between: [N], alphas_cumprod of that lower level.
    """
    alpha = float(between[step.index])
    moved = math.sqrt(alpha) * step.denoised + math.sqrt(1 - alpha) * step.epsilon
    if step.noise is not None:
        ratio = step.scheduler.level(step.index + 1)[0] ** 2 / alpha
        moved = math.sqrt(ratio) * moved + math.sqrt(max(1 - ratio, 0.0)) * step.noise
    return SchedulerStep(moved, step.denoised)
