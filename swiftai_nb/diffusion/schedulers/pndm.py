"""PNDM (Liu et al. 2022), the sampler of Stable Diffusion 1.x."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray, ScheduleOptions
from swiftai_nb.diffusion.schedulers.scheduler import (
    Scheduler,
    SchedulerStep,
    StepInput,
    variance_preserving,
)

_RUNGE_KUTTA_CALLS = 4


@dataclass(frozen=True)
class PNDMPlan:
    """What a run of PNDM knows besides its noise levels.

    Attributes:
        runge_kutta_calls: how many network calls are Runge-Kutta's (0 with skip_prk_steps).
        alphas_cumprod: [T].
        final_alpha: alphas_cumprod "before" timestep 0.
        stride: T // steps.
    """

    runge_kutta_calls: int
    alphas_cumprod: FloatArray
    final_alpha: float
    stride: int

    def alpha(self, timestep: int) -> float:
        """alphas_cumprod at any timestep, also before the first and after the last."""
        if timestep < 0:
            return self.final_alpha
        return float(self.alphas_cumprod[min(timestep, len(self.alphas_cumprod) - 1)])


@dataclass(frozen=True)
class PNDMHistory:
    """What a run carries from call to call.

    Attributes:
        calls: how many were made.
        outputs: the last four model outputs, newest last.
        sample: the sample a started group of calls goes back to, or None.
        weighted_sum: of the model outputs within a Runge-Kutta group, or None.
    """

    calls: int = 0
    outputs: tuple[mx.array, ...] = ()
    sample: mx.array | None = None
    weighted_sum: mx.array | None = None


def plan_pndm(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans PNDM, the sampler of Stable Diffusion 1.x. With PLMS, n steps make n + 1 network calls.

    Raises:
        UnsupportedModelError: a prediction type the method does not define.
    """
    options = ScheduleOptions.from_config(config, set_alpha_to_one=False)
    if options.prediction_type not in ("epsilon", "v_prediction"):
        raise UnsupportedModelError(f"PNDM cannot sample prediction_type {options.prediction_type!r}")
    alphas_cumprod = options.make_alphas_cumprod()
    rising = np.round(options.make_timesteps(steps))[::-1]
    stride = options.num_train_timesteps // steps
    # Runge-Kutta needs four steps to start from.
    if options.skip_prk_steps or steps < _RUNGE_KUTTA_CALLS:
        start = np.empty(0)
        rest = np.concatenate([rising[:-1], rising[-2:-1], rising[-1:]])[::-1]
    else:
        start = _runge_kutta_timesteps(rising, stride)
        rest = rising[:-3][::-1]
    final_alpha = 1.0 if options.set_alpha_to_one else float(alphas_cumprod[0])
    plan = PNDMPlan(len(start), alphas_cumprod, final_alpha, stride)
    timesteps = np.concatenate([start, rest])
    levels = np.array([plan.alpha(int(timestep)) for timestep in timesteps])
    return variance_preserving(partial(pndm, plan=plan), timesteps, levels, options.prediction_type)


def pndm(
    step: StepInput,
    *,
    plan: PNDMPlan,
) -> SchedulerStep:
    """PNDM (Liu et al. 2022): linear multistep on epsilon, started by Runge-Kutta or, shorter, by PLMS.

    One network call's worth: a Runge-Kutta stage or a multistep update.
    """
    past = PNDMHistory() if step.history is None else step.history
    move = _runge_kutta if past.calls < plan.runge_kutta_calls else _multistep
    moved, after = move(step, plan, past)
    return SchedulerStep(moved, step.denoised, after)


def _runge_kutta(step: StepInput, plan: PNDMPlan, past: PNDMHistory) -> tuple[mx.array, PNDMHistory]:
    timesteps = step.scheduler.timesteps
    stage = past.calls % _RUNGE_KUTTA_CALLS
    target = int(timesteps[step.index]) - (0 if past.calls % 2 else plan.stride // 2)
    group_start = int(timesteps[past.calls - stage])
    part = (1 / 6 if stage in (0, 3) else 1 / 3) * step.output
    total = part if past.weighted_sum is None else past.weighted_sum + part
    sample = step.sample if stage == 0 or past.sample is None else past.sample
    after = PNDMHistory(
        past.calls + 1,
        (*past.outputs, step.output) if stage == 0 else past.outputs,
        sample,
        None if stage == 3 else total,
    )
    used = total if stage == 3 else step.output
    return _transfer(step.scheduler, plan, (group_start, target), sample, used), after


def _multistep(step: StepInput, plan: PNDMPlan, past: PNDMHistory) -> tuple[mx.array, PNDMHistory]:
    timestep = int(step.scheduler.timesteps[step.index])
    target, outputs, sample = timestep - plan.stride, past.outputs, step.sample
    # PLMS improves its first step by a second call at the step's end.
    is_second = past.calls == 1 and plan.runge_kutta_calls == 0
    if is_second:
        timestep, target = timestep + plan.stride, timestep
        sample = step.sample if past.sample is None else past.sample
        used = (step.output + outputs[-1]) / 2
    else:
        outputs = (*outputs[-3:], step.output)
        used = _adams_bashforth(outputs)
    after = PNDMHistory(past.calls + 1, outputs, step.sample if past.calls == 0 else None)
    return _transfer(step.scheduler, plan, (timestep, target), sample, used), after


def _transfer(
    scheduler: Scheduler, plan: PNDMPlan, span: tuple[int, int], sample: mx.array, output: mx.array
) -> mx.array:
    """Equation 9 of the paper, from one timestep to another."""
    alpha, alpha_prev = plan.alpha(span[0]), plan.alpha(span[1])
    if scheduler.prediction_type == "v_prediction":
        output = math.sqrt(alpha) * output + math.sqrt(1 - alpha) * sample
    denominator = alpha * math.sqrt(1 - alpha_prev) + math.sqrt(alpha * (1 - alpha) * alpha_prev)
    return math.sqrt(alpha_prev / alpha) * sample - ((alpha_prev - alpha) / denominator) * output


def _runge_kutta_timesteps(rising: FloatArray, stride: int) -> FloatArray:
    """Three groups of four calls: at a step, twice at its middle, at its end."""
    last = rising[-_RUNGE_KUTTA_CALLS:]
    pairs = last.repeat(2) + np.tile(np.array([0, stride // 2]), len(last))
    return np.asarray(pairs[:-1].repeat(2)[1:-1][::-1], dtype=np.float64)


def _adams_bashforth(outputs: tuple[mx.array, ...]) -> mx.array:
    """The multistep combination of up to four model outputs, newest last."""
    weights = {
        1: (1.0,),
        2: (3 / 2, -1 / 2),
        3: (23 / 12, -16 / 12, 5 / 12),
        4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    }[len(outputs)]
    terms = [w * o for w, o in zip(weights, reversed(outputs), strict=True)]
    return sum(terms[1:], start=terms[0])
