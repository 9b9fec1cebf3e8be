"""Reading recipes from the metadata of image files: ours, AUTOMATIC1111's, InvokeAI's and ComfyUI's.

The files are untrusted. Readers take bounded text, run in linear time, and return plain field values that
`Recipe.from_dict` validates; for text that is not a recipe they return None.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.enlargement import LANCZOS, MAX_FACTOR, MAX_HIRES
from swiftai_nb.core.image_input import DAMAGED_EXIF
from swiftai_nb.core.prompt_syntax import SYNTAXES

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_USER_COMMENT = 0x9286
EXIF_SUB_IFD = 0x8769
MAX_TEXT_LENGTH = 1_000_000  # characters; ComfyUI writes whole graphs
MAX_OWN_TEXT_LENGTH = 40_000_000  # our recipes may hold the pictures that they were made from
PARAMETERS_VERSION = 2  # of the text that we write; 1 counted "Clip skip" from 0

Fields = dict[str, Any]
"""Values by the names of `Recipe`'s fields; not yet validated."""

_NEGATIVE = "\nNegative prompt:"
_PARAMETER_NAME = re.compile(r"[A-Za-z][\w \-/]{0,60}")
_MAX_NUMBER_LENGTH = 30
_HIRES_KEYS = ("Hires upscale", "Hires resize", "Hires steps", "Hires upscaler")
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
_ETA_SAMPLERS = ("ddim", "tcd")


def metadata_candidates(picture: Image) -> list[Fields]:
    """The recipes in a PIL image's metadata, the most exact one first; usually one or none."""
    readers: tuple[tuple[str, Callable[[str], Fields | None]], ...] = (
        ("swiftai", _parse_json),
        ("parameters", parse_parameters),
        ("invokeai_metadata", _parse_invokeai),
        ("prompt", _parse_comfyui),
    )
    found = [_attempt(reader, picture.info.get(key)) for key, reader in readers]
    if not any(found):
        found.append(_attempt(parse_parameters, _user_comment(picture)))
    return [fields for fields in found if fields]


def parse_parameters(text: str) -> Fields | None:
    """AUTOMATIC1111's text: prompt, "Negative prompt:" and a last line "Steps: 20, Sampler: ..."."""
    if len(text) > MAX_TEXT_LENGTH:
        return None
    body, _, last_line = text.strip().rpartition("\n")
    values = _parse_values(last_line)
    if len({"Steps", "Sampler", "CFG scale", "Seed", "Size"} & values.keys()) < 2:
        body, values = text.strip(), {}
    positive, _, negative = f"\n{body}".partition(_NEGATIVE)
    if not values and not negative:
        return None
    width, height = _size(values.get("Size", ""))
    scheduler, notes = _scheduler(values.get("Sampler"), values.get("Schedule type", ""))
    strength = _number(float, values.get("Denoising strength"))
    if any(key in values for key in _HIRES_KEYS):
        hires = _hires(values, width, height, strength, notes)
        strength = None  # of the second pass, not of an initial image
    else:
        hires = _postprocessing(values, notes)
    return {
        **hires,
        "prompt": positive.strip(),
        "negative_prompt": negative.strip() or None,
        "model": values.get("Model"),
        "width": width,
        "height": height,
        "steps": _number(int, values.get("Steps")),
        "guidance_scale": _number(float, values.get("CFG scale")),
        "seed": _number(int, values.get("Seed")),
        "scheduler": scheduler,
        "guidance_rescale": _number(float, values.get("CFG Rescale", values.get("CFG Rescale φ"))),
        "eta": _eta(values, notes),
        "clip_skip": _clip_skip(values),
        "prompt_syntax": next((one for one in SYNTAXES if one == values.get("Prompt syntax")), None),
        "strength": strength,
        "notes": notes,
    }


