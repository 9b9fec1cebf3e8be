"""The widget's form: its request, what that would take or why it is refused, its lists and its presets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.config import ImageGenerationConfig, LoraReference, checked_int
from swiftai_nb.core.enlargement import LANCZOS
from swiftai_nb.core.errors import (
    AIError,
    InvalidInputError,
    ModelNotDownloadedError,
    ModelNotFoundError,
    UnsupportedModelError,
)
from swiftai_nb.core.format import short_repr
from swiftai_nb.core.paths import user_path
from swiftai_nb.core.prompt_choices import find_choices
from swiftai_nb.core.prompt_syntax import take_lora_tags
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.model_files.json_file import parse_json, write_json_atomically
from swiftai_nb.model_files.samplers import fitting_samplers
from swiftai_nb.notebook import wire
from swiftai_nb.notebook.magic.prompt import STYLES, find_style
from swiftai_nb.notebook.magic.request import Defaults
from swiftai_nb.notebook.session import running_shell
from swiftai_nb.registry.catalog import catalog
from swiftai_nb.registry.user_config import state_dir

if TYPE_CHECKING:
    from swiftai_nb.core.control import ControlReference
    from swiftai_nb.core.image import GeneratedImage
    from swiftai_nb.core.request import GenerationPlan
    from swiftai_nb.notebook.session import Session
    from swiftai_nb.notebook.wire import Choices

LONG_ON_CPU_S = 60.0
MAX_COUNT = 100
MAX_LORAS = 8
MAX_PRESETS = 100
MAX_NAME_LENGTH = 60
# A preset is a way of drawing: not what is drawn, and not which picture of it.
_OF_ONE_PICTURE = ("prompt", "seed", "count", "outpaint")
PRESET_SETTINGS = tuple(name for name in wire.SETTINGS if name not in _OF_ONE_PICTURE)
_TEXT_SETTINGS = ("prompt", "negative_prompt", "model", "engine", "aspect_ratio", "scheduler", "style",
                  "upscaler", "outpaint")  # fmt: skip
_NUMBERS = ("guidance_scale", "strength", "hires", "hires_strength", "upscale")
_WHOLE_NUMBERS = ("width", "height", "steps", "hires_steps")
_PRESET_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXT_SETTINGS[1:], (str,)),
    **dict.fromkeys(_WHOLE_NUMBERS, (int, type(None))),
    **dict.fromkeys(_NUMBERS, (int, float, type(None))),
    "loras": (list,),
}
# Words that begin the messages of errors -> the setting they are about.
_FIELDS = {"lora": "loras", "sampler": "scheduler", "guidance": "guidance_scale", "image": "strength"}
# What messages say that are about a field without beginning with its name.
_ABOUT = (
    (re.compile(r"^a control|^th(?:e|is) control|^the picture for|^\d+ controls|ControlNet"), "controls"),
    (re.compile(r"^outpaint|^the picture and its margins|beyond their edges"), "outpaint"),
    (re.compile(r"^this picture was|^cannot read a picture|^the picture (has|is|did)\b"), "inputs"),
    (re.compile(r"upscaler"), "upscaler"),
    (re.compile(r"^a hires pass"), "hires"),
    (re.compile(r"enlarge"), "upscale"),
)
_FIELD_OF_KIND = {"controlnet": "controls", "upscaler": "upscaler", "lora": "loras"}
_LIMITS = re.compile(r"between (?P<low>\d+) and (?P<high>\d+)\b.*\(got (?P<given>-?\d[\d.e+]*)\)")
_ASPECT_RATIO = re.compile(r"([1-9]\d?):([1-9]\d?)")
_FILE_NAME = "widget_presets.json"
_MAX_FILE_BYTES = 2**20


def configured_defaults() -> Defaults:
    """`%config Imagine.…` of this notebook; the built-in ones where the magics are not loaded."""
    shell = running_shell()
    magics = None if shell is None else shell.magics_manager.registry.get("Imagine")
    defaults: Defaults = Defaults() if magics is None else magics.defaults()
    return defaults


def request_of(
    settings: Mapping[str, Any],
    *,
    image: GeneratedImage | None = None,
    mask: GeneratedImage | None = None,
    references: Sequence[GeneratedImage] = (),
    controls: Sequence[ControlReference] = (),
    defaults: Defaults | None = None,
) -> GenerationRequest:
    """The request that a form stands for.

    Args:
        settings: name -> value, of `wire.SETTINGS`; what is missing is the model's default.
        image: the picture to start from.
        mask: where to paint it anew.
        references: pictures that the prompt refers to.
        controls: pictures that steer.
        defaults: for what the form does not have: `plain`, `styles`, `wildcards`, `embed_references`,
            `provider`, `base_url` and `bill_to`; None is `configured_defaults()`.

    Raises:
        InvalidInputError: no prompt, no such style, or a value outside its limits.
    """
    defaults = configured_defaults() if defaults is None else defaults
    values = {name: settings.get(name) for name in wire.SETTINGS}
    for name in _TEXT_SETTINGS:
        if not isinstance(values[name], (str, type(None))):
            raise InvalidInputError(f"{name} must be a text (got {short_repr(values[name])})")
    typed, tags = take_lora_tags(values["prompt"] or "")
    ratio = values["aspect_ratio"]
    config = ImageGenerationConfig(
        width=None if ratio else values["width"],
        height=None if ratio else values["height"],
        steps=values["steps"],
        guidance_scale=values["guidance_scale"],
        seed=values["seed"],
        scheduler=values["scheduler"] or None,
        model=values["model"] or None,
        loras=(*_loras(values["loras"] or ()), *(LoraReference(*tag) for tag in tags)),
        image=None if image is None else image.data,
        strength=None if image is None else values["strength"],
        mask=None if image is None or mask is None else mask.data,
        references=tuple(one.data for one in references),
        controls=controls,
        outpaint=None if image is None else values["outpaint"] or None,
        **_enlarging(values),
        filled_in="" if defaults.plain else None,
        embed_references=defaults.embed_references,
    )
    prompt, negative = typed, values["negative_prompt"] or None
    if values["style"] and typed.strip():
        prompt, negative = find_style(str(values["style"]), defaults.styles).apply(prompt, negative)
    count = 1 if values["count"] is None else values["count"]
    request = GenerationRequest.of(
        prompt,
        config,
        negative_prompt=negative,
        count=checked_int("count", count, low=1, high=MAX_COUNT),
        engine=values["engine"] or "local",
    )
    folder = state_dir() / "wildcards" if defaults.wildcards is None else user_path(defaults.wildcards)
    choices, notes = find_choices(prompt, negative, folder)
    is_cloud = request.engine == "cloud"
    return replace(
        request,
        display_prompt=typed,
        aspect_ratio=_aspect_ratio(ratio),
        choices=choices,
        notes=notes,
        provider=defaults.provider if is_cloud else None,
        base_url=defaults.base_url if request.engine == "openai" else None,
        bill_to=defaults.bill_to if is_cloud else None,
    )


def _enlarging(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of what makes pictures larger; what only one of them uses is left out without it."""
    hires, upscale = values["hires"], values["upscale"]
    details = {} if hires is None else {name: values[name] for name in ("hires_strength", "hires_steps")}
    upscaler = None if hires is None and upscale is None else values["upscaler"] or None
    return {"hires": hires, **details, "upscale": upscale, "upscaler": upscaler}


