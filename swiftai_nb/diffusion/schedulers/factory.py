"""From a sampler's name or a model's `scheduler_config.json` to a planned run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, cast

from swiftai_nb.core.errors import UnsupportedModelError
from swiftai_nb.diffusion.schedulers.scheduler import Scheduler
from swiftai_nb.model_files.samplers import SAMPLERS, canonical_name, scheduler_name

_PACKAGE = "swiftai_nb.diffusion.schedulers"
# diffusers' class name -> (module, class)
_CLASSES = {
    "DDIMScheduler": ("ddim", "DDIMScheduler"),
    "PNDMScheduler": ("pndm", "PNDMScheduler"),
    "EulerDiscreteScheduler": ("euler", "EulerScheduler"),
    "EulerAncestralDiscreteScheduler": ("euler", "EulerAncestralScheduler"),
    "DPMSolverMultistepScheduler": ("dpm_solver", "DPMSolverMultistepScheduler"),
    "LMSDiscreteScheduler": ("lms", "LMSScheduler"),
    "LCMScheduler": ("lcm", "LCMScheduler"),
    "FlowMatchEulerDiscreteScheduler": ("flow_match_euler", "FlowMatchEulerScheduler"),
}


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
        UnsupportedModelError: the config's own sampler is not supported.
    """
    if name is None:
        own = scheduler_name(config)
        if own not in SAMPLERS:
            raise UnsupportedModelError(
                f"the model's scheduler {own or '(none)'} is not supported",
                hint=f"Choose one with scheduler=...: {', '.join(SAMPLERS)}.",
            )
        name = own
    sampler = SAMPLERS[canonical_name(name)]
    module, class_name = _CLASSES[sampler.class_name]
    scheduler = getattr(import_module(f"{_PACKAGE}.{module}"), class_name)
    from_config = cast("Callable[..., Scheduler]", scheduler.from_config)
    fields = {"use_karras_sigmas": True} if sampler.uses_karras_sigmas else {}
    return from_config({**config, **fields}, steps, **plan)
