"""Samplers by name: users' short names, diffusers' class names, and which models each one fits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swiftai_nb.core.errors import InvalidInputError


@dataclass(frozen=True)
class Sampler:
    """A sampler that this package can run.

    Attributes:
        name: short name, as users write it.
        class_name: the class name in a diffusers `scheduler_config.json`.
        uses_karras_sigmas: whether it is the variant with Karras' noise levels.
        is_flow: for flow-matching models; others are for models that predict noise or velocity.
    """

    name: str
    class_name: str
    uses_karras_sigmas: bool = False
    is_flow: bool = False


SAMPLERS: Mapping[str, Sampler] = {
    sampler.name: sampler
    for sampler in (
        Sampler("ddim", "DDIMScheduler"),
        Sampler("pndm", "PNDMScheduler"),
        Sampler("euler", "EulerDiscreteScheduler"),
        Sampler("euler-karras", "EulerDiscreteScheduler", uses_karras_sigmas=True),
        Sampler("euler-a", "EulerAncestralDiscreteScheduler"),
        Sampler("dpm++2m", "DPMSolverMultistepScheduler"),
        Sampler("dpm++2m-karras", "DPMSolverMultistepScheduler", uses_karras_sigmas=True),
        Sampler("lms", "LMSDiscreteScheduler"),
        Sampler("lms-karras", "LMSDiscreteScheduler", uses_karras_sigmas=True),
        Sampler("lcm", "LCMScheduler"),
        Sampler("flow-match-euler", "FlowMatchEulerDiscreteScheduler", is_flow=True),
    )
}
CLASS_NAMES: Mapping[str, str] = {s.class_name: s.name for s in SAMPLERS.values() if not s.uses_karras_sigmas}
ALIASES: Mapping[str, str] = {
    "plms": "pndm",
    "euler-ancestral": "euler-a",
    "dpmpp-2m": "dpm++2m",
    "dpmpp2m": "dpm++2m",
    "dpm++-2m": "dpm++2m",
    "dpmpp-2m-karras": "dpm++2m-karras",
    "dpmpp2m-karras": "dpm++2m-karras",
    "dpm++-2m-karras": "dpm++2m-karras",
    "flowmatch-euler": "flow-match-euler",
}


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The short name of the sampler in a `scheduler_config.json`; its class name if it is not supported."""
    name = str(config.get("_class_name", ""))
    short = CLASS_NAMES.get(name, name)
    karras = f"{short}-karras"
    return karras if config.get("use_karras_sigmas") and karras in SAMPLERS else short


def is_distilled_turbo(config: Mapping[str, Any]) -> bool:
    """Whether a `scheduler_config.json` is that of a Turbo model: 1 to 4 trailing Euler steps, no guidance.

    Zero-SNR models use trailing timesteps too, but rescale their betas, and the distilled models predict
    noise.
    """
    return (
        scheduler_name(config) in ("euler", "euler-a")
        and config.get("timestep_spacing") == "trailing"
        and not config.get("rescale_betas_zero_snr")
        and config.get("prediction_type", "epsilon") == "epsilon"
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
        hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(SAMPLERS)}"
        raise InvalidInputError(f"there is no scheduler named {name!r}", hint=hint)
    return short


def fitting_samplers(*, is_flow: bool) -> tuple[str, ...]:
    """Names of the samplers for flow-matching models, or for the others."""
    return tuple(s.name for s in SAMPLERS.values() if s.is_flow == is_flow)
