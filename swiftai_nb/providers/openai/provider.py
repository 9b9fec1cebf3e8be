"""OpenAIImagesProvider: pictures from OpenAI and from servers that speak its Images API."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from swiftai_nb.core.config import ImageGenerationConfig, checked_int
from swiftai_nb.core.control import refuse_controls
from swiftai_nb.core.errors import AIError, AuthenticationError, InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.request import FALLBACK_SIZE, GenerationPlan, GenerationRequest
from swiftai_nb.providers.cloud.call import check_timeout, extra_notes, make_image
from swiftai_nb.providers.cloud.pictures import refuse_enlargement
from swiftai_nb.providers.openai.call import OpenAICall
from swiftai_nb.providers.openai.errors import translate
from swiftai_nb.providers.openai.request import OpenAIPlan, check_extra, ignored_settings, is_strict
from swiftai_nb.providers.openai.server import (
    DEFAULT_MODEL,
    Server,
    checked_base_url,
    default_base_url,
    fetch_models,
    find_key,
    is_openai_model,
    key_help,
)

NATIVE_SIZE = (1024, 1024)  # of OpenAI's models
PARTIAL_IMAGES = 2


class OpenAIImagesProvider:
    """Makes and changes pictures at OpenAI, or at any server with `/v1/images/generations` and `/edits`.

    Such servers are stable-diffusion.cpp's, vLLM-Omni, LocalAI and many services.

    Args:
        base_url: such as "http://127.0.0.1:1234/v1"; None takes `OPENAI_BASE_URL`, else OpenAI's.
        api_key: None takes `OPENAI_API_KEY` for OpenAI and the server in `OPENAI_BASE_URL`, and the
            keyring (service "swiftai_nb", the host's name) for any; a local server needs none.
        model: None is `gpt-image-2.5-flare` at OpenAI, elsewhere the only model that the server lists.
        quality: such as "low" or "high"; None is the model's own.
        background: "transparent", "opaque" or "auto"; None is the model's own.
        organization: of OpenAI, that pays.
        partial_images: previews while a picture forms, 0..3; None asks OpenAI's models for 2, which
            cost a little more, and others for none.
        timeout_s: seconds to wait for one picture, in all.
        retry_wait_s: seconds to wait at most for a busy server (429, 503); 0 gives up at once.

    Each picture is one request, so that each has its seed and Cancel keeps the finished ones. OpenAI's own
    models take no seed, steps or guidance; the recipe notes it. Nothing is sent twice that may be billed.
    """

    kind = "cloud"

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        model: str | None = None,
        quality: str | None = None,
        background: str | None = None,
        organization: str | None = None,
        partial_images: int | None = None,
        timeout_s: float = 300.0,
        retry_wait_s: float = 60.0,
    ) -> None:
        self.base_url = None if base_url is None else checked_base_url(base_url)
        self.model = model
        self.quality = quality
        self.background = background
        self.organization = organization
        self.partial_images = (
            None if partial_images is None else checked_int("partial_images", partial_images, low=0, high=3)
        )
        self.timeout_s = check_timeout(timeout_s)
        self.retry_wait_s = retry_wait_s
        self._key = api_key
        self._calls: set[OpenAICall] = set()
        self._models: dict[str, list[str]] = {}
        self._past_s: dict[tuple[str, str | None], float] = {}

    def __repr__(self) -> str:
        return f"<OpenAIImagesProvider base_url={self.base_url} model={self.model}>"

    @property
    def is_available(self) -> bool:
        """Whether there is a key, or another server than OpenAI's; nothing is sent."""
        server = self._server()
        return server.key is not None or not server.is_openai

    def check_available(self) -> None:
        """Says what is missing; nothing is sent.

        Raises:
            AuthenticationError: no key for OpenAI.
        """
        self._checked(self._server())

    async def models(self, base_url: str | None = None) -> list[str]:
        """Names of the models that the server lists.

        Args:
            base_url: another server than this provider's.

        Raises:
            AIError: the server cannot be reached.
        """
        server = self._server(base_url=base_url)
        try:
            return await fetch_models(server)
        except Exception as error:  # noqa: BLE001 (foreign errors become ours)
            raise translate(error, server=server, model=None, models=[]) from None

    def plan(
        self, request: GenerationRequest | str, config: ImageGenerationConfig | None = None
    ) -> OpenAIPlan:
        """Makes the plan; nothing is sent.

        Args:
            request: a request; a text is a prompt for one picture.
            config: settings of a text.

        Raises:
            AIError: no key, no usable address, a setting that cannot be sent.
        """
        if not isinstance(request, GenerationRequest):
            request = GenerationRequest.of(request, config)
        server = self._checked(self._server(request, base_url=request.base_url))
        model = next((m for m in (request.config.model, self.model) if m is not None), None)
        if model is None and server.is_openai:
            model = DEFAULT_MODEL
        strict = is_strict(server, model)
        request = request.with_native_size(NATIVE_SIZE if strict else FALLBACK_SIZE)
        config = self._with_own_settings(request.config)
        check_extra(config.extra_body)
        refuse_controls(config.controls, who="this service")
        refuse_enlargement(config, who="this service")
        if config.strength is not None and config.image is None:
            raise InvalidInputError("strength without image", hint="give the picture to start from as image")
        partial_images = self._partial_images(config, model)
        return OpenAIPlan(
            request=replace(request, config=config),
            engine="openai",
            model=model,
            width=config.height if config.width is None else config.width,
            height=config.width if config.height is None else config.height,
            steps=None if strict else config.steps,
            guidance_scale=None if strict else config.guidance_scale,
            scheduler=None if strict else config.scheduler,
            strength=None if strict else config.strength,
            device="cloud",
            estimated_s=self._past_s.get((server.base_url, model)),
            notes=tuple(_notes(request, config, strict=strict)),
            destination=_destination(server),
            cost=_cost(server, partial_images),
            timeout_s=self.timeout_s,
            retry_wait_s=self.retry_wait_s,
            server=server,
            partial_images=partial_images,
        )

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan; see `PlanningGenerator.generate`.

        Progress has stages, elapsed time and, where the server streams partial pictures, previews.
        """
        if not isinstance(plan, OpenAIPlan):
            raise InvalidInputError("this plan was made by another provider", hint="call plan() of this one")
        call = OpenAICall(plan, index, models=self._models, on_progress=on_progress)
        self._calls.add(call)
        try:
            answer = await call.answer()
        except AIError:
            self._models.pop(plan.server.base_url, None)  # the server may serve another model now
            raise
        finally:
            self._calls.discard(call)
        self._past_s[plan.server.base_url, plan.model] = answer.asked_s
        return make_image(plan, index, answer, elapsed_s=call.elapsed_s)

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> GeneratedImage:
        """Makes one picture: `plan` and `generate`; see `ImageGenerator.generate_image`."""
        plan = self.plan(GenerationRequest.of(prompt, config, negative_prompt=negative_prompt))
        return await self.generate(plan, on_progress=on_progress)

    async def cancel_generation(self) -> None:
        """Closes the connection of every running call; each raises GenerationCancelledError."""
        for call in tuple(self._calls):
            call.cancel()

    def _server(self, request: GenerationRequest | None = None, *, base_url: str | None = None) -> Server:
        own = default_base_url() if self.base_url is None else self.base_url
        base_url = checked_base_url(own if base_url is None else base_url)
        # A key that was given for one server is not sent to another one.
        is_own = base_url == checked_base_url(own)
        key = self._key if self._key is not None and is_own else find_key(base_url)
        payer = self.organization if request is None or request.bill_to is None else request.bill_to
        return Server(base_url, key or None, payer)

    def _checked(self, server: Server) -> Server:
        if server.key is None and server.is_openai:
            raise AuthenticationError("no key for OpenAI", hint=key_help(server.base_url))
        return server

    def _with_own_settings(self, config: ImageGenerationConfig) -> ImageGenerationConfig:
        own = {"quality": self.quality, "background": self.background}
        extra = {name: value for name, value in own.items() if value is not None}
        return config.replace(extra_body={**extra, **(config.extra_body or {})})

    def _partial_images(self, config: ImageGenerationConfig, model: str | None) -> int:
        if config.preview == "off":
            return 0
        if self.partial_images is not None:
            return self.partial_images
        return PARTIAL_IMAGES if is_openai_model(model) and "dall-e" not in str(model) else 0


def _notes(request: GenerationRequest, config: ImageGenerationConfig, *, strict: bool) -> Iterator[str]:
    if strict:
        yield "the service takes no seed: the same one gives another picture"
    else:
        yield "made by a server: the seed may not have been honored"
    ignored = ignored_settings(config, strict=strict)
    if strict and request.negative_prompt is not None:
        ignored.append("negative_prompt")
    if ignored:
        yield f"not sent, as the service does not support it: {', '.join(ignored)}"
    yield from extra_notes(config.extra_body)


def _destination(server: Server) -> str:
    encrypted = server.base_url.startswith("https:")
    place = " (this machine)" if server.is_on_this_machine else "" if encrypted else " (not encrypted)"
    payer = "" if server.organization is None else f", billed to {server.organization}"
    return f"{server.name}{place}{payer}"


def _cost(server: Server, partial_images: int) -> str:
    if server.is_on_this_machine:
        return ""
    previews = f"; {partial_images} previews of it cost extra (--preview off)" if partial_images else ""
    return f"each picture is one request, at the service's own price{previews}"