def plan_report(plan: GenerationPlan, *, request_id: str) -> dict[str, Any]:
    """What a request would take; `asks` when it is so long that the page asks before it begins."""
    seconds = None if plan.estimated_s is None else plan.estimated_s * plan.request.count
    return {
        "kind": "plan",
        "request_id": request_id,
        "estimated_s": None if seconds is None else round(seconds, 2),
        "device": plan.device or "",
        "memory": plan.memory,
        "width": plan.size[0],
        "height": plan.size[1],
        "steps": plan.steps,
        "notes": [*_sending_notes(plan), *plan.notes],
        "asks": plan.device == "cpu" and seconds is not None and seconds > LONG_ON_CPU_S,
    }


def _sending_notes(plan: GenerationPlan) -> list[str]:
    """Where the request goes, and at what price; nothing for a local engine."""
    return [note for note in (f"sends {plan.sends}", plan.cost) if note] if plan.sends else []


def error_report(error: AIError, *, request_id: str = "", model: str = "") -> dict[str, Any]:
    """An error for the page: with the field of the form that it concerns, and values that would do.

    Args:
        error: any of ours.
        request_id: the page's id of the request that failed.
        model: the model whose download or deletion failed.
    """
    field, fixes = field_and_fixes(error)
    return {
        "kind": "error",
        "request_id": request_id,
        "message": error.message,
        "hint": "" if error.hint is None else error.hint,
        "field": field,
        "fixes": fixes,
        "model": model,
    }


