"""Samplers and sigma schedules by name: ours, diffusers' classes, AUTOMATIC1111's and ComfyUI's names.

A name is a sampler, or a sampler and a schedule: `dpm++2m`, `dpm++2m-karras`, `euler-beta`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from swiftai_nb.core.errors import InvalidInputError

SamplerKind = Literal["noise", "flow", "edm"]

_SPACED = ("sgm-uniform",)
_ALL_SCHEDULES = ("karras", "exponential", "beta", "ays", *_SPACED)
# schedule as users and other tools write it -> ours; "" is the sampler's own
_SCHEDULE_NAMES: Mapping[str, str] = {
    **{name: name for name in _ALL_SCHEDULES},
    "k": "karras",
    "polyexponential": "exponential",
    "align-your-steps": "ays",
    "simple": "sgm-uniform",
    "trailing": "sgm-uniform",
    "normal": "",
    "uniform": "",
    "automatic": "",
}
_SCHEDULE_FLAGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
_FIELD_DEFAULTS = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint"}


@dataclass(frozen=True)
class Sampler:
    """A sampler that this package can run.

    Attributes:
        name: short name, as users write it.
        class_name: the class name in a diffusers `scheduler_config.json`.
        aliases: its names in AUTOMATIC1111, ComfyUI and InvokeAI.
        fields: of the configuration, which make this sampler of its class.
        schedules: the sigma schedules that it can be given.
        schedule: the one that it has; None is the configuration's own.
        kind: of the models that it fits: those that predict noise or velocity, flow-matching models, or
            models trained with EDM's preconditioning.
    """

    name: str
    class_name: str
    aliases: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    schedules: tuple[str, ...] = _ALL_SCHEDULES
    schedule: str | None = None
    kind: SamplerKind = "noise"

    def with_schedule(self, schedule: str) -> Sampler:
        """The same sampler over another sigma schedule."""
        return replace(self, name=f"{self.name}-{schedule}", aliases=(), schedule=schedule)


def _multistep(name: str, order: int, *aliases: str, algorithm: str = "dpmsolver++", **more: Any) -> Sampler:
    fields = {"algorithm_type": algorithm, "solver_order": order, **more}
    return Sampler(name, "DPMSolverMultistepScheduler", aliases, MappingProxyType(fields))


_SDE = "sde-dpmsolver++"
# fmt: off
_TABLE: tuple[Sampler, ...] = (
    Sampler("ddim", "DDIMScheduler", ("DDIM",), schedules=_SPACED),
    Sampler("ddpm", "DDPMScheduler", ("DDPM",), schedules=_SPACED),
    Sampler("pndm", "PNDMScheduler", ("PLMS", "plms"), schedules=()),
    Sampler("euler", "EulerDiscreteScheduler", ("Euler", "k_euler")),
    Sampler("euler-a", "EulerAncestralDiscreteScheduler",
            ("Euler a", "euler_ancestral", "k_euler_a", "k_euler_ancestral")),
    Sampler("heun", "HeunDiscreteScheduler", ("Heun", "k_heun")),
    Sampler("dpm2", "KDPM2DiscreteScheduler", ("DPM2", "dpm_2", "kdpm_2", "k_dpm_2")),
    Sampler("dpm2-a", "KDPM2AncestralDiscreteScheduler",
            ("DPM2 a", "dpm_2_ancestral", "kdpm_2_a", "k_dpm_2_a")),
    Sampler("lms", "LMSDiscreteScheduler", ("LMS", "k_lms")),
    _multistep("dpm++2m", 2, "DPM++ 2M", "dpmpp_2m", "k_dpmpp_2m", "dpmpp2m"),
    _multistep("dpm++3m", 3, "DPM++ 3M", "dpmpp_3m"),
    _multistep("dpm++2m-sde", 2, "DPM++ 2M SDE", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu", algorithm=_SDE),
    _multistep("dpm++2m-sde-heun", 2, "DPM++ 2M SDE Heun", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu",
               algorithm=_SDE, solver_type="heun"),
    _multistep("dpm++3m-sde", 3, "DPM++ 3M SDE", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", algorithm=_SDE),
    Sampler("dpm++sde", "DPMSolverSDEScheduler", ("DPM++ SDE", "dpmpp_sde", "dpmpp_sde_gpu")),
    Sampler("dpm++2s", "DPMSolverSinglestepScheduler", ("DPM++ 2S", "dpmpp_2s"),
            schedules=("karras", "exponential", "beta", "ays")),
    Sampler("unipc", "UniPCMultistepScheduler", ("UniPC", "uni_pc", "uni_pc_bh2")),
    Sampler("deis", "DEISMultistepScheduler", ("DEIS",)),
    Sampler("lcm", "LCMScheduler", ("LCM",), schedules=()),
    Sampler("tcd", "TCDScheduler", ("TCD",), schedules=()),
    Sampler("edm-euler", "EDMEulerScheduler", schedules=("karras", "exponential"), kind="edm"),
    Sampler("edm-dpm++2m", "EDMDPMSolverMultistepScheduler", schedules=("karras", "exponential"), kind="edm"),
    Sampler("flow-match-euler", "FlowMatchEulerDiscreteScheduler", ("flowmatch_euler",), schedules=(),
            kind="flow"),
)
# fmt: on
_BASE: Mapping[str, Sampler] = {sampler.name: sampler for sampler in _TABLE}
SAMPLERS: Mapping[str, Sampler] = {
    variant.name: variant
    for sampler in _TABLE
    for variant in (sampler, *([sampler.with_schedule("karras")] if "karras" in sampler.schedules else []))
}
"""By short name, each with and without Karras' sigmas; `find_sampler` knows the other schedules too."""
CLASS_NAMES: Mapping[str, str] = {s.class_name: s.name for s in reversed(_TABLE)}


