"""DPM-Solver++ and its stochastic equation: exponential integrators over lambda = log(alpha / sigma)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.k_diffusion import plan_edm
from swiftai_nb.diffusion.schedulers.noise_schedule import (
    FloatArray,
    ScheduleOptions,
    timesteps_from_sigmas,
)
from swiftai_nb.diffusion.schedulers.scheduler import (
    Sampler,
    Scheduler,
    SchedulerStep,
    StepInput,
)

_SDE = "sde-dpmsolver++"
_SHORT_RUN = 15  # below, the last steps are of lower order
Outputs = tuple[mx.array, ...]
"""What a multistep sampler interpolates (x0 or epsilon), newest first."""


def plan_dpm_solver(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans the multistep DPM-Solver++ (2M, 3M) or its SDE.

    Raises:
        UnsupportedModelError: another algorithm of the family.
    """
    options = _solver_options(config, lower_order_final=True)
    usable = _usable_timesteps(config, options.make_train_sigmas())
    sampler = partial(dpm_solver, options=options)
    return plan_log_snr(options, steps, sampler, usable=usable, is_noisy=options.algorithm_type == _SDE)


def plan_dpm_solver_singlestep(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans the singlestep DPM-Solver++ (2S, 3S), which spaces its timesteps evenly.

    Raises:
        UnsupportedModelError: another algorithm of the family.
    """
    fixed = {name: value for name, value in config.items() if name != "rescale_betas_zero_snr"}
    options = _solver_options({**fixed, "timestep_spacing": "linspace"}, lower_order_final=False)
    usable = _usable_timesteps(config, options.make_train_sigmas())
    sampler = partial(dpm_solver_singlestep, options=options, orders=_order_list(options, steps))
    return plan_log_snr(options, steps, sampler, usable=usable, is_noisy=options.algorithm_type == _SDE)


def plan_edm_dpm_solver(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans DPM-Solver++ 2M for networks with EDM's preconditioning.

    Raises:
        UnsupportedModelError: another algorithm of the family.
    """
    options = _solver_options(config, lower_order_final=True)
    if options.algorithm_type == _SDE:
        raise UnsupportedModelError("DPM solver of type 'sde-dpmsolver++' is not supported with EDM")
    return plan_edm(config, steps, sampler=partial(dpm_solver, options=options))


def _solver_options(config: Mapping[str, Any], *, lower_order_final: bool) -> ScheduleOptions:
    options = ScheduleOptions.from_config(
        config, timestep_spacing="linspace", lower_order_final=lower_order_final
    )
    if options.algorithm_type not in ("dpmsolver++", _SDE, "deis") or options.use_lu_lambdas:
        kind = "lu_lambdas" if options.use_lu_lambdas else options.algorithm_type
        raise UnsupportedModelError(
            f"DPM solver of type {kind!r} is not supported, only dpmsolver++ and {_SDE}"
        )
    known = ("midpoint", "heun", "logrho", "bh1", "bh2")  # the last three are of DEIS and UniPC
    if options.solver_order not in (1, 2, 3) or options.solver_type not in known:
        raise UnsupportedModelError(
            f"DPM solver of order {options.solver_order} and type {options.solver_type!r} is not supported"
        )
    return options


def plan_log_snr(
    options: ScheduleOptions,
    steps: int,
    sampler: Sampler,
    *,
    usable: int | None = None,
    is_noisy: bool = False,
    always_rounds: bool = False,
) -> Scheduler:
    """A variance-preserving run with whole timesteps, whose sigmas follow `sigma_schedule` if there is one.

    Args:
        options: of the configuration.
        steps: at least 1.
        sampler: takes the steps.
        usable: number of training timesteps to spread over; None is all.
        is_noisy: whether each call uses fresh noise.
        always_rounds: Karras' timesteps are rounded with every beta schedule.
    """
    options.check_steps(steps)
    train_sigmas = options.make_train_sigmas()
    if options.sigma_schedule is None:
        timesteps = _spaced_timesteps(options, steps, len(train_sigmas) if usable is None else usable)
        ratios = np.interp(timesteps, np.arange(len(train_sigmas)), train_sigmas)
    else:
        smallest, largest = (float(sigma) for sigma in train_sigmas[[0, -1]].astype(np.float32))
        ratios = options.make_scheduled_sigmas(steps, sigma_min=smallest, sigma_max=largest)
        timesteps = timesteps_from_sigmas(ratios, train_sigmas)
        is_karras = options.sigma_schedule == "karras"
        if is_karras and (always_rounds or options.beta_schedule != "squaredcos_cap_v2"):
            timesteps = np.round(timesteps)
        timesteps = np.trunc(timesteps)
    last = float(train_sigmas[0]) if options.final_sigmas_type == "sigma_min" else 0.0
    ratios = np.append(ratios, last)
    alphas = 1 / np.sqrt(ratios**2 + 1)
    calls = frozenset(range(steps) if is_noisy else ())
    return Scheduler(sampler, timesteps, alphas, ratios * alphas, options.prediction_type, noise_calls=calls)


def _usable_timesteps(config: Mapping[str, Any], train_sigmas: FloatArray) -> int:
    """How many training timesteps have a log signal-to-noise ratio above `lambda_min_clipped`."""
    lowest = config.get("lambda_min_clipped")
    if lowest is None:
        return len(train_sigmas)
    rising = -np.log(train_sigmas)[::-1]
    return len(train_sigmas) - int(np.searchsorted(rising, float(lowest)))


def _spaced_timesteps(options: ScheduleOptions, steps: int, usable: int) -> FloatArray:
    """[steps], decreasing; unlike the other samplers cut from steps + 1 points."""
    if options.timestep_spacing == "linspace":
        return np.round(np.linspace(0, usable - 1, steps + 1))[::-1][:-1]
    if options.timestep_spacing == "leading":
        points = np.arange(steps + 1, dtype=np.float64) * (usable // (steps + 1))
        return points[::-1][:-1] + options.steps_offset
    if options.timestep_spacing == "trailing":
        points = np.arange(usable, 0, -options.num_train_timesteps / steps)[:steps]
        return np.asarray(np.round(points) - 1, dtype=np.float64)
    raise UnsupportedModelError(f"timestep_spacing {options.timestep_spacing!r} is not supported")


def log_snr(scheduler: Scheduler, index: int) -> float:
    """Lambda at a call or, with index N, at the end of the run, where it can be infinite."""
    alpha, sigma = scheduler.level(index)
    return math.inf if sigma == 0 else math.log(alpha) - math.log(sigma)


@dataclass(frozen=True)
class _Differences:
    """The polynomial through x0 over lambda: its value at a step's start and its scaled derivatives."""

    value: mx.array
    first: mx.array | None = None
    second: mx.array | None = None


def dpm_solver(step: StepInput, *, options: ScheduleOptions) -> SchedulerStep:
    """Multistep DPM-Solver++ (Lu et al. 2022): interpolates the last x0 over lambda.

    Of lower order while too few are known, and at the end.
    """
    scheduler, index = step.scheduler, step.index
    outputs: Outputs = (step.denoised, *(() if step.history is None else step.history))
    order = multistep_order(options, index, len(scheduler.timesteps), known=len(outputs))
    if options.final_sigmas_type == "zero" or options.euler_at_final:
        order = 1 if index == len(scheduler.timesteps) - 1 else order
    now = log_snr(scheduler, index)
    h = log_snr(scheduler, index + 1) - now
    differences = _Differences(outputs[0])
    if order > 1 and h:
        before = log_snr(scheduler, index - 1)
        r0 = (now - before) / h
        first = (outputs[0] - outputs[1]) / r0
        differences = _Differences(outputs[0], first)
        if order == 3:
            r1 = (before - log_snr(scheduler, index - 2)) / h
            change = first - (outputs[1] - outputs[2]) / r1
            differences = _Differences(outputs[0], first + change * (r0 / (r0 + r1)), change / (r0 + r1))
    moved = _integrate(step, (index, index + 1), step.sample, differences, options=options)
    return SchedulerStep(moved, step.denoised, outputs[: options.solver_order - 1])


def multistep_order(options: ScheduleOptions, index: int, total: int, *, known: int) -> int:
    """The order of a step, as far as outputs are known; the last two of a short run are lower."""
    left = total - index
    lowered = left if options.lower_order_final and total < _SHORT_RUN else options.solver_order
    return min(options.solver_order, known, lowered)


def _integrate(
    step: StepInput,
    span: tuple[int, int],
    sample: mx.array,
    differences: _Differences,
    *,
    options: ScheduleOptions,
) -> mx.array:
    """The exact solution from one level of the run to another, given x0 as a polynomial in lambda.

    Args:
        step: its noise is used, and its scheduler.
        span: indices of both levels.
        sample: at the first.
        differences: of x0, of first to third order.
        options: of the solver.
    """
    scheduler = step.scheduler
    (_, sigma), (alpha_next, sigma_next) = (scheduler.level(index) for index in span)
    h = log_snr(scheduler, span[1]) - log_snr(scheduler, span[0])
    is_noisy = options.algorithm_type == _SDE
    # The stochastic equation forgets the sample twice as fast.
    k = 2 * h if is_noisy else h
    decay = -math.expm1(-k)
    moved = (sigma_next / sigma) * (math.exp(-h) if is_noisy else 1.0) * sample
    moved = moved + alpha_next * decay * differences.value
    if differences.first is not None:
        is_exact = options.solver_type == "heun" or differences.second is not None
        slope = 1 - decay / k if is_exact else 0.5 * decay
        moved = moved + alpha_next * slope * differences.first
    if differences.second is not None:
        # diffusers has this sign in its stochastic solvers; the pictures are to be the same.
        curvature = (decay - k) / k**2 + (-0.5 if is_noisy else 0.5)
        moved = moved + alpha_next * curvature * differences.second
    if step.noise is not None:
        moved = moved + sigma_next * math.sqrt(-math.expm1(-2 * h)) * step.noise
    return moved


def _order_list(options: ScheduleOptions, steps: int) -> tuple[int, ...]:
    """The order of each call of a singlestep run: groups of 1, 2 or 1, 2, 3, lower at the end."""
    order = options.solver_order
    ends_lower = options.lower_order_final or steps % order != 0 or options.final_sigmas_type == "zero"
    group = tuple(range(1, order + 1))
    orders = (group * (steps // order + 1))[:steps]
    if ends_lower and steps % order == 0 and order > 1:
        # The last whole group becomes 1, 1 or 1, 2, 1.
        orders = (*orders[:-1], 1)
    return (*orders[:-1], 1) if options.final_sigmas_type == "zero" else orders


@dataclass(frozen=True)
class _GroupHistory:
    """Of a singlestep run: the sample that a group started from, and earlier x0."""

    start: mx.array
    outputs: Outputs


def dpm_solver_singlestep(
    step: StepInput, *, options: ScheduleOptions, orders: Sequence[int]
) -> SchedulerStep:
    """Singlestep DPM-Solver++ (Lu et al. 2022): groups of calls, each call again from the group's start.

    Args:
        step: of the run.
        options: of the solver.
        orders: [N], 1 where a group starts.
    """
    past: _GroupHistory | None = step.history
    outputs: Outputs = (step.denoised, *(() if past is None else past.outputs))
    order = min(orders[step.index], len(outputs))
    start = step.sample if order == 1 or past is None else past.start
    first_index = step.index - order + 1
    differences = _group_differences(step.scheduler, first_index, outputs[:order], options)
    moved = _integrate(step, (first_index, step.index + 1), start, differences, options=options)
    return SchedulerStep(moved, step.denoised, _GroupHistory(start, outputs[: options.solver_order - 1]))


def _group_differences(
    scheduler: Scheduler, first_index: int, outputs: Outputs, options: ScheduleOptions
) -> _Differences:
    """Over the span from a group's first level to that after its last output, newest first."""
    oldest = outputs[-1]
    if len(outputs) == 1:
        return _Differences(oldest)
    begin = log_snr(scheduler, first_index)
    h = log_snr(scheduler, first_index + len(outputs)) - begin
    ratios = [(log_snr(scheduler, first_index + i) - begin) / h for i in range(1, len(outputs))]
    slopes = [(x0 - oldest) / r for x0, r in zip(outputs[-2::-1], ratios, strict=True)]
    if len(outputs) == 2:
        return _Differences(oldest, slopes[0])
    (r1, r0), (d1, d0) = ratios, slopes
    if options.solver_type == "heun":
        return _Differences(oldest, (r0 * d1 - r1 * d0) / (r0 - r1), 2 * (d0 - d1) / (r0 - r1))
    # Third order without the second derivative.
    return _Differences(oldest, d0, mx.zeros_like(d0))
