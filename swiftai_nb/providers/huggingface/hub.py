"""Queries to the Hugging Face Hub: the access token, and the providers of a model."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from swiftai_nb.core.errors import ModelNotFoundError, ProviderUnavailableError, UnsupportedModelError

TEXT_TO_IMAGE = "text-to-image"
IMAGE_TO_IMAGE = "image-to-image"
# Defaults and advice, by task: models that several providers serve (docs of Inference Providers, 2026).
MODELS = {
    TEXT_TO_IMAGE: ("Tongyi-MAI/Z-Image-Turbo", "black-forest-labs/FLUX.1-schnell", "Qwen/Qwen-Image"),
    IMAGE_TO_IMAGE: (
        "Qwen/Qwen-Image-Edit-2511",
        "black-forest-labs/FLUX.1-Kontext-dev",
        "black-forest-labs/FLUX.2-dev",
    ),
}
DEFAULT_MODEL = MODELS[TEXT_TO_IMAGE][0]
TOKEN_PAGE = "huggingface.co/settings/tokens"
LOOKUP_TIMEOUT_S = 15.0
LOOKUP_LIFETIME_S = 600.0  # a provider that goes live or down is noticed after this
_HUGGING_FACE_HOSTS = ("huggingface.co", "hf.co", "huggingface.cloud", "hf.space")


def find_token(given: str | None = None) -> str | None:
    """The token to use: the given one, `HF_TOKEN`, the hub's login, or Colab's secret."""
    if given is not None:
        return given
    from huggingface_hub import get_token

    return get_token()


def is_hugging_face(url: str) -> bool:
    """Whether an endpoint belongs to Hugging Face, so that the user's own token may be sent to it."""
    address = urlsplit(url)
    host = address.hostname or ""
    return address.scheme == "https" and any(
        host == own or host.endswith(f".{own}") for own in _HUGGING_FACE_HOSTS
    )


def token_help() -> str:
    """How to provide a token in this front end; a hint."""
    get_one = f"make one at {TOKEN_PAGE} with permission to call Inference Providers"
    if "google.colab" in sys.modules:
        return f"{get_one}, then store it as the Colab secret HF_TOKEN (the key at the left)"
    return f"{get_one}, then set HF_TOKEN before the kernel starts or run hf auth login in a terminal"


@dataclass(frozen=True)
class Route:
    """Where a picture is made.

    Args:
        model: Hub id, or the name sent to an endpoint.
        provider: Inference Provider's name; "endpoint" for a URL.
        task: "text-to-image" or "image-to-image".
        mapping: the Hub's entry for model and provider (`InferenceProviderMapping`).
    """

    model: str
    provider: str
    task: str = TEXT_TO_IMAGE
    mapping: Any = field(default=None, compare=False, repr=False)


def provider_names(task: str = TEXT_TO_IMAGE) -> list[str]:
    """Providers of a task known to the installed huggingface_hub, sorted."""
    from huggingface_hub.inference._providers import PROVIDERS

    return sorted(name for name, tasks in PROVIDERS.items() if task in tasks)


def check_provider(provider: str, task: str) -> None:
    """Refuses a name that the installed huggingface_hub does not know for the task; sends nothing.

    Raises:
        ProviderUnavailableError: no such provider, or not for this task.
    """
    known = provider_names(task)
    if provider != "auto" and provider not in known:
        what = "makes pictures" if task == TEXT_TO_IMAGE else "changes pictures"
        raise ProviderUnavailableError(
            f"no provider {provider!r} {what}", hint=f"use auto, {', '.join(known)}"
        )


class RouteFinder:
    """Which providers serve a model, in the order of the token's account; looked up once in ten minutes.

    Looking up blocks: call it outside the kernel's event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str | None], tuple[float, list[Any]]] = {}

    def find(self, model: str, provider: str, *, task: str, token: str | None) -> list[Route]:
        """The routes for a task, best first: one for a named provider.

        Raises:
            ProviderUnavailableError: no such provider, or it does not serve this model.
            UnsupportedModelError: providers serve this model, but for another task.
            ModelNotFoundError: no provider serves this model.
        """
        check_provider(provider, task)
        known = provider_names(task)
        entries = [m for m in self._mapping(model, token) if m.status != "error" and m.provider in known]
        routes = [Route(model, m.provider, task, m) for m in entries if m.task == task]
        if provider == "auto" and routes:
            return routes
        named = [route for route in routes if route.provider == provider]
        if named:
            return named
        if routes:
            raise ProviderUnavailableError(
                f"{provider} does not serve {model}",
                hint=f"served by {', '.join(r.provider for r in routes)}; or leave the provider to auto",
            )
        if task == IMAGE_TO_IMAGE and self._mapping(model, token):
            raise UnsupportedModelError(
                f"no provider changes pictures with {model}", hint=other_models(model, task)
            )
        raise ModelNotFoundError(f"no provider serves {model} now", hint=other_models(model, task))

    def forget(self, model: str) -> None:
        """Looks this model up again next time."""
        with self._lock:
            self._found = {key: found for key, found in self._found.items() if key[0] != model}

    def _mapping(self, model: str, token: str | None) -> list[Any]:
        # The library's own look-up uses the ambient token and keeps its answer for the process's life.
        key, now_s = (model, token), time.monotonic()
        with self._lock:
            found = self._found.get(key)
        if found is None or now_s - found[0] > LOOKUP_LIFETIME_S:
            found = (now_s, _fetch_mapping(model, token))
            with self._lock:
                self._found[key] = found
        return found[1]


def _fetch_mapping(model: str, token: str | None) -> list[Any]:
    from huggingface_hub.hf_api import HfApi

    # A key of another service must not reach the Hub.
    hub_token = token if token is not None and token.startswith("hf_") else None
    info = HfApi(token=hub_token).model_info(
        model, expand=["inferenceProviderMapping"], timeout=LOOKUP_TIMEOUT_S
    )
    return list(info.inference_provider_mapping or ())


def other_models(model: str, task: str = TEXT_TO_IMAGE) -> str:
    """A hint with models that are usually served, and the page that lists all of them."""
    others = [name for name in MODELS[task] if name != model][:2]
    page = f"huggingface.co/models?pipeline_tag={task}&inference_provider=all"
    return f"use --model {' or '.join(others)}; all that are served: {page}"
