"""Recipes as other programs write them into image files, read as far as they map onto ours."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.recipe import Recipe

if TYPE_CHECKING:
    from PIL.Image import Image

EXIF_USER_COMMENT = 0x9286
EXIF_SUB_IFD = 0x8769
NEGATIVE = "Negative prompt:"
_PARAMETER = re.compile(r'\s*([A-Za-z][\w \-/]*?):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')


def find(picture: Image) -> Recipe | None:
    """The recipe in a PIL image's metadata, ours first, or None."""
    info = picture.info
    readers = (
        ("swiftai", _read_own),
        ("parameters", read_parameters),
        ("invokeai_metadata", _read_invokeai),
        ("prompt", _read_comfyui),
    )
    for key, reader in readers:
        text = info.get(key)
        if isinstance(text, str):
            recipe = _try(reader, text)
            if recipe is not None:
                return recipe
    comment = _user_comment(picture)
    return None if comment is None else _try(read_parameters, comment)


def _try(reader: Any, text: str) -> Recipe | None:
    try:
        recipe: Recipe | None = reader(text)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return recipe


def _read_own(text: str) -> Recipe:
    return Recipe.from_dict(json.loads(text))


def read_parameters(text: str) -> Recipe | None:
    """AUTOMATIC1111's text: prompt, "Negative prompt:" and a last line "Steps: 20, Sampler: …"."""
    lines = text.strip().split("\n")
    values = _last_line_values(lines[-1])
    body = lines[:-1] if values else lines
    positive, _, negative = "\n".join(body).partition(f"\n{NEGATIVE}")
    if not values and not negative:
        return None
    width, height = _size(values.get("Size"))
    return Recipe(
        prompt=positive.strip(),
        negative_prompt=negative.strip() or None,
        model=values.get("Model"),
        width=width,
        height=height,
        steps=_number(int, values.get("Steps")),
        guidance_scale=_number(float, values.get("CFG scale")),
        seed=_number(int, values.get("Seed")),
        scheduler=values.get("Sampler"),
        clip_skip=_number(int, values.get("Clip skip")),
        strength=_number(float, values.get("Denoising strength")),
    )


def _last_line_values(line: str) -> dict[str, str]:
    values = {key.strip(): value.strip() for key, value in _PARAMETER.findall(line)}
    known = {"Steps", "Sampler", "CFG scale", "Seed", "Size"}
    return values if len(known & values.keys()) >= 2 else {}


def _read_invokeai(text: str) -> Recipe:
    data = json.loads(text)
    model = data.get("model")
    return Recipe(
        prompt=str(data["positive_prompt"]),
        negative_prompt=data.get("negative_prompt") or None,
        model=(model or {}).get("name") or (model or {}).get("model_name")
        if isinstance(model, dict)
        else model,
        width=_number(int, data.get("width")),
        height=_number(int, data.get("height")),
        steps=_number(int, data.get("steps")),
        guidance_scale=_number(float, data.get("cfg_scale")),
        seed=_number(int, data.get("seed")),
        scheduler=data.get("scheduler"),
        strength=_number(float, data.get("strength")),
    )


def _read_comfyui(text: str) -> Recipe | None:
    nodes = json.loads(text)
    if not isinstance(nodes, dict):
        raise InvalidInputError("not a ComfyUI graph")
    sampler = next((n for n in nodes.values() if "KSampler" in str(n.get("class_type"))), None)
    if sampler is None:
        return None
    inputs = sampler["inputs"]
    latent = _follow(nodes, inputs.get("latent_image")).get("inputs", {})
    model = _checkpoint(nodes, inputs.get("model"))
    return Recipe(
        prompt=_conditioning_text(nodes, inputs.get("positive")) or "",
        negative_prompt=_conditioning_text(nodes, inputs.get("negative")) or None,
        model=model,
        width=_number(int, latent.get("width")),
        height=_number(int, latent.get("height")),
        steps=_number(int, inputs.get("steps")),
        guidance_scale=_number(float, inputs.get("cfg")),
        seed=_number(int, inputs.get("seed", inputs.get("noise_seed"))),
        scheduler=inputs.get("sampler_name"),
        strength=_number(float, inputs.get("denoise"))
        if inputs.get("denoise") not in (None, 1, 1.0)
        else None,
    )


def _follow(nodes: dict[str, Any], link: Any) -> dict[str, Any]:
    node = nodes.get(str(link[0])) if isinstance(link, list) and link else None
    return node if isinstance(node, dict) else {}


def _conditioning_text(nodes: dict[str, Any], link: Any) -> str | None:
    for _ in range(len(nodes)):
        inputs = _follow(nodes, link).get("inputs", {})
        text = inputs.get("text", inputs.get("text_g"))
        if isinstance(text, str):
            return text
        link = text if isinstance(text, list) else inputs.get("conditioning", inputs.get("string"))
        if isinstance(link, str):
            return link
    return None


def _checkpoint(nodes: dict[str, Any], link: Any) -> str | None:
    for _ in range(len(nodes)):
        inputs = _follow(nodes, link).get("inputs", {})
        name = inputs.get("ckpt_name", inputs.get("unet_name"))
        if isinstance(name, str):
            return name
        link = inputs.get("model")
    return None


def _user_comment(picture: Image) -> str | None:
    comment = picture.getexif().get_ifd(EXIF_SUB_IFD).get(EXIF_USER_COMMENT)
    if isinstance(comment, bytes):
        if comment.startswith(b"UNICODE\0"):
            return comment[8:].decode("utf-16-be", "replace")
        return comment[8:].decode("utf-8", "replace")
    return comment if isinstance(comment, str) else None


def _size(text: str | None) -> tuple[int | None, int | None]:
    found = re.fullmatch(r"(\d+)\s*[x×]\s*(\d+)", text or "")
    return (int(found[1]), int(found[2])) if found else (None, None)


def _number(kind: type[int] | type[float], text: Any) -> Any:
    try:
        return None if text is None else kind(text)
    except (TypeError, ValueError):
        return None
