"""Samplers that need one network call alone, and the table of all: from a name to a planned run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.schedulers.multistep import lms, plan_dpm_solver, plan_pndm
from swiftai_nb.diffusion.schedulers.noise_schedule import (
    FloatArray,
    ScheduleOptions,
    dynamic_shift,
    flow_sigmas,
    karras_sigmas,
    timesteps_from_sigmas,
)
from swiftai_nb.diffusion.schedulers.scheduler import (
    Sampler,
    Scheduler,
    SchedulerStep,
    StepInput,
    variance_preserving,
)
from swiftai_nb.model_files.samplers import SAMPLERS, canonical_name, scheduler_name

_SIGMA_DATA = 0.5  # of latent consistency models
# Fields that diffusers' samplers of these names do not have.
_UNUSED_BY_LMS = ("interpolation_type", "final_sigmas_type", "rescale_betas_zero_snr")
_UNUSED_BY_EULER_ANCESTRAL = ("use_karras_sigmas", "interpolation_type", "final_sigmas_type")


def make_scheduler(
    config: Mapping[str, Any], steps: int, *, name: str | None = None, **plan: Any
) -> Scheduler:
    """Plans a run of `steps`.

    Args:
        config: the model's `scheduler_config.json`; a named sampler keeps its fields, as in diffusers.
        steps: at least 1.
        name: a sampler other than the config's, or None.
        plan: what a family adds, e.g. `sequence_length` for flow matching.

    Raises:
        InvalidInputError: unknown name, or a number of steps out of range.
        UnsupportedModelError: the config's own sampler, or one of its fields, is not supported.
    """
    if name is None:
        own = scheduler_name(config)
        if own not in SAMPLERS:
            raise UnsupportedModelError(
                f"the model's scheduler {own or '(none)'} is not supported",
                hint=f"choose one with scheduler=...: {', '.join(SAMPLERS)}",
            )
        name = own
    sampler = SAMPLERS[canonical_name(name)]
    fields = {"use_karras_sigmas": True} if sampler.uses_karras_sigmas else {}
    return _PLANNERS[sampler.class_name]({**config, **fields}, steps, **plan)


def plan_ddim(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans DDIM."""
    options = ScheduleOptions.from_config(config, clip_sample=True)
    alphas_cumprod = options.make_alphas_cumprod()
    timesteps = np.round(options.make_timesteps(steps))
    final = 1.0 if options.set_alpha_to_one else float(alphas_cumprod[0])
    at = timesteps.astype(int)
    before = at - options.num_train_timesteps // steps
    next_alphas = np.where(before >= 0, alphas_cumprod[np.maximum(before, 0)], final)
    return variance_preserving(
        partial(ddim, next_alphas=next_alphas),
        timesteps,
        alphas_cumprod[np.minimum(at, len(alphas_cumprod) - 1)],
        options.prediction_type,
        clip_range=options.clip_sample_range if options.clip_sample else None,
    )


def ddim(
    step: StepInput,
    *,
    next_alphas: FloatArray,
) -> SchedulerStep:
    """DDIM (Song et al. 2021, equation 12), deterministic: x' = sqrt(a') x0 + sqrt(1 - a') epsilon."""
    alpha = float(next_alphas[step.index])
    moved = math.sqrt(alpha) * step.denoised + math.sqrt(1 - alpha) * step.epsilon
    return SchedulerStep(moved, step.denoised)


def plan_lcm(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans latent consistency sampling on the distillation's own schedule.

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
    return variance_preserving(
        partial(lcm, timestep_scaling=options.timestep_scaling),
        picked.astype(np.float64),
        options.make_alphas_cumprod()[picked],
        options.prediction_type,
        needs_noise=True,
        clip_range=options.clip_sample_range if options.clip_sample else None,
    )


def lcm(
    step: StepInput,
    *,
    timestep_scaling: float,
) -> SchedulerStep:
    """Latent consistency sampling (Luo et al. 2023): x0, then noise of the next level but at the end."""
    # The boundary conditions c_skip and c_out: the identity at timestep 0 (section 3 of the paper).
    scaled = float(step.scheduler.timesteps[step.index]) * timestep_scaling
    total = scaled**2 + _SIGMA_DATA**2
    denoised = (scaled / math.sqrt(total)) * step.denoised + (_SIGMA_DATA**2 / total) * step.sample
    if step.index == len(step.scheduler.timesteps) - 1 or step.noise is None:
        return SchedulerStep(denoised, denoised)
    return SchedulerStep(step.scheduler.add_noise(denoised, step.noise, step.index + 1), denoised)


def plan_sigmas(
    config: Mapping[str, Any],
    steps: int,
    *,
    sampler: Sampler,
    unused: tuple[str, ...] = (),
    needs_noise: bool = False,
) -> Scheduler:
    """Plans a sampler of x = x0 + sigma noise (Karras et al. 2022) over a falling list of sigmas.

    Args:
        config: `scheduler_config.json`.
        steps: at least 1.
        sampler: takes the steps.
        unused: fields of the config that this sampler does not have.
        needs_noise: whether it uses fresh noise.

    Raises:
        UnsupportedModelError: another interpolation of sigmas.
    """
    taken = {name: value for name, value in config.items() if name not in unused}
    options = ScheduleOptions.from_config(taken, timestep_spacing="linspace")
    train_sigmas = options.make_train_sigmas()
    timesteps = options.make_timesteps(steps)
    sigmas = _interpolate(options, timesteps, train_sigmas, steps)
    if options.use_karras_sigmas:
        sigmas = karras_sigmas(float(sigmas[-1]), float(sigmas[0]), steps)
        timesteps = timesteps_from_sigmas(sigmas, train_sigmas)
    largest, leading = float(sigmas.max()), options.timestep_spacing == "leading"
    sigmas = np.append(sigmas, float(train_sigmas[0]) if options.final_sigmas_type == "sigma_min" else 0.0)
    return Scheduler(
        sampler,
        timesteps,
        np.ones_like(sigmas),
        sigmas,
        options.prediction_type,
        init_noise_sigma=math.sqrt(largest**2 + 1) if leading else largest,
        needs_noise=needs_noise,
        scales_input=True,
    )


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


def euler(step: StepInput) -> SchedulerStep:
    """dx/dsigma = (x - x0) / sigma, one Euler step (Karras et al. 2022, algorithm 2 without churn).

    Rectified flow, x = (1 - sigma) x0 + sigma noise, has the same derivative: its velocity.
    """
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index, step.index + 1))
    derivative = (step.sample - step.denoised) / sigma
    return SchedulerStep(step.sample + derivative * (sigma_next - sigma), step.denoised)


