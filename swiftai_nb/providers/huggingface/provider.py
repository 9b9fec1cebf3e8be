"""HuggingFaceProvider: pictures from cloud services, with the API of the local provider."""

from __future__ import annotations

from swiftai_nb._version import __version__
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AuthenticationError, InvalidInputError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import FALLBACK_SIZE, GenerationPlan, GenerationRequest
from swiftai_nb.providers.huggingface.call import CloudAnswer, CloudCall, CloudPlan, Service
from swiftai_nb.providers.huggingface.hub import DEFAULT_MODEL, find_token, token_help

# Settings that providers accept or that do not change the picture; others are noted as not sent.
_SENT = frozenset({"model", "width", "height", "steps", "guidance_scale", "seed", "scheduler"})
_WITHOUT_EFFECT = frozenset({"steps_factor", "preview"})


class HuggingFaceProvider:
    """Makes pictures through Hugging Face's Inference Providers.

    Args:
        token: access token; None takes `HF_TOKEN`, the hub's login or Colab's secret.
        provider: "auto" or a name such as "fal-ai", "hf-inference", "together".
        model: Hub id; None is FLUX.1-schnell.
        bill_to: organization that pays.
        timeout_s: seconds to wait for one picture, in all.
        base_url: an endpoint of your own that speaks hf-inference's text-to-image; the Hub is
            then not queried, and no token is needed.
        retry_wait_s: seconds to spend at most on waiting between tries when a provider is
            busy, loading or limits the rate; 0 gives up at once.

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
        if not timeout_s > 0:
            raise InvalidInputError(
                f"timeout_s {timeout_s!r} is not above 0", hint="give seconds, such as 180"
            )
        self.provider = provider
        self.model = model
        self.bill_to = bill_to
        self.timeout_s = timeout_s
        self.base_url = base_url
        self.retry_wait_s = retry_wait_s
        self._token = token
        self._calls: set[CloudCall] = set()
        self._past_s: dict[tuple[str, Service], float] = {}

    def __repr__(self) -> str:
        return f"<HuggingFaceProvider provider={self.provider} model={self.model or DEFAULT_MODEL}>"

    @property
    def is_available(self) -> bool:
        """Whether there is a token (or an endpoint of your own); nothing is sent."""
        return self.base_url is not None or find_token(self._token) is not None

    def plan(
        self, request: GenerationRequest | str, config: ImageGenerationConfig | None = None
    ) -> CloudPlan:
        """Makes the plan; nothing is sent.

        Args:
            request: a request; a text is a prompt for one picture.
            config: settings of a text.

        Raises:
            AIError: no token, a setting that no provider takes, no such model.
        """
        if not isinstance(request, GenerationRequest):
            request = GenerationRequest.of(request, config)
        request = request.with_native_size(FALLBACK_SIZE)
        config = request.config
        if config.image is not None:
            raise InvalidInputError(
                "the cloud provider cannot start from a picture", hint="use a local model: --engine local"
            )
        if config.references:
            raise InvalidInputError(
                "the cloud provider takes no reference pictures",
                hint="use a local model: --engine local --model flux.2-klein-4bit",
            )
        token = find_token(self._token)
        if token is None and self.base_url is None:
            raise AuthenticationError("no Hugging Face token", hint=token_help())
        name = next((m for m in (config.model, self.model) if m is not None), DEFAULT_MODEL)
        model = self._hub_id(name)
        service = Service(
            provider=self.provider,
            base_url=self.base_url,
            bill_to=self.bill_to,
            timeout_s=self.timeout_s,
            retry_wait_s=self.retry_wait_s,
        )
        return CloudPlan(
            request=request,
            engine="huggingface",
            model=model,
            width=config.height if config.width is None else config.width,
            height=config.width if config.height is None else config.height,
            steps=config.steps,
            guidance_scale=config.guidance_scale,
            scheduler=config.scheduler,
            device="cloud",
            estimated_s=self._past_s.get((model, service)),
            notes=tuple(_notes(config)),
            service=service,
            token=token,
        )

    async def generate(
        self, plan: GenerationPlan, *, index: int = 0, on_progress: ProgressCallback | None = None
    ) -> GeneratedImage:
        """Makes picture `index` of a plan; see `PlanningGenerator.generate`.

        Progress has stages and elapsed time but no steps: providers do not report them.
        """
        if not isinstance(plan, CloudPlan):
            raise InvalidInputError("this plan was made by another provider", hint="call plan() of this one")
        seed = plan.request.seeds[index]
        call = CloudCall(plan, seed, on_progress)
        self._calls.add(call)
        try:
            answer = await call.answer()
        finally:
            self._calls.discard(call)
        self._past_s[plan.model, plan.service] = answer.asked_s
        recipe = _recipe(plan, seed, answer)
        return GeneratedImage.from_pil(answer.picture, recipe=recipe, elapsed_s=answer.elapsed_s)

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

    def _hub_id(self, name: str) -> str:
        if "/" in name or self.base_url is not None:
            return name
        from swiftai_nb.registry.catalog import find

        repository = find(name).repository
        if not repository:
            raise InvalidInputError(
                f"{name} is a local model, not one of the cloud",
                hint=f"write owner/name, such as {DEFAULT_MODEL}",
            )
        return str(repository)


def _notes(config: ImageGenerationConfig) -> list[str]:
    notes = ["made in the cloud: the seed may not have been honored"]
    ignored = [name for name in config.to_dict() if name not in _SENT | _WITHOUT_EFFECT]
    if ignored:
        notes.append(f"not sent, as providers do not support it: {', '.join(ignored)}")
    return notes


def _recipe(plan: CloudPlan, seed: int, answer: CloudAnswer) -> Recipe:
    request, picture, notes = plan.request, answer.picture, list(plan.notes)
    asked = (request.config.width, request.config.height)
    if None not in asked and asked != picture.size:
        notes.append(f"requested {asked[0]}x{asked[1]}, got {picture.width}x{picture.height}")
    return Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=answer.route.model,
        width=picture.width,
        height=picture.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=seed,
        scheduler=plan.scheduler,
        engine=plan.engine,
        provider=answer.route.provider,
        device="cloud",
        versions={"swiftai_nb": __version__},
        notes=tuple(notes),
    )
