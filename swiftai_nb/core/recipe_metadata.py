"""Reading recipes from the metadata of image files: ours, AUTOMATIC1111's, and those of other programs.

The files are untrusted. Readers take bounded text, run in linear time, and return plain field values that
`Recipe.from_dict` validates; for text that is not a recipe they return None.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from swiftai_nb.core.comfyui_recipes import parse_graph, parse_workflow
from swiftai_nb.core.enlargement import LANCZOS, MAX_FACTOR, MAX_HIRES
from swiftai_nb.core.foreign_recipes import (
    parse_draw_things,
    parse_dream,
    parse_invokeai,
    parse_json_parameters,
    parse_novelai,
)
from swiftai_nb.core.image_input import DAMAGED
from swiftai_nb.core.metadata_values import Fields, number_of, scheduler_of, size_of, text_of, within_limits
from swiftai_nb.core.prompt_syntax import SYNTAXES

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_USER_COMMENT = 0x9286
EXIF_SUB_IFD = 0x8769
MAX_TEXT_LENGTH = 1_000_000  # characters; ComfyUI writes whole graphs
MAX_OWN_TEXT_LENGTH = 40_000_000  # our recipes may hold the pictures that they were made from
_MOST_VALUES = 500_000  # of such a text, and commas of its prompts
PARAMETERS_VERSION = 2  # of the text that we write; 1 counted "Clip skip" from 0

_NEGATIVE = "\nNegative prompt:"
_QUOTED = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_QUOTED_VALUE = json.JSONDecoder(strict=False)  # made once: a line may hold a hundred thousand values
_PARAMETER_NAME = re.compile(r"[A-Za-z][\w \-/]{0,60}")
_HIRES_KEYS = ("Hires upscale", "Hires resize", "Hires steps", "Hires upscaler")
# Settings that are read, and facts that change nothing.
_KNOWN = (
    "Steps", "Sampler", "Schedule type", "CFG scale", "Distilled CFG Scale", "Seed", "Size", "Model",
    "Clip skip", "Denoising strength", "Hires", "Postprocess", "CFG Rescale", "Eta", "Version", "User", "App",
    "Parameters version", "VAE hash", "Lora hashes", "TI hashes", "Hashes", "Civitai", "Created", "Batch",
    "Time taken", "Init image hash", "Template", "Negative Template", "Diffusion in Low Bits",
)  # fmt: skip
_SHOWN = 8
_ETA_SAMPLERS = ("ddim", "tcd")


def metadata_candidates(picture: Image) -> list[Fields]:
    """The recipes in a PIL image's metadata, the most exact one first; usually one or none."""
    readers: tuple[tuple[str, Callable[[str], Fields | None]], ...] = (
        ("swiftai", _parse_json),
        ("parameters", _parse_any_parameters),
        ("invokeai_metadata", parse_invokeai),
        ("sd-metadata", parse_invokeai),
        ("Dream", parse_dream),
        ("prompt", parse_graph),
        ("workflow", parse_workflow),
        ("Comment", lambda text: parse_novelai(text, texts["Description"], texts["Source"])),
        ("XML:com.adobe.xmp", parse_draw_things),
    )
    texts = {key: text_of(picture.info.get(key)) for key in ("Description", "Source")}
    found = [_attempt(reader, picture.info.get(key)) for key, reader in readers]
    if not any(found):
        comment = _user_comment(picture)
        found += [_attempt(reader, comment) for reader in (_parse_any_parameters, parse_draw_things)]
    return [fields for fields in found if fields]


def _parse_any_parameters(text: str) -> Fields | None:
    """The text of AUTOMATIC1111, or the JSON that SwarmUI and Fooocus write in its place."""
    return (
        parse_json_parameters(json.loads(text)) if text.lstrip().startswith("{") else parse_parameters(text)
    )


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
    width, height = size_of(values.get("Size", ""))
    scheduler, notes = scheduler_of(values.get("Sampler"), values.get("Schedule type", ""))
    strength = number_of(float, values.get("Denoising strength"))
    if any(key in values for key in _HIRES_KEYS):
        hires = _hires(values, width, height, strength, notes)
        strength = None  # of the second pass, not of an initial image
    else:
        hires = _postprocessing(values, notes)
    return within_limits(
        {
            **hires,
            "prompt": positive.strip(),
            "negative_prompt": negative.strip() or None,
            "model": values.get("Model"),
            "width": width,
            "height": height,
            "steps": number_of(int, values.get("Steps")),
            "guidance_scale": _guidance(values),
            "seed": number_of(int, values.get("Seed")),
            "scheduler": scheduler,
            "guidance_rescale": number_of(float, values.get("CFG Rescale", values.get("CFG Rescale φ"))),
            "eta": _eta(values, notes),
            "clip_skip": _clip_skip(values),
            "prompt_syntax": next((one for one in SYNTAXES if one == values.get("Prompt syntax")), None),
            "strength": strength,
            "notes": [*notes, *_not_honored(values)],
        }
    )


