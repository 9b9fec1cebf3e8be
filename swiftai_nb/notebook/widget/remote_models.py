"""The picker's rows of models that run elsewhere: at Hugging Face's providers, OpenAI, the user's server."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import AIError
from swiftai_nb.core.request import GenerationRequest
from swiftai_nb.notebook.widget.form import configured_defaults

if TYPE_CHECKING:
    from swiftai_nb.notebook.wire import ModelEntry
    from swiftai_nb.providers.openai.provider import OpenAIImagesProvider

_log = logging.getLogger(__name__)
MAX_SERVED = 50  # rows of one server
OPENAI_REFERENCES = 16  # pictures that OpenAI takes for one edit


@dataclass(frozen=True)
class CloudModel:
    """A model of the Hugging Face inference providers that the picker offers.

    `max_references` is above 0 for one that changes pictures, and draws none from words alone.
    """

    id: str
    name: str
    description: str
    side: int
    steps: int
    guidance_scale: float
    max_references: int = 0


CLOUD_MODELS = (
    CloudModel(
        "Tongyi-MAI/Z-Image-Turbo", "Z-Image Turbo", "Photographs and text in few steps", 1024, 9, 0.0
    ),
    CloudModel("black-forest-labs/FLUX.1-schnell", "FLUX.1 schnell", "Quick, in 4 steps", 1024, 4, 0.0),
    CloudModel(
        "Qwen/Qwen-Image-Edit-2511",
        "Qwen Image Edit",
        "Changes pictures by words",
        1024,
        40,
        4.0,
        max_references=3,
    ),
)


# A row without a size, a download or anything on this disk; 0 steps are the server's own number.
_BLANK: ModelEntry = {
    "id": "",
    "engine": "cloud",
    "name": "",
    "description": "",
    "size_bytes": 0,
    "memory_bytes": 0,
    "license": "",
    "state": "cloud",
    "state_text": "",
    "hint": "",
    "width": 0,
    "height": 0,
    "steps": 0,
    "guidance_scale": 0.0,
    "display_scale": 1,
    "uses_negative_prompt": False,
    "takes_image": True,
    "max_references": 0,
    "takes_controls": False,
    "sampler_kind": "",
    "can_delete": False,
    "free_disk_bytes": 0,
    "done_bytes": 0,
    "total_bytes": 0,
    "bytes_per_s": 0.0,
    "remaining_s": None,
    "elapsed_s": 0.0,
    "examples": [],
}


class RemoteModels:
    """Rows of what the session's cloud providers draw with. No prompt and no picture is sent.

    Args:
        session: the kernel's session.
        changed: called, from a thread, when a server has said which models it has.
    """

    def __init__(self, session: Any, *, changed: Callable[[], None]) -> None:
        self._session = session
        self._changed = changed
        self._served: dict[str, list[str]] = {}  # by the server's address; empty until it has answered

    def entries(self) -> list[ModelEntry]:
        """The rows; those of a server follow when it has answered."""
        return [*self._cloud(), *self._openai()]

    def _cloud(self) -> list[ModelEntry]:
        try:
            has_token = self._session.generator("cloud").is_available
        except (AIError, ImportError):
            return []
        return [_cloud_entry(model, has_token=has_token) for model in CLOUD_MODELS]

    def _openai(self) -> list[ModelEntry]:
        """OpenAI where there is a key for it; what another server lists where one is set."""
        from swiftai_nb.providers.openai.provider import OpenAIImagesProvider

        try:
            generator = self._session.generator("openai")
            if not isinstance(generator, OpenAIImagesProvider):
                return []  # a third party's
            request = replace(GenerationRequest.of("-"), base_url=configured_defaults().base_url)
            plan = generator.plan(request)
        except (AIError, ImportError):
            return []
        served = [] if plan.model is not None else self._list_of(generator, plan.server.base_url)
        names = served if served else [plan.model]
        own: ModelEntry = {
            **_BLANK,
            "engine": "openai",
            "description": f"Runs at {plan.destination}",
            "state_text": plan.server.name,
            "width": 512,
            "height": 512,
            "max_references": 1,
        }
        if plan.server.is_openai:
            own = {
                **own,
                "description": "Runs at a service, which bills for it",
                "state_text": "OpenAI",
                "width": 1024,
                "height": 1024,
                "max_references": OPENAI_REFERENCES,
            }
        return [
            {**own, "id": name or "", "name": name or f"The model of {plan.server.name}"} for name in names
        ]

    def _list_of(self, generator: OpenAIImagesProvider, base_url: str) -> list[str]:
        if base_url not in self._served:
            self._served[base_url] = []
            threading.Thread(target=self._ask, args=(generator, base_url), daemon=True).start()
        return self._served[base_url][:MAX_SERVED]

    def _ask(self, generator: OpenAIImagesProvider, base_url: str) -> None:
        try:
            self._served[base_url] = asyncio.run(generator.models(base_url))
        except AIError as error:
            _log.info("no models of %s: %s", base_url, error)
            del self._served[base_url]  # asked again when the rows are read again; it draws without a list
            return
        self._changed()


def _cloud_entry(model: CloudModel, *, has_token: bool) -> ModelEntry:
    return {
        **_BLANK,
        "id": model.id,
        "engine": "cloud",
        "name": model.name,
        "description": f"{model.description}; runs at a provider, which bills for it",
        "state": "cloud" if has_token else "cloud_missing",
        "state_text": "cloud" if has_token else "cloud, needs a token",
        "hint": "" if has_token else _token_hint(),
        "width": model.side,
        "height": model.side,
        "steps": model.steps,
        "guidance_scale": model.guidance_scale,
        "uses_negative_prompt": model.guidance_scale > 1,
        "takes_image": model.max_references > 0,
        "max_references": model.max_references,
    }


def _token_hint() -> str:
    from swiftai_nb.providers.huggingface.hub import token_help

    text = token_help()
    return f"{text[:1].upper()}{text[1:]}."
