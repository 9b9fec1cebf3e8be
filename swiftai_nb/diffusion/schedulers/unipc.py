"""UniPC and DEIS: multistep integrators over lambda = log(alpha / sigma), or over log rho = -lambda."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.dpm_solver import Outputs, log_snr, multistep_order, plan_log_snr
from swiftai_nb.diffusion.schedulers.noise_schedule import ScheduleOptions
from swiftai_nb.diffusion.schedulers.scheduler import Scheduler, SchedulerStep, StepInput


def plan_unipc(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans UniPC."""
    options = ScheduleOptions.from_config(config, timestep_spacing="linspace", solver_type="bh2")
    if not 1 <= options.solver_order <= 3:
        raise UnsupportedModelError(f"UniPC of order {options.solver_order} is not supported")
    return plan_log_snr(options, steps, partial(unipc, options=options), always_rounds=True)


def plan_deis(config: Mapping[str, Any], steps: int) -> Scheduler:
    """Plans DEIS, which ends at the smallest sigma of the training."""
    taken = {name: value for name, value in config.items() if name != "rescale_betas_zero_snr"}
    options = ScheduleOptions.from_config(
        {**taken, "final_sigmas_type": "sigma_min"}, timestep_spacing="linspace"
    )
    if not 1 <= options.solver_order <= 3:
        raise UnsupportedModelError(f"DEIS of order {options.solver_order} is not supported")
    return plan_log_snr(options, steps, partial(deis, options=options), always_rounds=True)


@dataclass(frozen=True)
class _UniPCHistory:
    """The last outputs, newest first; the sample and the order of the last step."""

    outputs: Outputs
    sample: mx.array
    order: int


def unipc(step: StepInput, *, options: ScheduleOptions) -> SchedulerStep:
    """UniPC (Zhao et al. 2023): corrects the sample by the newest output, then predicts the next."""
    past: _UniPCHistory | None = step.history
    output, sample = (step.denoised if options.predict_x0 else step.epsilon), step.sample
    if past is not None and step.index - 1 not in options.disable_corrector:
        known = past.outputs[: past.order]
        sample = _unified(step, step.index - 1, past.sample, known, options=options, newest=output)
    outputs: Outputs = (output, *(() if past is None else past.outputs))[: options.solver_order]
    left = len(step.scheduler.timesteps) - step.index
    # At sigma 0 lambda is infinite, which only the first order can reach.
    lowered = options.lower_order_final or step.scheduler.level(step.index + left)[1] == 0
    order = min(options.solver_order, len(outputs), left if lowered else len(outputs))
    moved = _unified(step, step.index, sample, outputs[:order], options=options)
    return SchedulerStep(moved, step.denoised, _UniPCHistory(outputs, sample, order))


def _unified(
    step: StepInput,
    index: int,
    sample: mx.array,
    outputs: Outputs,
    *,
    options: ScheduleOptions,
    newest: mx.array | None = None,
) -> mx.array:
    """UniP from the level of `index` to the next, or UniC when the output there is known.

    Args:
        step: of the run.
        index: of the level to start from.
        sample: at that level.
        outputs: at that level and those before it, newest first; as many as the order.
        options: of the solver.
        newest: the output at the end, for UniC.
    """
    scheduler = step.scheduler
    (alpha, sigma), (alpha_next, sigma_next) = scheduler.level(index), scheduler.level(index + 1)
    begin = log_snr(scheduler, index)
    h = log_snr(scheduler, index + 1) - begin
    if options.predict_x0:
        hh, signal = -h, alpha_next
        moved = (sigma_next / sigma) * sample - alpha_next * math.expm1(-h) * outputs[0]
    else:
        hh, signal = h, sigma_next
        # sigma' (e^h - 1), which stays finite at sigma' = 0
        moved = (alpha_next / alpha) * sample - (alpha_next * sigma / alpha - sigma_next) * outputs[0]
    ratios = [(log_snr(scheduler, index - i) - begin) / h for i in range(1, len(outputs))] if h else []
    slopes = [(m - outputs[0]) / r for m, r in zip(outputs[1:], ratios, strict=False)]
    if newest is not None:
        ratios, slopes = [*ratios, 1.0], [*slopes, newest - outputs[0]]
    if not slopes or not h:
        return moved
    scale = hh if options.solver_type == "bh1" else math.expm1(hh)
    weights = _unified_weights(ratios, hh, scale)
    return moved - signal * scale * sum(
        (w * d for w, d in zip(weights, slopes, strict=True)), start=mx.array(0.0)
    )


def _unified_weights(ratios: Sequence[float], hh: float, scale: float) -> list[float]:
    """The solution of R(h) a = phi(h) (Zhao et al. 2023, theorem 3.1)."""
    if len(ratios) == 1:
        return [0.5]
    phi = math.expm1(hh) / hh - 1
    factorial, right = 1, []
    for i in range(1, len(ratios) + 1):
        right.append(phi * factorial / scale)
        factorial *= i + 1
        phi = phi / hh - 1 / factorial
    matrix = np.vander(np.array(ratios), increasing=True).T
    return [float(weight) for weight in np.linalg.solve(matrix, np.array(right))]


def deis(step: StepInput, *, options: ScheduleOptions) -> SchedulerStep:
    """DEIS (Zhang and Chen 2023, "log rho"): integrates the last epsilon, polynomial in log rho."""
    scheduler, index = step.scheduler, step.index
    outputs: Outputs = (step.epsilon, *(() if step.history is None else step.history))[: options.solver_order]
    order = multistep_order(options, index, len(scheduler.timesteps), known=len(outputs))
    nodes = [-log_snr(scheduler, index - i) for i in range(order)]
    end = -log_snr(scheduler, index + 1)
    weights = [_log_rho_weight(nodes, k, end) for k in range(order)]
    total = sum((w * m for w, m in zip(weights, outputs, strict=False)), start=mx.array(0.0))
    alpha, alpha_next = scheduler.level(index)[0], scheduler.level(index + 1)[0]
    return SchedulerStep(alpha_next * (step.sample / alpha + total), step.denoised, outputs)


def _log_rho_weight(nodes: Sequence[float], k: int, end: float) -> float:
    """Integral of the k-th Lagrange polynomial in log rho over rho, from the first node to `end`.

    Args:
        nodes: log rho, that of the step's start first.
        k: which node.
        end: log rho at the step's end.
    """
    polynomial = np.poly1d([1.0])
    for j, node in enumerate(nodes):
        if j != k:
            polynomial = polynomial * np.poly1d([1.0, -node]) / (nodes[k] - node)
    # The integral of p(u) e^u is (p - p' + p'' - ...) e^u.
    antiderivative, rest, sign = np.poly1d([0.0]), polynomial, 1.0
    for _ in nodes:
        antiderivative, rest, sign = antiderivative + sign * rest, rest.deriv(), -sign
    return float(antiderivative(end) * math.exp(end) - antiderivative(nodes[0]) * math.exp(nodes[0]))