def field_and_fixes(error: AIError) -> tuple[str, list[float]]:
    """The setting that an error is about ("" for none), and numbers it could be set to instead."""
    about = next((field for pattern, field in _ABOUT if pattern.search(error.message)), None)
    first = error.message.partition(" ")[0]
    about = _FIELD_OF_KIND.get(next((i.kind for i in catalog() if i.id == first), ""), about)
    if about is None and isinstance(
        error, (ModelNotFoundError, ModelNotDownloadedError, UnsupportedModelError)
    ):
        return "model", []
    words = error.message.replace(",", " ").split()[:3]
    named = (_FIELDS.get(word, word) for word in words if _FIELDS.get(word, word) in wire.SETTINGS)
    field = next(named, "") if about is None else about
    if field not in (*_NUMBERS, *_WHOLE_NUMBERS, "seed", "count"):
        return field, []
    if limits := _LIMITS.search(error.message):
        low, high, given = (float(limits[name]) for name in ("low", "high", "given"))
        return field, [min(max(given, low), high)]
    numbers = re.fullmatch(r"use (\d+)(?: or (\d+))?", error.hint or "")
    return field, [] if numbers is None else [float(one) for one in numbers.groups() if one is not None]


def choices(session: Session) -> Choices:
    """What the lists of the form offer now."""
    registry = session.registry
    here = [one for one in registry.available_models if one.kind != "model" and registry.is_installed(one)]
    loras, upscalers = ([one.id for one in here if one.kind == kind] for kind in ("lora", "upscaler"))
    return {
        "samplers": {
            "noise": list(fitting_samplers(kind="noise")),
            "flow": list(fitting_samplers(kind="flow")),
        },
        "styles": list({**STYLES, **configured_defaults().styles}),
        "loras": loras,
        "upscalers": [LANCZOS, *upscalers],
        "presets": Presets(session.registry.home).read(),
    }


class Presets:
    """Forms by name, in a file of the user's settings; several kernels may use it.

    Args:
        home: the folder of the user's settings.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / _FILE_NAME

    def read(self) -> dict[str, dict[str, Any]]:
        """All presets by name; entries that are none are left out, as is a file that cannot be read."""
        try:
            is_small = self._path.stat().st_size <= _MAX_FILE_BYTES
            data = parse_json(self._path.read_bytes()) if is_small else None
        except (OSError, ValueError):
            return {}
        presets = data.get("presets") if isinstance(data, dict) else None
        if not isinstance(presets, dict):
            return {}
        return {name: _preset(one) for name, one in presets.items() if isinstance(one, dict)}

    def save(self, name: str, settings: Mapping[str, Any]) -> None:
        """Stores a form under a name; replaces one of that name.

        Raises:
            InvalidInputError: no name, a long one, or too many presets.
            AIError: the folder cannot be written.
        """
        name = " ".join(str(name).split())
        if not 1 <= len(name) <= MAX_NAME_LENGTH:
            raise InvalidInputError(f"a preset needs a name of 1 to {MAX_NAME_LENGTH} characters")
        presets = self.read()
        if name not in presets and len(presets) >= MAX_PRESETS:
            raise InvalidInputError(f"there are {MAX_PRESETS} presets already", hint="delete one first")
        self._write({**presets, name: _preset(settings)})

    def delete(self, name: str) -> None:
        """Removes the preset of that name; nothing where there is none.

        Raises:
            AIError: the folder cannot be written.
        """
        self._write({key: value for key, value in self.read().items() if key != name})

    def _write(self, presets: Mapping[str, Any]) -> None:
        try:
            write_json_atomically(self._path, {"version": 1, "presets": presets})
        except OSError as error:
            raise AIError(
                f"cannot write {self._path}: {error.strerror or error}",
                hint="set SWIFTAI_HOME to a writable folder",
            ) from error


def _preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a preset holds, each of its type and within its limits."""
    found = {name: settings[name] for name in PRESET_SETTINGS if name in settings}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, _PRESET_TYPES[name]) and not isinstance(value, bool) and _is_sound(name, value)
    }


def _is_sound(name: str, value: Any) -> bool:
    if name == "engine":
        return value in wire.ENGINES
    try:
        request_of({"prompt": "-", "hires": 1.5 if name.startswith("hires_") else None, name: value})
        ImageGenerationConfig(strength=value if name == "strength" else None)
    except (AIError, TypeError, ValueError):
        return name in ("style", "scheduler", "upscaler")  # of another version; refused when it is used
    return name != "loras" or all(isinstance(one, dict) and set(one) == {"source", "scale"} for one in value)


def _loras(values: Sequence[Any]) -> tuple[LoraReference, ...]:
    if not isinstance(values, (list, tuple)) or len(values) > MAX_LORAS:
        raise InvalidInputError(f"loras must be a list of at most {MAX_LORAS}")
    return tuple(
        LoraReference(str(one.get("source", "")).strip(), one.get("scale", 1.0))
        for one in values
        if isinstance(one, Mapping)
    )


def _aspect_ratio(text: Any) -> tuple[int, int] | None:
    if not text:
        return None
    found = _ASPECT_RATIO.fullmatch(str(text))
    if found is None:
        raise InvalidInputError(f"aspect_ratio must be such as 3:4 (got {str(text)[:20]!r})")
    return int(found[1]), int(found[2])
