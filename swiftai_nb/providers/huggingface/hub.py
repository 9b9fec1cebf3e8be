"""Queries to the Hugging Face Hub: the access token, and the provider of a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from swiftai_nb.core.errors import ModelNotFoundError, ProviderUnavailableError

DEFAULT_MODEL = "black-forest-labs/FLUX.1-schnell"
SECOND_MODEL = "stabilityai/stable-diffusion-3-medium-diffusers"
TASK = "text-to-image"
TOKEN_PAGE = "huggingface.co/settings/tokens"


def find_token(given: str | None = None) -> str | None:
    """The token to use: the given one, `HF_TOKEN`, the hub's login, or Colab's secret."""
    if given is not None:
        return given
    from huggingface_hub import get_token

    return get_token()


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
        model: Hub id, or the URL of an endpoint.
        provider: Inference Provider's name; "endpoint" for a URL.
    """

    model: str
    provider: str


def provider_names() -> list[str]:
    """Text-to-image providers known to the installed huggingface_hub, sorted."""
    from huggingface_hub.inference._providers import PROVIDERS

    return sorted(name for name, tasks in PROVIDERS.items() if TASK in tasks)


def find_route(model: str, provider: str) -> Route:
    """Selects the provider for a model: the named one, or for "auto" the first that is live.

    Queries the Hub once per model and process; blocks, so call it outside the kernel's event loop.

    Raises:
        ProviderUnavailableError: no such provider, or it does not serve this model.
        ModelNotFoundError: no provider serves this model.
    """
    known = provider_names()
    if provider != "auto" and provider not in known:
        raise ProviderUnavailableError(
            f"no provider {provider!r} makes pictures", hint=f"use auto, {', '.join(known)}"
        )
    serving = [name for name in _serving(model) if name in known]
    if provider == "auto" and serving:
        return Route(model, serving[0])
    if provider in serving:
        return Route(model, provider)
    if not serving:
        raise ModelNotFoundError(f"no provider serves {model} now", hint=other_models(model))
    raise ProviderUnavailableError(
        f"{provider} does not serve {model}",
        hint=f"served by {', '.join(serving)}; or leave the provider to auto",
    )


def other_models(model: str) -> str:
    """A hint with a model that is usually served, and the page that lists all of them."""
    other = SECOND_MODEL if model == DEFAULT_MODEL else DEFAULT_MODEL
    page = f"huggingface.co/models?pipeline_tag={TASK}&inference_provider=all"
    return f"use --model {other}; all that are served: {page}"


def _serving(model: str) -> list[str]:
    # The library looks the same mapping up again, on the event loop; going through its own
    # cached function saves that second request.
    from huggingface_hub.inference._providers import _common

    mapping = _common._fetch_inference_provider_mapping(model)
    return [m.provider for m in mapping if m.task == TASK and m.status != "error"]
