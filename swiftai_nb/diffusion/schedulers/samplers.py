"""From a name or a configuration to a planned run, and the run of flow-matching models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError
from swiftai_nb.diffusion.schedulers import k_diffusion
from swiftai_nb.diffusion.schedulers.dpm_solver import (
    plan_dpm_solver,
    plan_dpm_solver_singlestep,
    plan_edm_dpm_solver,
)
from swiftai_nb.diffusion.schedulers.k_diffusion import euler, plan_edm, plan_sigmas
from swiftai_nb.diffusion.schedulers.noise_schedule import ScheduleOptions, dynamic_shift, flow_sigmas
from swiftai_nb.diffusion.schedulers.pndm import plan_pndm
from swiftai_nb.diffusion.schedulers.scheduler import Scheduler
from swiftai_nb.diffusion.schedulers.unipc import plan_deis, plan_unipc
from swiftai_nb.diffusion.schedulers.variance_preserving import plan_ddim, plan_ddpm, plan_lcm, plan_tcd
from swiftai_nb.model_files.samplers import SAMPLERS, Sampler, find_sampler, scheduler_name

# Fields that diffusers' classes do not have, by the sampler that would read them.
_FLAGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_NOT_HEUN = ("interpolation_type", "final_sigmas_type", "rescale_betas_zero_snr")
_NOT_LMS = (*_NOT_HEUN, "clip_sample")
_NOT_EULER = ("clip_sample",)
_NOT_ANCESTRAL = (*_FLAGS, "interpolation_type", "final_sigmas_type", "clip_sample")


def make_scheduler(
    config: Mapping[str, Any],
    steps: int,
    *,
    name: str | None = None,
    eta: float | None = None,
    is_sdxl: bool = False,
    **plan: Any,
) -> Scheduler:
    """Plans a run of `steps`.

    Args:
        config: the model's `scheduler_config.json`; a named sampler keeps its fields, as in diffusers.
        steps: at least 1.
        name: a sampler other than the config's, with a sigma schedule or without, or None.
        eta: 0..1, noise of DDIM (None is 0) and TCD (None is 0.3); the others do not use it, as in
            diffusers.
        is_sdxl: whether "Align Your Steps" uses the table of SDXL instead of Stable Diffusion's.
        plan: what a family adds, e.g. `sequence_length` for flow matching.

    Raises:
        InvalidInputError: unknown name, or a number of steps or eta out of range.
        UnsupportedModelError: the config's own sampler, or one of its fields, is not supported.
    """
    if eta is not None and not 0.0 <= eta <= 1.0:
        raise InvalidInputError(f"eta is {eta}, must be in 0..1")
    if name is None:
        own = scheduler_name(config)
        if config.get("_class_name") not in _PLANNERS:
            raise UnsupportedModelError(
                f"the model's scheduler {own or '(none)'} is not supported",
                hint=f"choose one with scheduler=...: {', '.join(SAMPLERS)}",
            )
        return _PLANNERS[config["_class_name"]]({**config, "eta": eta}, steps, **plan)
    sampler = find_sampler(name)
    fields = {**config, **sampler.fields, "eta": eta}
    if sampler.schedule is not None:
        fields = {key: value for key, value in fields.items() if key not in _FLAGS}
        fields |= _schedule_fields(sampler, is_sdxl=is_sdxl)
    return _PLANNERS[sampler.class_name](fields, steps, **plan)


def _schedule_fields(sampler: Sampler, *, is_sdxl: bool) -> dict[str, Any]:
    if sampler.schedule == "sgm-uniform":
        return {"timestep_spacing": "trailing"}
    return {"sigma_schedule": "ays-sdxl" if sampler.schedule == "ays" and is_sdxl else sampler.schedule}


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
    if options.sigma_schedule is not None:
        sigmas = options.make_scheduled_sigmas(steps, sigma_min=float(sigmas[-1]), sigma_max=float(sigmas[0]))
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
    "DDPMScheduler": plan_ddpm,
    "PNDMScheduler": plan_pndm,
    "LCMScheduler": plan_lcm,
    "TCDScheduler": plan_tcd,
    "EulerDiscreteScheduler": partial(plan_sigmas, sampler=euler, unused=_NOT_EULER),
    "EulerAncestralDiscreteScheduler": partial(
        plan_sigmas, sampler=k_diffusion.euler_ancestral, unused=_NOT_ANCESTRAL, noise="all"
    ),
    "LMSDiscreteScheduler": partial(plan_sigmas, sampler=k_diffusion.lms, unused=_NOT_LMS),
    "HeunDiscreteScheduler": partial(
        plan_sigmas, sampler=k_diffusion.heun, unused=_NOT_HEUN, midpoint=k_diffusion.next_sigma
    ),
    "KDPM2DiscreteScheduler": partial(
        plan_sigmas,
        sampler=k_diffusion.dpm2,
        unused=_NOT_LMS,
        midpoint=k_diffusion.geometric_mean,
        rounds_karras=True,
    ),
    "KDPM2AncestralDiscreteScheduler": partial(
        plan_sigmas,
        sampler=partial(k_diffusion.dpm2, is_ancestral=True),
        unused=_NOT_LMS,
        noise="second",
        midpoint=k_diffusion.ancestral_mean,
        rounds_karras=True,
    ),
    "DPMSolverSDEScheduler": partial(
        plan_sigmas,
        sampler=k_diffusion.dpm_sde,
        unused=_NOT_LMS,
        noise="before last",
        midpoint=k_diffusion.geometric_mean,
    ),
    "DPMSolverMultistepScheduler": plan_dpm_solver,
    "DPMSolverSinglestepScheduler": plan_dpm_solver_singlestep,
    "UniPCMultistepScheduler": plan_unipc,
    "DEISMultistepScheduler": plan_deis,
    "EDMEulerScheduler": partial(plan_edm, sampler=euler),
    "EDMDPMSolverMultistepScheduler": plan_edm_dpm_solver,
    "FlowMatchEulerDiscreteScheduler": plan_flow_match_euler,
}