def _not_honored(values: Mapping[str, str]) -> list[str]:
    """A note that names the settings which have no counterpart here; empty when there are none."""
    unknown = [key for key in values if len(key) > 2 and not key.startswith(_KNOWN)]
    if not unknown or values.get("Version", "").startswith("swiftai_nb"):
        return []
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    return [f"not supported, and left out: {', '.join(unknown[:_SHOWN])}{more}"]


def _guidance(values: Mapping[str, str]) -> float | None:
    """Forge writes the guidance of FLUX.1 as "Distilled CFG Scale", beside a "CFG scale" of 1."""
    guidance: float | None = number_of(float, values.get("CFG scale"))
    distilled: float | None = number_of(float, values.get("Distilled CFG Scale"))
    return distilled if distilled is not None and guidance in (None, 1.0) else guidance


def _hires(
    values: Mapping[str, str], width: int | None, height: int | None, strength: float | None, notes: list[str]
) -> Fields:
    """The second pass: by a factor, or to a size."""
    factor = number_of(float, values.get("Hires upscale"))
    across, down = size_of(values.get("Hires resize", ""))
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
    steps: int | None = number_of(int, values.get("Hires steps"))
    return {
        "hires": factor,
        "hires_strength": strength if strength is not None and 0.0 <= strength <= 1.0 else None,
        "hires_steps": steps or None,  # 0 is as many as the first pass
        "upscaler": _upscaler(values.get("Hires upscaler"), notes),
        **({} if "Postprocess upscale by" not in values else _postprocessing(values, notes)),
    }


def _postprocessing(values: Mapping[str, str], notes: list[str]) -> Fields:
    """The enlargement of the finished picture, by a factor."""
    factor = number_of(float, values.get("Postprocess upscale by"))
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
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError):
        return None


def _parse_json(text: str) -> Fields | None:
    """Our own recipe: few values, of which some are long."""
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        return None
    data = json.loads(text)
    return data if isinstance(data, dict) else None


def _parse_values(line: str) -> dict[str, str]:
    """The values of 'Steps: 20, Sampler: Euler a, Lora hashes: "a: 1, b: 2"' by key, in linear time."""
    values: dict[str, str] = {}
    position = 0
    while (colon := line.find(":", position)) >= 0:
        key = line[position:colon].rpartition(",")[2].strip()
        start = colon + 1
        while start < len(line) and line[start] == " ":
            start += 1
        end = line.find(",", start)
        end = len(line) if end < 0 else end
        value = line[start:end].strip()
        if (quoted := _QUOTED.match(line, start)) is not None:
            with contextlib.suppress(ValueError):  # a value that only begins with a quotation mark
                value = _QUOTED_VALUE.decode(quoted[0])
                comma = line.find(",", quoted.end())
                end = len(line) if comma < 0 else comma
        if _PARAMETER_NAME.fullmatch(key):
            values[key] = value
        position = end + 1
    return values


def _eta(values: Mapping[str, str], notes: list[str]) -> float | None:
    """Of DDIM and TCD; the "Eta" of AUTOMATIC1111's ancestral samplers is another, whose usual value is 1."""
    eta: float | None = number_of(float, values.get("Eta", values.get("Eta DDIM")))
    if eta is None or values.get("Sampler", "").lower() in _ETA_SAMPLERS:
        return eta
    if eta != 1.0:
        notes.append(f"eta {eta:g} of this sampler is not supported; it was left out")
    return None


def _clip_skip(values: Mapping[str, str]) -> int | None:
    """AUTOMATIC1111 counts the last layer as 1, we count the layers that are skipped."""
    layers: int | None = number_of(int, values.get("Clip skip"))
    is_ours = values.get("Version", "").startswith("swiftai_nb")
    if layers is None or (is_ours and values.get("Parameters version") != str(PARAMETERS_VERSION)):
        return layers
    return max(0, layers - 1)


def _user_comment(picture: Image) -> str | None:
    try:
        comment = picture.getexif().get_ifd(EXIF_SUB_IFD).get(EXIF_USER_COMMENT)
    except DAMAGED:
        return None
    if isinstance(comment, bytes):
        encoding = "utf-16-be" if comment.startswith(b"UNICODE\0") else "utf-8"
        return comment[8:].decode(encoding, "replace")
    return comment if isinstance(comment, str) else None
