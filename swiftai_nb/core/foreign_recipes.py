"""Recipes in the metadata of InvokeAI, Fooocus, SwarmUI, NovelAI and Draw Things, as their files have them.

Readers take bounded text and return fields for `Recipe.from_dict`; for text that is not theirs they raise or
return None. What such a recipe asks for and this package does not have is a note.
"""

from __future__ import annotations

import html
import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from swiftai_nb.core.metadata_values import Fields, number_of, scheduler_of, size_of, text_of, within_limits

_MOST_LORAS = 32
_LONGEST_COMMAND = 50_000  # characters; shlex takes quadratic time for a long word
_COMMENT_START, _COMMENT_END = "<exif:UserComment>", "</exif:UserComment>"


def parse_invokeai(text: str) -> Fields | None:
    """`invokeai_metadata` of InvokeAI 3 and later, and `sd-metadata` of version 2."""
    data = json.loads(text)
    if isinstance(data.get("image"), dict):
        return _parse_sd_metadata(data)
    model = data.get("model")
    if isinstance(model, dict):
        model = model.get("name") or model.get("model_name")
    notes = _ignored(
        data, "controlnets ipAdapters t2iAdapters vae refiner_model hrf_enabled seamless_x seamless_y regions"
    )
    return within_limits(
        {
            "prompt": data["positive_prompt"],
            "negative_prompt": data.get("negative_prompt") or None,
            "model": model,
            "width": number_of(int, data.get("width")),
            "height": number_of(int, data.get("height")),
            "steps": number_of(int, data.get("steps")),
            "guidance_scale": number_of(float, data.get("cfg_scale")),
            "guidance_rescale": number_of(float, data.get("cfg_rescale_multiplier")) or None,
            "clip_skip": number_of(int, data.get("clip_skip")) or None,
            "seed": number_of(int, data.get("seed")),
            "scheduler": data.get("scheduler"),
            "strength": number_of(float, data.get("strength")),
            "loras": _loras(
                (_name(lora.get("model", lora.get("lora"))), lora.get("weight"))
                for lora in _dicts(data, "loras")
            ),
            "notes": notes,
        }
    )


def _parse_sd_metadata(data: Mapping[str, Any]) -> Fields:
    image = data["image"]
    prompt = image["prompt"]
    if isinstance(prompt, list):
        prompt = ", ".join(part["prompt"] for part in prompt)
    positive, negative = _negative_in_brackets(prompt)
    return within_limits(
        {
            "prompt": positive,
            "negative_prompt": negative,
            "model": data.get("model_weights"),
            "width": number_of(int, image.get("width")),
            "height": number_of(int, image.get("height")),
            "steps": number_of(int, image.get("steps")),
            "guidance_scale": number_of(float, image.get("cfg_scale")),
            "seed": number_of(int, image.get("seed")),
            "scheduler": image.get("sampler"),
            "strength": number_of(float, image.get("strength")) if image.get("type") == "img2img" else None,
            "notes": _ignored(image, "hires_fix seamless facetool upscale variations"),
        }
    )


def parse_dream(text: str) -> Fields | None:
    """`Dream` of InvokeAI 1 and 2: "a fox [fog]" -s 50 -S 5 -W 512 -H 512 -C 7.5 -A k_lms."""
    if len(text) > _LONGEST_COMMAND:
        return None
    words = shlex.split(text)
    positive, negative = _negative_in_brackets(words[0])
    values = dict(itertools.pairwise(words))
    return within_limits(
        {
            "prompt": positive,
            "negative_prompt": negative,
            "width": number_of(int, values.get("-W")),
            "height": number_of(int, values.get("-H")),
            "steps": number_of(int, values.get("-s")),
            "guidance_scale": number_of(float, values.get("-C")),
            "seed": number_of(int, values.get("-S")),
            "scheduler": values.get("-A"),
            "strength": number_of(float, values.get("-f")),
            "notes": (),
        }
    )


