"""HuggingFaceProvider: pictures from cloud services, with the API of the local provider."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.control import refuse_controls
from swiftai_nb.core.errors import AuthenticationError, InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.request import FALLBACK_SIZE, GenerationPlan, GenerationRequest
from swiftai_nb.providers.cloud.call import check_timeout, extra_notes, make_image
from swiftai_nb.providers.cloud.pictures import pictures_of, refuse_enlargement
from swiftai_nb.providers.huggingface.call import HubCall
from swiftai_nb.providers.huggingface.hub import (
    DEFAULT_MODEL,
    IMAGE_TO_IMAGE,
    MODELS,
    TEXT_TO_IMAGE,
    RouteFinder,
    check_provider,
    find_token,
    is_hugging_face,
    token_help,
)
from swiftai_nb.providers.huggingface.payload import ENDPOINT, HubPlan, Service, check_pictures

# Settings that providers accept or that do not change the picture; others are noted as not sent.
_SENT = frozenset(
    {"model", "width", "height", "steps", "guidance_scale", "seed", "scheduler", "extra_body"}
    | {"image", "mask", "references", "strength"}
)
_WITHOUT_EFFECT = frozenset({"steps_factor", "preview", "filled_in", "embed_references"})


class HuggingFaceProvider:
    """Makes and changes pictures through Hugging Face's Inference Providers.

    Args:
        token: access token; None takes `HF_TOKEN`, the hub's login or Colab's secret.
        provider: "auto" or a name such as "fal-ai", "hf-inference", "together".
        model: Hub id; None is Z-Image-Turbo, and Qwen-Image-Edit for pictures that change others.
        bill_to: organization that pays.
        timeout_s: seconds to wait for one picture, in all.
        base_url: an endpoint of your own that speaks hf-inference's text-to-image and image-to-image; the
            Hub is then not queried, and no token is needed. The user's own token is sent only to hosts of
            Hugging Face, a token given here to any.
        retry_wait_s: seconds to spend at most on waiting between tries when a provider is
            busy, loading or limits the rate; 0 gives up at once.

    With "auto", the next provider is asked when one has no credits (402), does not serve the model (404)
    or is overloaded (503); the recipe notes it. A start picture (`config.image`), reference pictures and a
    mask are sent where the provider has a field for them, without their metadata.

    A cloud seed may not be honored, and providers support different settings: the recipe
    records the request, and which provider and model answered. A provider may bill a request
    that was cancelled.
    """

    kind = "cloud"

    def __init__(
        self,
        token: str | None = None,
        *,
        provider: str = "auto",
        model: str | None = None,
        bill_to: str | None = None,
        timeout_s: float = 180.0,
        base_url: str | None = None,
        retry_wait_s: float = 60.0,
    ) -> None:
        self.provider = provider
        self.model = model
        self.bill_to = bill_to
        self.timeout_s = check_timeout(timeout_s)
        self.base_url = base_url
        self.retry_wait_s = retry_wait_s
        self._token = token
        self._finder = RouteFinder()
        self._calls: set[HubCall] = set()
        self._past_s: dict[tuple[str, Service], float] = {}

    def __repr__(self) -> str:
        return f"<HuggingFaceProvider provider={self.provider} model={self.model or DEFAULT_MODEL}>"

    @property
    def is_available(self) -> bool:
        """Whether there is a token (or an endpoint of your own); nothing is sent."""
        return self.base_url is not None or find_token(self._token) is not None

    def plan(self, request: GenerationRequest | str, config: ImageGenerationConfig | None = None) -> HubPlan:
        """Makes the plan; nothing is sent.

        Args:
            request: a request; a text is a prompt for one picture.
            config: settings of a text.

        Raises:
            AIError: no token, a setting that no provider takes, no such model or provider.
        """
        if not isinstance(request, GenerationRequest):
            request = GenerationRequest.of(request, config)
        request = request.with_native_size(FALLBACK_SIZE)
        config = request.config
        task = IMAGE_TO_IMAGE if pictures_of(config) else TEXT_TO_IMAGE
        base_url = self.base_url if request.base_url is None else request.base_url
        service = Service(
            provider=self.provider,
            base_url=base_url,
            bill_to=self.bill_to if request.bill_to is None else request.bill_to,
        )
        refuse_enlargement(config, who="the cloud provider")
        self._check(config, service, task)
        token = self._token_for(base_url)
        if token is None and base_url is None:
            raise AuthenticationError("no Hugging Face token", hint=token_help())
        name = next((m for m in (config.model, self.model) if m is not None), MODELS[task][0])
        model = _hub_id(name, is_endpoint=base_url is not None)
        return HubPlan(
            request=request,
            engine="huggingface",
            model=model,
            width=config.height if config.width is None else config.width,
            height=config.width if config.height is None else config.height,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            scheduler=config.scheduler,
            strength=config.strength,
            device="cloud",
            estimated_s=self._past_s.get((model, service)),
            notes=tuple(_notes(config)),
            destination=_destination(service),
            cost="each picture is one request, at the provider's own price",
            timeout_s=self.timeout_s,
            retry_wait_s=self.retry_wait_s,
            task=task,
            service=service,
            token=token,
        )

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan; see `PlanningGenerator.generate`.

        Progress has stages and elapsed time but no steps: providers do not report them.
        """
        if not isinstance(plan, HubPlan):
            raise InvalidInputError("this plan was made by another provider", hint="call plan() of this one")
        call = HubCall(plan, index, finder=self._finder, on_progress=on_progress)
        self._calls.add(call)
        try:
            answer = await call.answer()
        finally:
            self._calls.discard(call)
        self._past_s[plan.model, plan.service] = answer.asked_s
        return make_image(plan, index, answer, elapsed_s=call.elapsed_s)

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
        model: str | None = None,
    ) -> GeneratedImage:
        """Makes one picture: `plan` and `generate`; see `ImageGenerator.generate_image`.

        `model` (or `config.model`) overrides the provider's.
        """
        config = ImageGenerationConfig() if config is None else config
        if model is not None:
            config = config.replace(model=model)
        plan = self.plan(GenerationRequest.of(prompt, config, negative_prompt=negative_prompt))
        return await self.generate(plan, on_progress=on_progress)

    async def cancel_generation(self) -> None:
        """Closes the connection of every running call; each raises GenerationCancelledError."""
        for call in tuple(self._calls):
            call.cancel()

    def _token_for(self, base_url: str | None) -> str | None:
        """The token to send; the user's own one only to Hugging Face."""
        if base_url is None or is_hugging_face(base_url):
            return find_token(self._token)
        return self._token

    def _check(self, config: ImageGenerationConfig, service: Service, task: str) -> None:
        if config.strength is not None and config.image is None:
            raise InvalidInputError("strength without image", hint="give the picture to start from as image")
        refuse_controls(config.controls, who="the cloud")
        if service.base_url is not None:
            check_pictures(ENDPOINT, config)
        elif task == IMAGE_TO_IMAGE and service.provider != "auto":
            check_provider(service.provider, task)
            check_pictures(service.provider, config)


def _hub_id(name: str, *, is_endpoint: bool) -> str:
    if "/" in name or is_endpoint:
        return name
    from swiftai_nb.registry.catalog import find

    repository = find(name).repository
    if not repository:
        raise InvalidInputError(
            f"{name} is a local model, not one of the cloud",
            hint=f"write owner/name, such as {DEFAULT_MODEL}",
        )
    return str(repository)


def _destination(service: Service) -> str:
    if service.base_url is not None:
        return str(urlsplit(service.base_url).hostname)
    who = "the first provider that serves the model" if service.provider == "auto" else service.provider
    payer = "" if service.bill_to is None else f", billed to {service.bill_to}"
    return f"{who} through Hugging Face{payer}"


def _notes(config: ImageGenerationConfig) -> Iterator[str]:
    yield "made in the cloud: the seed may not have been honored"
    ignored = [name for name in config.to_dict() if name not in _SENT | _WITHOUT_EFFECT]
    if ignored:
        yield f"not sent, as providers do not support it: {', '.join(ignored)}"
    yield from extra_notes(config.extra_body)
