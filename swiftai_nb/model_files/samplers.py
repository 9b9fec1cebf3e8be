"""Samplers by name: the users' short names and diffusers' class names."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from swiftai_nb.core.errors import InvalidInputError, UnsupportedModelError

if TYPE_CHECKING:  # the names alone must be readable without mlx
    from swiftai_nb.diffusion.schedulers.scheduler import Scheduler

# name -> (module, class, config fields it sets)
_PACKAGE = "swiftai_nb.diffusion.schedulers"
SAMPLERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ddim": ("ddim", "DDIMScheduler", {}),
    "pndm": ("pndm", "PNDMScheduler", {}),
    "euler": ("euler", "EulerScheduler", {}),
    "euler-karras": ("euler", "EulerScheduler", {"use_karras_sigmas": True}),
    "euler-a": ("euler", "EulerAncestralScheduler", {}),
    "dpm++2m": ("dpm_solver", "DPMSolverMultistepScheduler", {}),
    "dpm++2m-karras": ("dpm_solver", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "lms": ("lms", "LMSScheduler", {}),
    "lms-karras": ("lms", "LMSScheduler", {"use_karras_sigmas": True}),
    "lcm": ("lcm", "LCMScheduler", {}),
    "flow-match-euler": ("flow_match_euler", "FlowMatchEulerScheduler", {}),
}
CLASS_NAMES = {
    "DDIMScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-a",
    "DPMSolverMultistepScheduler": "dpm++2m",
    "LMSDiscreteScheduler": "lms",
    "LCMScheduler": "lcm",
    "FlowMatchEulerDiscreteScheduler": "flow-match-euler",
}
ALIASES = {
    "plms": "pndm",
    "euler-ancestral": "euler-a",
    "euler_a": "euler-a",
    "dpmpp2m": "dpm++2m",
    "dpm++-2m": "dpm++2m",
    "dpmpp2m-karras": "dpm++2m-karras",
    "dpm++-2m-karras": "dpm++2m-karras",
    "flowmatch-euler": "flow-match-euler",
}


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The short name of the sampler a `scheduler_config.json` names; its class name if we lack it."""
    name = str(config.get("_class_name", ""))
    short = CLASS_NAMES.get(name, name)
    karras = f"{short}-karras"
    return karras if config.get("use_karras_sigmas") and karras in SAMPLERS else short


def is_distilled_turbo(config: Mapping[str, Any]) -> bool:
    """Whether a `scheduler_config.json` is that of SD Turbo: 1 to 4 trailing Euler steps, no guidance.

    Zero-SNR models, which are trailing too, rescale their betas.
    """
    return (
        scheduler_name(config) in ("euler", "euler-a")
        and config.get("timestep_spacing") == "trailing"
        and not config.get("rescale_betas_zero_snr")
    )


def canonical_name(name: str) -> str:
    """A user's or diffusers' name -> the short name in `SAMPLERS`.

    Raises:
        InvalidInputError: no such sampler; suggests the nearest.
    """
    key = name.strip()
    short = CLASS_NAMES.get(
        key, CLASS_NAMES.get(f"{key}Scheduler", key.lower().replace("_", "-").replace(" ", "-"))
    )
    short = ALIASES.get(short, short)
    if short not in SAMPLERS:
        near = difflib.get_close_matches(short, SAMPLERS, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(SAMPLERS)}."
        raise InvalidInputError(f"there is no scheduler named {name!r}", hint=hint)
    return short


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
        UnsupportedModelError: the config's own sampler is one we lack.
    """
    if name is None:
        own = scheduler_name(config)
        if own not in SAMPLERS:
            raise UnsupportedModelError(
                f"the model's scheduler {own or '(none)'} is not supported",
                hint=f"Choose one with scheduler=...: {', '.join(SAMPLERS)}.",
            )
        name = own
    module, class_name, fields = SAMPLERS[canonical_name(name)]
    sampler = getattr(import_module(f"{_PACKAGE}.{module}"), class_name)
    from_config = cast("Callable[..., Scheduler]", sampler.from_config)
    return from_config({**config, **fields}, steps, **plan)