def _negative_in_brackets(prompt: str) -> tuple[str, str | None]:
    """InvokeAI 2 wrote what to avoid in square brackets."""
    negative = ", ".join(re.findall(r"\[([^\[\]]*)\]", prompt))
    return re.sub(r"\[[^\[\]]*\]", "", prompt).strip() or prompt, negative or None


def parse_json_parameters(data: Mapping[str, Any]) -> Fields | None:
    """`parameters` that are JSON: SwarmUI's or Fooocus'."""
    if isinstance(data.get("sui_image_params"), dict):
        return _parse_swarmui(data["sui_image_params"])
    plain = {name.lower().replace(" ", "_"): value for name, value in data.items()}
    return _parse_fooocus(plain) if "prompt" in plain and "sampler" in plain else None


def _parse_swarmui(data: Mapping[str, Any]) -> Fields:
    scheduler, notes = scheduler_of(text_of(data.get("sampler")), str(data.get("scheduler") or ""))
    names, weights = (data.get(key) or () for key in ("loras", "loraweights"))
    factor = number_of(float, data.get("refinerupscale"))
    hires: Fields = {}
    if factor is not None and 1.0 < factor <= 4.0:
        method = str(data.get("refinerupscalemethod") or "")
        hires = {
            "hires": factor,
            "hires_strength": number_of(float, data.get("refinercontrolpercentage")),
            "hires_steps": number_of(int, data.get("refinersteps")),
            "upscaler": method.removeprefix("model-") if method.startswith("model-") else "lanczos",
        }
    ignored = "refinermodel controlnetmodel vae initimage variationseed regionalobjectcleanupfactor"
    return within_limits(
        {
            **hires,
            "prompt": data["prompt"],
            "negative_prompt": data.get("negativeprompt") or None,
            "model": data.get("model"),
            "width": number_of(int, data.get("width")),
            "height": number_of(int, data.get("height")),
            "steps": number_of(int, data.get("steps")),
            "guidance_scale": number_of(float, data.get("cfgscale")),
            "seed": number_of(int, data.get("seed")),
            "scheduler": scheduler,
            "strength": number_of(float, data.get("initimagecreativity")),
            "loras": _loras(zip(names, (*weights, *[1.0] * len(names)), strict=False)),
            "notes": [*notes, *_ignored(data, ignored)],
        }
    )


def _parse_fooocus(data: Mapping[str, Any]) -> Fields:
    scheduler, notes = scheduler_of(text_of(data.get("sampler")), str(data.get("scheduler") or ""))
    width, height = _pair(data.get("resolution"))
    prompt, negative = data["prompt"], data.get("negative_prompt") or None
    styles = _listed(data.get("styles"))
    if styles:
        expanded = [_listed(data.get(key)) for key in ("full_prompt", "full_negative_prompt")]
        if all(expanded):
            prompt, negative = (", ".join(dict.fromkeys(map(str, lines))) for lines in expanded)
        else:
            notes.append(f"Fooocus' styles {', '.join(map(str, styles))[:80]} are not in the prompt")
    stored = data.get("loras")
    loras = [(lora[0], lora[1]) for lora in stored if len(lora) > 1] if isinstance(stored, list) else []
    return within_limits(
        {
            "prompt": prompt,
            "negative_prompt": negative,
            "model": data.get("base_model"),
            "width": width,
            "height": height,
            "steps": number_of(int, data.get("steps")),
            "guidance_scale": number_of(float, data.get("guidance_scale")),
            "clip_skip": max(0, (number_of(int, data.get("clip_skip")) or 1) - 1) or None,
            "seed": number_of(int, data.get("seed")),
            "scheduler": scheduler,
            "loras": _loras(loras),
            "notes": [*notes, *_ignored(data, "refiner_model sharpness adm_guidance inpaint_mode")],
        }
    )


