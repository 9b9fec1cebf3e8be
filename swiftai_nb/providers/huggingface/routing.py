"""Which provider serves a model, asked of the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from swiftai_nb.core.errors import ModelNotFoundError, ProviderUnavailableError

DEFAULT_MODEL = "black-forest-labs/FLUX.1-schnell"
SECOND_MODEL = "stabilityai/stable-diffusion-3-medium-diffusers"
TASK = "text-to-image"


@dataclass(frozen=True)
class Route:
    """One way to a picture.

    Args:
        model: Hub id, or the URL of an endpoint.
        provider: Inference Provider's name; "endpoint" for a URL.
    """

    model: str
    provider: str


def provider_names() -> list[str]:
    """Providers that the installed huggingface_hub can ask for pictures, sorted."""
    from huggingface_hub.inference._providers import PROVIDERS

    return sorted(name for name, tasks in PROVIDERS.items() if TASK in tasks)


def find_route(model: str, provider: str) -> Route:
    """Picks the provider for a model: the named one, or for "auto" the first that is live.

    Asks the Hub once per model and process; blocks, so call it off the kernel's thread.

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
        raise ModelNotFoundError(f"no provider serves {model} now", hint=instead_of(model))
    raise ProviderUnavailableError(
        f"{provider} does not serve {model}",
        hint=f"served by {', '.join(serving)}; or leave the provider to auto",
    )


def instead_of(model: str) -> str:
    """A remedy that names a model usually served, and where to see all of them."""
    other = SECOND_MODEL if model == DEFAULT_MODEL else DEFAULT_MODEL
    page = f"huggingface.co/models?pipeline_tag={TASK}&inference_provider=all"
    return f"use --model {other}; all that are served: {page}"


def _serving(model: str) -> list[str]:
    # The library looks the same mapping up again, on the event loop; going through its own
    # cached function saves that second request.
    from huggingface_hub.inference._providers import _common

    mapping = _common._fetch_inference_provider_mapping(model)
    return [m.provider for m in mapping if m.task == TASK and m.status != "error"]
