"""Samplers of x = x0 + sigma noise over decreasing sigmas, as in Katherine Crowson's k-diffusion.

dx/dsigma = (x - x0) / sigma (Karras et al. 2022). Samplers of two network calls per step (Heun, DPM2, DPM++
SDE) are functions of one call like all others: the second call finds the step's start in its history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import (
    FloatArray,
    ScheduleOptions,
    timesteps_from_sigmas,
)
from swiftai_nb.diffusion.schedulers.scheduler import Sampler, Scheduler, SchedulerStep, StepInput

# (sigmas [n], next sigmas [n]) -> sigmas of the second calls [n]
Midpoint = Callable[[FloatArray, FloatArray], FloatArray]

_LMS_ORDER = 4


def plan_sigmas(
    config: Mapping[str, Any],
    steps: int,
    *,
    sampler: Sampler,
    unused: tuple[str, ...] = (),
    noise: str = "",
    midpoint: Midpoint | None = None,
    rounds_karras: bool = False,
) -> Scheduler:
    """Plans a run over a decreasing list of sigmas.

    Args:
        config: `scheduler_config.json`.
        steps: at least 1.
        sampler: takes the steps.
        unused: fields of the config that this sampler does not have.
        noise: which calls use fresh noise: "" none, "all", "second" those of midpoints, "before last".
        midpoint: of samplers with two calls per step, where the second is made. The last step is Euler's.
        rounds_karras: whether timesteps of Karras' sigmas are whole.

    Raises:
        UnsupportedModelError: another interpolation of sigmas, or another schedule.
    """
    taken = {name: value for name, value in config.items() if name not in unused}
    options = ScheduleOptions.from_config(taken, timestep_spacing="linspace")
    train_sigmas = options.make_train_sigmas()
    timesteps = options.make_timesteps(steps)
    sigmas = _interpolate(options, timesteps, train_sigmas, steps)
    if options.sigma_schedule is not None:
        sigmas = options.make_scheduled_sigmas(steps, sigma_min=float(sigmas[-1]), sigma_max=float(sigmas[0]))
        timesteps = timesteps_from_sigmas(sigmas, train_sigmas)
        if rounds_karras and options.sigma_schedule == "karras":
            timesteps = np.round(timesteps)
    largest, leading = float(sigmas.max()), options.timestep_spacing == "leading"
    last = float(train_sigmas[0]) if options.final_sigmas_type == "sigma_min" else 0.0
    if midpoint is not None:
        middle = midpoint(sigmas[:-1], sigmas[1:])
        timesteps = _interleave(timesteps, timesteps_from_sigmas(middle, train_sigmas))
        sigmas = _interleave(sigmas, middle)
    count = len(timesteps)
    calls = {"": (), "all": range(count), "second": range(1, count, 2), "before last": range(count - 1)}
    sigmas = np.append(sigmas, last)
    return Scheduler(
        sampler,
        timesteps,
        np.ones_like(sigmas),
        sigmas,
        options.prediction_type,
        init_noise_sigma=math.sqrt(largest**2 + 1) if leading else largest,
        noise_calls=frozenset(calls[noise]),
        calls_per_step=1 if midpoint is None else 2,
        scales_input=True,
        clip_range=options.clip_sample_range if options.clip_sample else None,
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


def _interleave(starts: FloatArray, middles: FloatArray) -> FloatArray:
    """[n] and [n - 1] -> [2n - 1]: start, middle, start, ..., start."""
    mixed = np.empty(2 * len(starts) - 1)
    mixed[::2], mixed[1::2] = starts, middles
    return mixed


def next_sigma(_sigma: FloatArray, following: FloatArray) -> FloatArray:
    """Heun's second call: at the end of the step."""
    return following


def geometric_mean(sigma: FloatArray, following: FloatArray) -> FloatArray:
    """Halfway in log sigma."""
    return np.asarray(np.sqrt(sigma * following), dtype=np.float64)


def ancestral_mean(sigma: FloatArray, following: FloatArray) -> FloatArray:
    """Halfway in log sigma to where an ancestral step goes down to."""
    return geometric_mean(sigma, following**2 / sigma)


def plan_edm(config: Mapping[str, Any], steps: int, *, sampler: Sampler) -> Scheduler:
    """Plans a sampler for networks with EDM's preconditioning (Karras et al. 2022, table 1).

    Args:
        config: `scheduler_config.json`.
        steps: at least 1.
        sampler: takes the steps.

    Raises:
        UnsupportedModelError: a prediction type other than epsilon and v_prediction.
    """
    options = ScheduleOptions.from_config(config, sigma_schedule="karras")
    if options.prediction_type not in ("epsilon", "v_prediction"):
        raise UnsupportedModelError(f"EDM cannot sample prediction_type {options.prediction_type!r}")
    options.check_steps(steps)
    sigmas = options.make_scheduled_sigmas(steps, sigma_min=options.sigma_min, sigma_max=options.sigma_max)
    timesteps = 0.25 * np.log(sigmas)
    sigmas = np.append(sigmas, options.sigma_min if options.final_sigmas_type == "sigma_min" else 0.0)
    return Scheduler(
        sampler,
        timesteps,
        np.ones_like(sigmas),
        sigmas,
        options.prediction_type,
        init_noise_sigma=math.sqrt(options.sigma_max**2 + 1),
        scales_input=True,
        sigma_data=options.sigma_data,
    )


