"""Euler and Euler ancestral sampling (Karras et al. 2022, algorithm 2 without churn; k-diffusion)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from swiftai_nb.diffusion.schedulers.scheduler import SchedulerStep
from swiftai_nb.diffusion.schedulers.sigma_plan import SigmaPlan, SigmaSampler


@dataclass(frozen=True)
class EulerScheduler(SigmaSampler):
    """dx/dsigma = (x - x0) / sigma, one Euler step per sigma; `plan` holds the sigmas."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> EulerScheduler:
        """Plans a run of `steps` from a `scheduler_config.json`."""
        return cls(SigmaPlan.from_config(config, steps))

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: Any = None,
    ) -> SchedulerStep:
        """X' = x + (x - x0) / sigma (sigma' - sigma)."""
        denoised = self.plan.denoise(model_output, latents, index)
        sigma, sigma_next = (float(s) for s in self.plan.sigmas[index : index + 2])
        derivative = (latents - denoised) / sigma
        return SchedulerStep(latents + derivative * (sigma_next - sigma), denoised)


@dataclass(frozen=True)
class EulerAncestralScheduler(EulerScheduler):
    """Euler down to a lower sigma, then fresh noise up again.

    Noise is drawn at every step, the last included (where its factor is 0), as in diffusers, so that
    a seed's stream stays the same.
    """

    needs_noise: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> EulerAncestralScheduler:
        """Plans a run; this sampler knows no Karras sigmas."""
        plain = {
            k: v
            for k, v in config.items()
            if k not in ("use_karras_sigmas", "interpolation_type", "final_sigmas_type")
        }
        return cls(SigmaPlan.from_config(plain, steps))

    def step(
        self,
        model_output: mx.array,
        latents: mx.array,
        index: int,
        *,
        noise: mx.array | None = None,
        history: Any = None,
    ) -> SchedulerStep:
        """X' = x + (x - x0) / sigma (sigma_down - sigma) + sigma_up noise."""
        denoised = self.plan.denoise(model_output, latents, index)
        sigma, sigma_next = (float(s) for s in self.plan.sigmas[index : index + 2])
        sigma_up = math.sqrt(max(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2, 0.0))
        sigma_down = math.sqrt(max(sigma_next**2 - sigma_up**2, 0.0))
        stepped = latents + (latents - denoised) / sigma * (sigma_down - sigma)
        if noise is not None:
            stepped = stepped + sigma_up * noise
        return SchedulerStep(stepped, denoised)