def _hires(
    values: Mapping[str, str], width: int | None, height: int | None, strength: float | None, notes: list[str]
) -> Fields:
    """The second pass: by a factor, or to a size."""
    factor = _number(float, values.get("Hires upscale"))
    across, down = _size(values.get("Hires resize", ""))
    if factor is None and across and down and width and height:
        factor = round(max(across / width, down / height), 4)
    if factor is None or not 1.0 < factor <= MAX_HIRES:
        notes.append("the settings include a hires pass of a size that is not supported; it was left out")
        return {}
    for key in (
        "Hires sampler",
        "Hires checkpoint",
        "Hires prompt",
        "Hires negative prompt",
        "Hires CFG Scale",
    ):
        if values.get(key, "").lower() not in ("", "use same sampler", "use same checkpoint"):
            notes.append(f"{key} is not supported; the second pass has the first one's")
    steps: int | None = _number(int, values.get("Hires steps"))
    return {
        "hires": factor,
        "hires_strength": strength if strength is not None and 0.0 <= strength <= 1.0 else None,
        "hires_steps": steps or None,  # 0 is as many as the first pass
        "upscaler": _upscaler(values.get("Hires upscaler"), notes),
        **({} if "Postprocess upscale by" not in values else _postprocessing(values, notes)),
    }


def _postprocessing(values: Mapping[str, str], notes: list[str]) -> Fields:
    """The enlargement of the finished picture, by a factor."""
    factor = _number(float, values.get("Postprocess upscale by"))
    if factor is None or factor == 1.0:
        return {}
    if not 1.0 < factor <= MAX_FACTOR:
        notes.append(
            f"the settings enlarge the picture by {factor:g}, which is not supported; it was left out"
        )
        return {}
    return {"upscale": factor, "upscaler": _upscaler(values.get("Postprocess upscaler"), notes)}


def _upscaler(name: str | None, notes: list[str]) -> str | None:
    if name is None or not name.lower().startswith(("latent", "none", "nearest")):
        return name
    if name.lower().startswith("latent"):
        notes.append(f"the upscaler {name[:40]} is not supported; the picture is enlarged by Lanczos' filter")
    return LANCZOS