def euler_ancestral(step: StepInput) -> SchedulerStep:
    """Euler down to a lower sigma, then fresh noise up again (k-diffusion).

    Noise is drawn at every step, the last included (where its factor is 0), as in diffusers, so that
    a seed's stream stays the same.
    """
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index, step.index + 1))
    sigma_up = math.sqrt(max(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2, 0.0))
    sigma_down = math.sqrt(max(sigma_next**2 - sigma_up**2, 0.0))
    stepped = step.sample + (step.sample - step.denoised) / sigma * (sigma_down - sigma)
    if step.noise is not None:
        stepped = stepped + sigma_up * step.noise
    return SchedulerStep(stepped, step.denoised)


def plan_flow_match_euler(
    config: Mapping[str, Any], steps: int, *, sequence_length: int = 4096, mu: float | None = None
) -> Scheduler:
    """Plans Euler steps of rectified flow (Esser et al. 2024; FLUX).

    Args:
        config: with `use_dynamic_shifting` the shift grows with the picture.
        steps: at least 1.
        sequence_length: number of latent tokens of the picture.
        mu: the logarithm of the growing shift where the family has its own rule for it.

    Raises:
        UnsupportedModelError: stochastic or inverted flow matching.
    """
    options = ScheduleOptions.from_config(config)
    if config.get("stochastic_sampling") or config.get("invert_sigmas"):
        raise UnsupportedModelError("stochastic or inverted flow matching is not supported")
    options.check_steps(steps)
    sigmas = flow_sigmas(steps, shift=options.shift, mu=_flow_mu(options, sequence_length, mu))
    if options.shift_terminal:
        sigmas = 1 - (1 - sigmas) * (1 - options.shift_terminal) / (1 - sigmas[-1])
    if options.use_karras_sigmas:
        sigmas = karras_sigmas(float(sigmas[-1]), float(sigmas[0]), steps)
    timesteps, sigmas = sigmas * options.num_train_timesteps, np.append(sigmas, 0.0)
    return Scheduler(euler, timesteps, 1 - sigmas, sigmas, "flow")


def _flow_mu(options: ScheduleOptions, sequence_length: int, given: float | None) -> float | None:
    """The logarithm of the shift, or None for the config's constant shift."""
    if not options.use_dynamic_shifting:
        return None
    mu = given
    if mu is None:
        mu = dynamic_shift(
            sequence_length,
            base_seq_len=options.base_image_seq_len,
            max_seq_len=options.max_image_seq_len,
            base_shift=options.base_shift,
            max_shift=options.max_shift,
        )
    return math.log(mu) if options.time_shift_type == "linear" else mu


# diffusers' class name -> plans its run
_PLANNERS: dict[str, Callable[..., Scheduler]] = {
    "DDIMScheduler": plan_ddim,
    "PNDMScheduler": plan_pndm,
    "EulerDiscreteScheduler": partial(plan_sigmas, sampler=euler),
    "EulerAncestralDiscreteScheduler": partial(
        plan_sigmas, sampler=euler_ancestral, unused=_UNUSED_BY_EULER_ANCESTRAL, needs_noise=True
    ),
    "DPMSolverMultistepScheduler": plan_dpm_solver,
    "LMSDiscreteScheduler": partial(plan_sigmas, sampler=lms, unused=_UNUSED_BY_LMS),
    "LCMScheduler": plan_lcm,
    "FlowMatchEulerDiscreteScheduler": plan_flow_match_euler,
}
