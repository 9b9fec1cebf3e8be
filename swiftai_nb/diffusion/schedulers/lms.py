"""Linear multistep in sigma (Katherine Crowson's k-diffusion), up to order 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from swiftai_nb.diffusion.schedulers.noise_schedule import FloatArray
from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep
from swiftai_nb.diffusion.schedulers.sigma_plan import SigmaPlan, SigmaSampler

_ORDER = 4
_UNUSED = ("interpolation_type", "final_sigmas_type", "rescale_betas_zero_snr")


@dataclass(frozen=True)
class LMSScheduler(SigmaSampler):
    """Integrates the polynomial through the last derivatives exactly; `plan` holds the sigmas."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> LMSScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`."""
        return cls(SigmaPlan.from_config({k: v for k, v in config.items() if k not in _UNUSED}, steps))

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: tuple[mx.array, ...] | None = None,
    ) -> SchedulerStep:
        """X' = x + sum of coefficients times derivatives, newest first."""
        denoised = self.plan.denoise(model_output, latents, index)
        derivative = (latents - denoised) / float(self.plan.sigmas[index])
        derivatives = (derivative, *(() if history is None else history))[:_ORDER]
        order = min(index + 1, _ORDER)
        # A run that starts inside the schedule has fewer derivatives than its order.
        for k, known in enumerate(derivatives[:order]):
            latents = latents + lms_coefficient(self.plan.sigmas, index, order, k) * known
        return SchedulerStep(latents, denoised, derivatives)


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
