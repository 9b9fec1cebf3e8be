"""The body of a request, with the client library's own tables, and where each provider takes pictures.

huggingface_hub knows every provider's address, headers and body for one picture in. What its
`image_to_image` has no parameter for (further pictures, mask, strength, size) has another name at each
provider; the names are from their public documentation.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.providers.cloud.call import CloudPlan
from swiftai_nb.providers.cloud.http import sendable
from swiftai_nb.providers.cloud.pictures import pictures_of, upload
from swiftai_nb.providers.huggingface.hub import IMAGE_TO_IMAGE, Route

ENDPOINT = "endpoint"


@dataclass(frozen=True, kw_only=True)
class Service:
    """The service to call; see `HuggingFaceProvider`."""

    provider: str
    base_url: str | None
    bill_to: str | None


@dataclass(frozen=True, kw_only=True)
class HubPlan(CloudPlan):
    """A plan for Inference Providers or an endpoint.

    Attributes:
        model: Hub id, or the name of an endpoint's model.
        task: "text-to-image" or "image-to-image".
        service: the service to call.
        token: access token; None for an endpoint that needs none.
    """

    model: str
    task: str
    service: Service
    token: str | None = field(repr=False)


@dataclass(frozen=True)
class PictureFields:
    """Names of one provider's fields; "" where it has none.

    Args:
        pictures: lists of all pictures, when there are several.
        mask: the picture that is white where to paint.
        strength: how much the start picture may change.
        size: "target_size" (an object), "width" (and height), "size" ("WxH" with an asterisk).
    """

    pictures: tuple[str, ...] = ()
    mask: str = ""
    strength: str = ""
    size: str = "target_size"


PICTURE_FIELDS: dict[str, PictureFields] = {
    "fal-ai": PictureFields(("image_urls",), "mask_url", "strength"),
    "hf-inference": PictureFields(strength="strength"),
    "replicate": PictureFields(("images", "input_images"), "mask", "prompt_strength", "width"),
    "together": PictureFields(("reference_images",), size="width"),
    "wavespeed": PictureFields(("images",), "mask_image", "strength", "size"),
    ENDPOINT: PictureFields(strength="strength"),
}
# A provider that a newer library adds: one picture is all that is known.
_UNKNOWN = PictureFields()


def obstacle(provider: str, config: ImageGenerationConfig) -> str | None:
    """What of a request a provider has no field for, as "takes no mask"; None when it takes all of it."""
    fields = PICTURE_FIELDS.get(provider, _UNKNOWN)
    if config.mask is not None and not fields.mask:
        return "takes no mask"
    if len(pictures_of(config)) > 1 and not fields.pictures:
        return "takes one picture only"
    return None


def check_pictures(provider: str, config: ImageGenerationConfig) -> None:
    """Refuses pictures that a provider has no field for.

    Raises:
        InvalidInputError: a mask or a second picture; names the providers that take it.
    """
    reason = obstacle(provider, config)
    if reason is not None:
        able = [name for name in PICTURE_FIELDS if name != ENDPOINT and obstacle(name, config) is None]
        raise InvalidInputError(
            f"{provider} {reason}", hint=f"use --provider {' or '.join(able)}, or a local model"
        )


def ignored_settings(provider: str, config: ImageGenerationConfig) -> list[str]:
    """Names of the picture settings that this provider has no field for."""
    fields = PICTURE_FIELDS.get(provider, _UNKNOWN)
    return ["strength"] if config.strength is not None and not fields.strength else []


def build_request(plan: HubPlan, route: Route, seed: int) -> Any:
    """The library's `RequestParameters` for a picture: url, json or data, headers."""
    from huggingface_hub.inference._common import MimeBytes
    from huggingface_hub.inference._providers import PROVIDERS

    service, request = plan.service, plan.request
    tasks = PROVIDERS["hf-inference" if route.provider == ENDPOINT else route.provider]  # type: ignore[index]
    # On a copy, the model's entry that was found already stands in for a second, blocking look-up.
    helper: Any = copy.copy(tasks[route.task])
    mapping = _mapping(route, service.base_url)
    helper._prepare_mapping_info = lambda model: mapping
    parameters: dict[str, Any] = {
        "negative_prompt": None if request.negative_prompt is None else sendable(request.negative_prompt),
        "num_inference_steps": plan.steps,
        "guidance_scale": plan.guidance_scale,
        "scheduler": plan.scheduler,
        "seed": seed,
    }
    inputs: Any = sendable(request.prompt)
    if route.task == IMAGE_TO_IMAGE:
        parameters = {"prompt": inputs, **parameters, **_picture_parameters(plan, route.provider)}
        inputs = MimeBytes(*upload(pictures_of(request.config)[0]))
    else:
        parameters |= {"width": plan.width, "height": plan.height}
    prepared = helper.prepare_request(
        inputs=inputs,
        parameters={**parameters, **(request.config.extra_body or {})},
        headers={} if service.bill_to is None else {"X-HF-Bill-To": service.bill_to},
        model=route.model,
        api_key=_api_key(plan),
    )
    prepared.headers.setdefault("accept", "image/png")
    return prepared


def _api_key(plan: HubPlan) -> str | None:
    # Without any key the library would take the user's own token, also for a foreign endpoint.
    return "none" if plan.token is None else plan.token


def _mapping(route: Route, base_url: str | None) -> Any:
    from huggingface_hub import hf_api

    if route.mapping is not None and route.provider != "hf-inference":
        return route.mapping
    name = route.model if base_url is None else base_url
    entry: Any = hf_api.InferenceProviderMapping
    return entry(provider="hf-inference", providerId=name, hf_model_id=name, task=route.task, status="live")


def _picture_parameters(plan: HubPlan, provider: str) -> Mapping[str, Any]:
    config, fields = plan.request.config, PICTURE_FIELDS.get(provider, _UNKNOWN)
    found: dict[str, Any] = {}
    pictures = pictures_of(config)
    if len(pictures) > 1:
        urls = [_data_url(picture) for picture in pictures]
        found |= dict.fromkeys(fields.pictures, urls)
    if config.mask is not None and fields.mask:
        found[fields.mask] = _data_url(config.mask, is_mask=True)
    if plan.strength is not None and fields.strength:
        found[fields.strength] = plan.strength
    if plan.width is not None and plan.height is not None:
        found |= _size(fields.size, plan.width, plan.height)
    return found


def _size(field: str, width: int, height: int) -> dict[str, Any]:
    if field == "width":
        return {"width": width, "height": height}
    if field == "size":
        return {"size": f"{width}*{height}"}
    return {field: {"width": width, "height": height}}


def _data_url(picture: bytes, *, is_mask: bool = False) -> str:
    data, media_type = upload(picture, is_mask=is_mask)
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