def parse_novelai(comment: str, description: str | None, source: str | None) -> Fields | None:
    """NovelAI's `Comment`, with the prompt in `Description` and the model in `Source`."""
    data = json.loads(comment)
    if "uc" not in data and "scale" not in data:
        return None
    prompt = text_of(data.get("prompt")) or text_of(description) or ""
    scheduler, notes = scheduler_of(
        text_of(data.get("sampler")), str(data.get("noise_schedule") or "").replace("native", "")
    )
    if any(bracket in prompt for bracket in "{}") or "::" in prompt:
        notes.append("weights in NovelAI's braces are not read; they are part of the text")
    return within_limits(
        {
            "prompt": prompt,
            "negative_prompt": text_of(data.get("uc")),
            "model": source,
            "width": number_of(int, data.get("width")),
            "height": number_of(int, data.get("height")),
            "steps": number_of(int, data.get("steps")),
            "guidance_scale": number_of(float, data.get("scale")),
            "guidance_rescale": number_of(float, data.get("cfg_rescale")) or None,
            "seed": number_of(int, data.get("seed")),
            "scheduler": scheduler,
            "strength": number_of(float, data.get("strength"))
            if "Img2Img" in str(data.get("request_type"))
            else None,
            "notes": [*notes, *_ignored(data, "sm sm_dyn dynamic_thresholding reference_image_multiple")],
        }
    )


def parse_draw_things(text: str) -> Fields | None:
    """Draw Things' JSON, as EXIF comment or inside an XMP packet."""
    start = text.find(_COMMENT_START)
    if start >= 0:
        inner = text[start + len(_COMMENT_START) : text.find(_COMMENT_END, start)]
        text = html.unescape(inner[inner.find("{") : inner.rfind("}") + 1])
    data = json.loads(text)
    if "c" not in data or "scale" not in data:
        return None
    width, height = size_of(str(data.get("size") or ""))
    strength = number_of(float, data.get("strength"))
    return within_limits(
        {
            "prompt": data["c"],
            "negative_prompt": data.get("uc") or None,
            "model": data.get("model"),
            "width": width,
            "height": height,
            "steps": number_of(int, data.get("steps")),
            "guidance_scale": number_of(float, data.get("scale")),
            "seed": number_of(int, data.get("seed")),
            "scheduler": data.get("sampler"),
            "strength": None if strength == 1.0 else strength,
            "loras": _loras((lora.get("model"), lora.get("weight")) for lora in _dicts(data, "lora")),
            "notes": _ignored(data, "control refiner_model upscaler hires_fix face_restoration"),
        }
    )


def _ignored(data: Mapping[str, Any], names: str) -> list[str]:
    """A note that names what is set in the recipe and has no counterpart here."""
    unset: tuple[Any, ...] = (None, False, "", "None", [], {}, 0, "Default (model)")
    found = [name for name in names.split() if data.get(name) not in unset]
    return [f"not supported, and left out: {', '.join(found)}"] if found else []


def _loras(pairs: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """LoRAs by the names that the other program gave them."""
    found: list[dict[str, Any]] = []
    for name, weight in pairs:
        scale = number_of(float, weight)
        if isinstance(name, str) and name.strip() and name != "None" and len(found) < _MOST_LORAS:
            found.append({"source": name, "scale": min(10.0, max(-10.0, 1.0 if scale is None else scale))})
    return found


def _dicts(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    items = data.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _name(model: Any) -> Any:
    return model.get("name") or model.get("model_name") if isinstance(model, dict) else model


def _pair(value: Any) -> tuple[int | None, int | None]:
    """The size in "(896, 1152)"."""
    found = re.findall(r"\d{1,9}", str(value)[:30])
    return (int(found[0]), int(found[1])) if len(found) == 2 else (None, None)


def _listed(value: Any) -> list[Any]:
    """A list, or what stands in quotation marks in the text of one."""
    if isinstance(value, str):
        return [one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", value[:10_000])]
    return value if isinstance(value, list) else []
