"""The bodies of generations (JSON) and edits (a form), by what kind of server reads them.

OpenAI's own models refuse unknown parameters. Other servers take seed, steps and guidance as further
fields, as vLLM-Omni documents; stable-diffusion.cpp's reads its own from a block in the prompt.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.image_input import mask_to_png_bytes, to_pil
from swiftai_nb.providers.cloud.call import CloudPlan
from swiftai_nb.providers.cloud.http import sendable
from swiftai_nb.providers.cloud.pictures import pictures_of, upload
from swiftai_nb.providers.openai.server import SD_CPP_MODEL, Server, is_openai_model

# What the plan itself decides; a stranger's recipe or a typing error must not change it.
RESERVED = frozenset({"prompt", "model", "n", "stream", "partial_images", "image", "images", "mask"})
_SAMPLERS = {"euler-a": "euler_a", "dpm++2m": "dpm++2m", "dpm++2m-sde": "dpm++2m_sde"}


@dataclass(frozen=True, kw_only=True)
class OpenAIPlan(CloudPlan):
    """A plan for a server.

    Attributes:
        server: the server.
        partial_images: previews to ask for; 0 asks for none.
    """

    server: Server
    partial_images: int


@dataclass(frozen=True)
class Body:
    """A request's body.

    Args:
        route: "generations" or "edits".
        content: keywords of `httpx`'s `build_request`.
    """

    route: str
    content: dict[str, Any]


def is_strict(server: Server, model: str | None) -> bool:
    """Whether unknown parameters are refused."""
    return server.is_openai or is_openai_model(model)


def check_extra(extra: Any) -> None:
    """Refuses settings that the plan decides.

    Raises:
        InvalidInputError: such a name, or a format that is no picture.
    """
    taken = sorted(RESERVED & set(extra or {}))
    if taken:
        raise InvalidInputError(
            f"{', '.join(taken)} cannot be an extra setting",
            hint="use the options: --count, --model, --with, --mask",
        )
    if str((extra or {}).get("output_format", "")).lower() in ("svg", "gif"):
        raise InvalidInputError("output_format must be png, jpeg or webp", hint="leave it out")


def generation_body(plan: OpenAIPlan, *, model: str | None, seed: int, models: list[str]) -> Body:
    """The JSON of `/images/generations`."""
    return Body("generations", {"json": _fields(plan, model=model, seed=seed, models=models)})


def edit_body(plan: OpenAIPlan, *, model: str | None, seed: int, models: list[str]) -> Body:
    """The form of `/images/edits`: the start picture first, then the references."""
    config = plan.request.config
    pictures = pictures_of(config)
    # Several go by the name that OpenAI's own clients use; all servers know the name of a single one.
    name = "image" if len(pictures) == 1 else "image[]"
    files = [(name, _file(*upload(picture), stem=f"image{k}")) for k, picture in enumerate(pictures)]
    if config.mask is not None:
        size = to_pil(pictures[0]).size
        files.append(("mask", _file(mask_for_edits(config.mask, size), "image/png", stem="mask")))
    fields = _fields(plan, model=model, seed=seed, models=models)
    data = {key: _form_text(value) for key, value in fields.items()}
    return Body("edits", {"data": data, "files": files})


def mask_for_edits(mask: bytes, size: tuple[int, int]) -> bytes:
    """A mask that every server reads alike: white and transparent where to paint, black and opaque elsewhere.

    OpenAI edits where it is transparent; stable-diffusion.cpp and others where it is white.

    Args:
        mask: white where to paint.
        size: (width, height) of the picture, which it must have.
    """
    from PIL import Image, ImageOps

    painted = to_pil(mask_to_png_bytes(mask)).convert("L")
    if painted.size != size:
        painted = painted.resize(size, Image.Resampling.NEAREST)
    both = Image.merge("RGBA", (painted, painted, painted, ImageOps.invert(painted)))
    buffer = io.BytesIO()
    both.save(buffer, "PNG")
    return buffer.getvalue()


def _fields(plan: OpenAIPlan, *, model: str | None, seed: int, models: list[str]) -> dict[str, Any]:
    request, strict = plan.request, is_strict(plan.server, model)
    prompt = sendable(request.prompt)
    negative_prompt = None if request.negative_prompt is None else sendable(request.negative_prompt)
    fields: dict[str, Any] = {"prompt": prompt, "n": 1}
    if model is not None:
        fields["model"] = model
    if plan.width is not None and plan.height is not None:
        fields["size"] = f"{plan.width}x{plan.height}"
    if plan.partial_images:
        fields |= {"stream": True, "partial_images": plan.partial_images}
    if SD_CPP_MODEL in (model, *models):
        # Before the prompt, so that a block in a prompt from elsewhere is not the one that is read.
        block = json.dumps(_sd_cpp(plan, seed, negative_prompt), separators=(",", ":"))
        fields["prompt"] = f"<sd_cpp_extra_args>{block}</sd_cpp_extra_args>{prompt}"
    elif not strict:
        own = {
            "seed": seed,
            "num_inference_steps": plan.steps,
            "guidance_scale": plan.guidance_scale,
            "negative_prompt": negative_prompt,
            "strength": plan.strength,
        }
        fields |= {"response_format": "b64_json"}
        fields |= {name: value for name, value in own.items() if value is not None}
    return fields | dict(request.config.extra_body or {})


def _sd_cpp(plan: OpenAIPlan, seed: int, negative_prompt: str | None) -> dict[str, Any]:
    """The block that stable-diffusion.cpp's server reads, see its examples/server/api.md."""
    sampling = {
        "sample_steps": plan.steps,
        "sample_method": None if plan.scheduler is None else _SAMPLERS.get(plan.scheduler, plan.scheduler),
        "guidance": None if plan.guidance_scale is None else {"txt_cfg": plan.guidance_scale},
    }
    block = {
        "seed": seed,
        "negative_prompt": negative_prompt,
        "strength": plan.strength,
        "clip_skip": plan.request.config.clip_skip,
        "sample_params": {name: value for name, value in sampling.items() if value is not None} or None,
    }
    return {name: value for name, value in block.items() if value is not None}


def ignored_settings(plan_config: ImageGenerationConfig, *, strict: bool) -> list[str]:
    """Names of the settings that are not sent."""
    sent = {"model", "width", "height", "seed", "image", "mask", "references", "extra_body"}
    sent |= {"steps_factor", "preview", "filled_in", "embed_references"}  # without effect on the picture
    if not strict:
        sent |= {"steps", "guidance_scale", "strength", "scheduler", "clip_skip"}
    return [name for name in plan_config.to_dict() if name not in sent]


def _form_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value)


def _file(data: bytes, media_type: str, *, stem: str) -> tuple[str, bytes, str]:
    return f"{stem}.{media_type.removeprefix('image/')}", data, media_type