def _key(name: str) -> str:
    """Without case, kind of separator, spelling of "++" and ComfyUI's "_gpu"."""
    key = re.sub(r"-gpu\b", "", re.sub(r"[\s_-]+", "-", name.strip().lower()))
    return re.sub(r"dpm(\+\+|pp)-?", "dpm++", key)


ALIASES: Mapping[str, str] = {_key(alias): s.name for s in _TABLE for alias in (*s.aliases, s.name)}


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The short name of the sampler in a `scheduler_config.json`; its class name if it is not supported."""
    name = str(config.get("_class_name", ""))
    if name not in CLASS_NAMES:
        return name
    sampler = _BASE[CLASS_NAMES[name]]
    rows = sorted((s for s in _TABLE if s.class_name == name), key=lambda s: -len(s.fields))
    for row in rows:
        if all(config.get(key, _FIELD_DEFAULTS[key]) == value for key, value in row.fields.items()):
            sampler = row
            break
    if sampler.name == "euler-a":  # its class in diffusers has no such flags
        return sampler.name
    schedule = next((s for flag, s in _SCHEDULE_FLAGS.items() if config.get(flag)), "")
    return sampler.with_schedule(schedule).name if schedule in sampler.schedules else sampler.name


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


def find_sampler(name: str) -> Sampler:
    """The sampler, with the schedule where the name has one.

    Args:
        name: ours, a diffusers class name, or a name of AUTOMATIC1111, ComfyUI or InvokeAI; a schedule
            follows after a space, hyphen or underscore ("DPM++ 2M SDE Karras", "dpmpp_2m_sde_karras").

    Raises:
        InvalidInputError: no such sampler, or not with this schedule; suggests the nearest.
    """
    text = name.strip()
    for class_name in (text, f"{text}Scheduler"):
        if class_name in CLASS_NAMES:
            return _BASE[CLASS_NAMES[class_name]]
    key = _key(text)
    if key in ALIASES:
        return _BASE[ALIASES[key]]
    for word, schedule in _SCHEDULE_NAMES.items():
        base = ALIASES.get(key.removesuffix(f"-{word}")) if key.endswith(f"-{word}") else None
        if base is None:
            continue
        sampler = _BASE[base]
        if not schedule:
            return sampler
        if schedule in sampler.schedules:
            return sampler.with_schedule(schedule)
        listed = ", ".join(f"{base}-{known}" for known in sampler.schedules)
        raise InvalidInputError(
            f"scheduler {base} has no schedule {schedule!r}",
            hint=f"use {base}" + (f" or one of: {listed}" if listed else ""),
        )
    near = difflib.get_close_matches(key, SAMPLERS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose one of: {', '.join(SAMPLERS)}"
    raise InvalidInputError(f"there is no scheduler named {name!r}", hint=hint)


def canonical_name(name: str) -> str:
    """A user's, diffusers' or another tool's name -> our short name; errors as of `find_sampler`."""
    return find_sampler(name).name


def uses_eta(name: str) -> bool:
    """Whether a sampler, by its short name, has an `eta`."""
    sampler = SAMPLERS.get(name)
    return sampler is not None and sampler.class_name in ("DDIMScheduler", "TCDScheduler")


def fitting_samplers(*, kind: SamplerKind) -> tuple[str, ...]:
    """Names of the samplers for one kind of models."""
    return tuple(s.name for s in SAMPLERS.values() if s.kind == kind)