def euler(step: StepInput) -> SchedulerStep:
    """dx/dsigma = (x - x0) / sigma, one Euler step (Karras et al. 2022, algorithm 2 without churn).

    Rectified flow, x = (1 - sigma) x0 + sigma noise, has the same derivative: its velocity.
    """
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index, step.index + 1))
    derivative = (step.sample - step.denoised) / sigma
    return SchedulerStep(step.sample + derivative * (sigma_next - sigma), step.denoised)


def _derivative(step: StepInput) -> mx.array:
    return (step.sample - step.denoised) / step.scheduler.level(step.index)[1]


def _ancestral_split(sigma: float, sigma_next: float) -> tuple[float, float]:
    """(where to step down to, deviation of the noise that leads back up to `sigma_next`)."""
    up = math.sqrt(max(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2, 0.0))
    return math.sqrt(max(sigma_next**2 - up**2, 0.0)), up


def euler_ancestral(step: StepInput) -> SchedulerStep:
    """Euler down to a lower sigma, then fresh noise up again (k-diffusion).

    Noise is drawn at every step, the last included (where its factor is 0), as in diffusers, so that
    a seed's stream stays the same.
    """
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index, step.index + 1))
    sigma_down, sigma_up = _ancestral_split(sigma, sigma_next)
    stepped = step.sample + _derivative(step) * (sigma_down - sigma)
    if step.noise is not None:
        stepped = stepped + sigma_up * step.noise
    return SchedulerStep(stepped, step.denoised)


def _is_last(step: StepInput) -> bool:
    return step.index == len(step.scheduler.timesteps) - 1


def _first_call(step: StepInput) -> SchedulerStep:
    """Euler to the level of the second call, or, at the last step, to the end."""
    derivative, moved = _derivative(step), euler(step)
    history = None if _is_last(step) else (step.sample, derivative)
    return SchedulerStep(moved.latents, step.denoised, history)


def heun(step: StepInput) -> SchedulerStep:
    """Heun's second order (Karras et al. 2022, algorithm 1): the mean of both ends' derivatives."""
    if step.history is None:
        return _first_call(step)
    start, first = step.history
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index - 1, step.index))
    moved = start + (first + _derivative(step)) / 2 * (sigma_next - sigma)
    return SchedulerStep(moved, step.denoised)


def dpm2(step: StepInput, *, is_ancestral: bool = False) -> SchedulerStep:
    """DPM-Solver-2 (Lu et al. 2022), k-diffusion's DPM2: the derivative at the middle.

    Args:
        step: of the run.
        is_ancestral: steps down further and adds fresh noise.
    """
    if step.history is None:
        return _first_call(step)
    start, _ = step.history
    sigma, sigma_next = (step.scheduler.level(index)[1] for index in (step.index - 1, step.index + 1))
    target, up = _ancestral_split(sigma, sigma_next) if is_ancestral else (sigma_next, 0.0)
    moved = start + _derivative(step) * (target - sigma)
    if step.noise is not None:
        moved = moved + up * step.noise
    return SchedulerStep(moved, step.denoised)


def dpm_sde(step: StepInput) -> SchedulerStep:
    """DPM-Solver++ as a stochastic equation (k-diffusion's DPM++ SDE), both calls with fresh noise."""
    if _is_last(step):
        return euler(step)
    is_second = step.history is not None
    sample = step.history if is_second else step.sample
    sigma = step.scheduler.level(step.index - 1 if is_second else step.index)[1]
    down, up = _ancestral_split(sigma, step.scheduler.level(step.index + 1)[1])
    moved = (down / sigma) * sample + (1 - down / sigma) * step.denoised
    if step.noise is not None:
        moved = moved + up * step.noise
    return SchedulerStep(moved, step.denoised, None if is_second else sample)


def lms(step: StepInput) -> SchedulerStep:
    """Linear multistep in sigma (Katherine Crowson's k-diffusion), up to order 4.

    Integrates the polynomial through the last derivatives exactly.
    """
    sigmas, index = step.scheduler.sigmas, step.index
    derivative = (step.sample - step.denoised) / float(sigmas[index])
    derivatives = (derivative, *(() if step.history is None else step.history))[:_LMS_ORDER]
    order = min(index + 1, _LMS_ORDER)
    moved = step.sample
    # A run that starts inside the schedule has fewer derivatives than its order.
    for k, known in enumerate(derivatives[:order]):
        moved = moved + lms_coefficient(sigmas, index, order, k) * known
    return SchedulerStep(moved, step.denoised, derivatives)


def lms_coefficient(sigmas: FloatArray, index: int, order: int, k: int) -> float:
    """Integral of the k-th Lagrange polynomial over [sigma_index, sigma_(index + 1)].

    Args:
        sigmas: [N + 1].
        index: of the step.
        order: number of nodes: sigma_index and those before it.
        k: which node, 0 being sigma_index.
    """
    nodes = [float(sigmas[index - j]) for j in range(order)]
    # Around the first node: powers of large sigmas would cancel.
    offsets = np.array(nodes) - nodes[0]
    polynomial = np.poly1d([1.0])
    for j, offset in enumerate(offsets):
        if j != k:
            polynomial = polynomial * np.poly1d([1.0, -offset]) / (offsets[k] - offset)
    antiderivative = polynomial.integ()
    return float(antiderivative(float(sigmas[index + 1]) - nodes[0]))
