"""Values in the metadata of other programs: bounded numbers, sizes, names of samplers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from swiftai_nb.core.config import MAX_GUIDANCE_SCALE, MAX_SEED, MAX_SIDE, MAX_STEPS, MIN_SIDE

Fields = dict[str, Any]
"""Values by the names of `Recipe`'s fields; not yet validated."""

_MAX_NUMBER_LENGTH = 30
# What `ImageGenerationConfig` takes.
_LIMITS: Mapping[str, tuple[float, float]] = {
    "width": (MIN_SIDE, MAX_SIDE),
    "height": (MIN_SIDE, MAX_SIDE),
    "steps": (1, MAX_STEPS),
    "hires_steps": (1, MAX_STEPS),
    "seed": (0, MAX_SEED),
    "guidance_scale": (0.0, MAX_GUIDANCE_SCALE),
    "guidance_rescale": (0.0, 1.0),
    "eta": (0.0, 1.0),
    "clip_skip": (0, 12),
    "strength": (0.0, 1.0),
    "hires_strength": (0.0, 1.0),
}
_NORMAL_SCHEDULES = ("", "automatic", "normal", "uniform")
_SCHEDULES = (
    "karras",
    "exponential",
    "polyexponential",
    "beta",
    "sgm uniform",
    "simple",
    "align your steps",
)
# AUTOMATIC1111 gives these samplers no schedule, whatever is chosen.
_UNSCHEDULED = ("ddim", "plms", "unipc", "lcm", "pndm", "tcd")


def scheduler_of(sampler: str | None, schedule: str) -> tuple[str | None, list[str]]:
    """Sampler and "Schedule type" as one name ("DPM++ 2M Karras"), and notes."""
    if sampler is None or schedule.lower() in _NORMAL_SCHEDULES:
        return sampler, []
    if sampler.lower() in _UNSCHEDULED:
        return sampler, []
    kind = schedule.lower().replace("_", " ")
    if kind in _SCHEDULES:
        return (sampler if sampler.lower().endswith(kind) else f"{sampler} {schedule}"), []
    return sampler, [f"schedule type {schedule[:40]} is not supported; the sampler's own is used"]


def size_of(text: str) -> tuple[int | None, int | None]:
    """(width, height) in a text such as "512x768"; None for each where there is no size."""
    found = re.fullmatch(r"(\d{1,9})\s*[x×]\s*(\d{1,9})", text[:_MAX_NUMBER_LENGTH])
    return (int(found[1]), int(found[2])) if found else (None, None)


def number_of(kind: type[int] | type[float], value: Any) -> Any:
    """`value` as a finite number, or None."""
    if (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, str) and len(value) > _MAX_NUMBER_LENGTH)
    ):
        return None
    try:
        number = kind(value)
        return number if math.isfinite(number) else None
    except (TypeError, ValueError, OverflowError):
        return None


def within_limits(fields: Fields) -> Fields:
    """The fields of another program's recipe, without those that cannot be set here; notes name them."""
    kept, notes = dict(fields), list(fields.get("notes", ()))
    for name, (low, high) in _LIMITS.items():
        value = kept.get(name)
        if value is None or low <= value <= high:
            continue
        kept[name] = None
        if not (name == "seed" and value == -1):  # a random one
            notes.append(f"{name} {value} is outside of {low:g} to {high:g}; it was left out")
    if (kept.get("width") is None) != (kept.get("height") is None):
        kept["width"] = kept["height"] = None
    return {**kept, "notes": notes}


def text_of(value: Any) -> str | None:
    """A text that is not empty, or None."""
    return value if isinstance(value, str) and value.strip() else None