def _attempt(reader: Callable[[str], Fields | None], text: object) -> Fields | None:
    longest = MAX_OWN_TEXT_LENGTH if reader is _parse_json else MAX_TEXT_LENGTH
    if not isinstance(text, str) or len(text) > longest:
        return None
    try:
        return reader(text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None


def _parse_json(text: str) -> Fields | None:
    data = json.loads(text)
    return data if isinstance(data, dict) else None


def _parse_values(line: str) -> dict[str, str]:
    """The values of 'Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2"' by key, in linear time."""
    values: dict[str, str] = {}
    decoder = json.JSONDecoder(strict=False)
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key = line[position:colon].rpartition(",")[2].strip()
        start = colon + 1
        while start < len(line) and line[start] == " ":
            start += 1
        end = line.find(",", start)
        end = len(line) if end < 0 else end
        value = line[start:end].strip()
        if line.startswith('"', start):
            try:
                value, quoted_end = decoder.raw_decode(line, start)
                comma = line.find(",", quoted_end)
                end = len(line) if comma < 0 else comma
            except ValueError:
                pass  # a value that only begins with a quotation mark
        if _PARAMETER_NAME.fullmatch(key):
            values[key] = value
        position = end + 1
    return values


def _scheduler(sampler: str | None, schedule: str) -> tuple[str | None, list[str]]:
    """Sampler and "Schedule type" as one name ("DPM++ 2M Karras"), and notes."""
    if sampler is None or schedule.lower() in _NORMAL_SCHEDULES:
        return sampler, []
    if sampler.lower() in _UNSCHEDULED:
        return sampler, []
    kind = schedule.lower().replace("_", " ")
    if kind in _SCHEDULES:
        return (sampler if sampler.lower().endswith(kind) else f"{sampler} {schedule}"), []
    return sampler, [f"schedule type {schedule[:40]} is not supported; the sampler's own is used"]


def _eta(values: Mapping[str, str], notes: list[str]) -> float | None:
    """Of DDIM and TCD; the "Eta" of AUTOMATIC1111's ancestral samplers is another, whose usual value is 1."""
    eta: float | None = _number(float, values.get("Eta", values.get("Eta DDIM")))
    if eta is None or values.get("Sampler", "").lower() in _ETA_SAMPLERS:
        return eta
    if eta != 1.0:
        notes.append(f"eta {eta:g} of this sampler is not supported; it was left out")
    return None


def _clip_skip(values: Mapping[str, str]) -> int | None:
    """AUTOMATIC1111 counts the last layer as 1, we count the layers that are skipped."""
    layers: int | None = _number(int, values.get("Clip skip"))
    is_ours = values.get("Version", "").startswith("swiftai_nb")
    if layers is None or (is_ours and values.get("Parameters version") != str(PARAMETERS_VERSION)):
        return layers
    return max(0, layers - 1)


def _parse_invokeai(text: str) -> Fields | None:
    data = json.loads(text)
    model = data.get("model")
    if isinstance(model, dict):
        model = model.get("name") or model.get("model_name")
    return {
        "prompt": data["positive_prompt"],
        "negative_prompt": data.get("negative_prompt") or None,
        "model": model,
        "width": _number(int, data.get("width")),
        "height": _number(int, data.get("height")),
        "steps": _number(int, data.get("steps")),
        "guidance_scale": _number(float, data.get("cfg_scale")),
        "seed": _number(int, data.get("seed")),
        "scheduler": data.get("scheduler"),
        "strength": _number(float, data.get("strength")),
    }


def _parse_comfyui(text: str) -> Fields | None:
    nodes = json.loads(text)
    sampler = next((n for n in nodes.values() if "KSampler" in str(n.get("class_type"))), None)
    if sampler is None:
        return None
    inputs = sampler["inputs"]
    latent = _linked_inputs(nodes, inputs.get("latent_image"))
    sampler = inputs.get("sampler_name")
    scheduler, notes = _scheduler(
        sampler if isinstance(sampler, str) else None, str(inputs.get("scheduler", ""))
    )
    strength = _number(float, inputs.get("denoise"))
    return {
        "prompt": _conditioning_text(nodes, inputs.get("positive")) or "",
        "negative_prompt": _conditioning_text(nodes, inputs.get("negative")) or None,
        "model": _checkpoint(nodes, inputs.get("model")),
        "width": _number(int, latent.get("width")),
        "height": _number(int, latent.get("height")),
        "steps": _number(int, inputs.get("steps")),
        "guidance_scale": _number(float, inputs.get("cfg")),
        "seed": _number(int, inputs.get("seed", inputs.get("noise_seed"))),
        "scheduler": scheduler,
        "strength": None if strength == 1.0 else strength,
        "notes": notes,
    }


def _linked_inputs(nodes: Mapping[str, Any], link: Any) -> Mapping[str, Any]:
    """The inputs of the node that a link [node id, output index] comes from."""
    node = nodes.get(str(link[0])) if isinstance(link, list) and link else None
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _conditioning_text(nodes: Mapping[str, Any], link: Any) -> str | None:
    for _ in range(len(nodes)):  # a graph may contain circles
        inputs = _linked_inputs(nodes, link)
        text = inputs.get("text", inputs.get("text_g"))
        if isinstance(text, str):
            return text
        link = text if isinstance(text, list) else inputs.get("conditioning", inputs.get("string"))
        if isinstance(link, str):
            return link
    return None


def _checkpoint(nodes: Mapping[str, Any], link: Any) -> str | None:
    for _ in range(len(nodes)):
        inputs = _linked_inputs(nodes, link)
        name = inputs.get("ckpt_name", inputs.get("unet_name"))
        if isinstance(name, str):
            return name
        link = inputs.get("model")
    return None


def _user_comment(picture: Image) -> str | None:
    try:
        comment = picture.getexif().get_ifd(EXIF_SUB_IFD).get(EXIF_USER_COMMENT)
    except DAMAGED_EXIF:
        return None
    if isinstance(comment, bytes):
        encoding = "utf-16-be" if comment.startswith(b"UNICODE\0") else "utf-8"
        return comment[8:].decode(encoding, "replace")
    return comment if isinstance(comment, str) else None


def _size(text: str) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"(\d{1,9})\s*[x×]\s*(\d{1,9})", text[:_MAX_NUMBER_LENGTH])
    return (int(found[1]), int(found[2])) if found else (None, None)


def _number(kind: type[int] | type[float], value: Any) -> Any:
    """`value` as a finite number, or None."""
    if (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, str) and len(value) > _MAX_NUMBER_LENGTH)
    ):
        return None
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
