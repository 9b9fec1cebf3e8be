"""HuggingFaceProvider: the same words and the same picture object, made in the cloud."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swiftai_nb._version import __version__
from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import (
    AIError,
    AuthenticationError,
    GenerationCancelledError,
    GenerationFailedError,
    InvalidInputError,
    NetworkError,
    RateLimitedError,
)
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.providers.huggingface.call import CloudCall
from swiftai_nb.providers.huggingface.routing import DEFAULT_MODEL, Route, find_route
from swiftai_nb.providers.huggingface.token import find_token, how_to_give_a_token
from swiftai_nb.providers.huggingface.translation import retry_after_s, translate

if TYPE_CHECKING:
    from PIL.Image import Image

TICK_S = 0.5
FIRST_BACKOFF_S = 1.0
LARGEST_CLOUD_SEED = 2**31 - 1
# Settings of the local engine that no provider takes.
LOCAL_ONLY = ("clip_skip", "image", "strength", "mask", "loras", "quantization_bits")


@dataclass(frozen=True)
class CloudRequest:
    """One picture to ask for, every value concrete."""

    prompt: str
    negative_prompt: str | None
    config: ImageGenerationConfig
    model: str
    seed: int
    token: str | None


class HuggingFaceProvider:
    """Makes pictures through Hugging Face's Inference Providers.

    Args:
        token: access token; None takes `HF_TOKEN`, the hub's login or Colab's secret.
        provider: "auto" or a name such as "fal-ai", "hf-inference", "together".
        model: Hub id; None is FLUX.1-schnell.
        bill_to: organization that pays.
        timeout_s: seconds to wait for one picture, in all.
        base_url: an endpoint of your own that speaks hf-inference's text-to-image; the Hub is
            then not asked, and no token is needed.
        retry_wait_s: seconds to spend at most on waiting between tries when a provider is
            busy, loading or limits the rate; 0 gives up at once.

    A cloud seed may not be honored, and providers differ in what else they take: the recipe
    records what was asked, and which provider and model answered. What a provider has begun
    it may bill, even when cancelled.
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
        self._past_s: dict[Route, float] = {}

    def __repr__(self) -> str:
        return f"<HuggingFaceProvider provider={self.provider} model={self.model or DEFAULT_MODEL}>"

    @property
    def is_available(self) -> bool:
        """Whether there is a token (or an endpoint of your own); nothing is sent."""
        return self.base_url is not None or find_token(self._token) is not None

    async def generate_image(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        config: ImageGenerationConfig | None = None,
        on_progress: ProgressCallback | None = None,
        model: str | None = None,
    ) -> GeneratedImage:
        """Makes one picture; see `ImageGenerator.generate_image`.

        `model` (or `config.model`) wins over the provider's own. Progress has stages and
        elapsed time but no steps: providers do not tell them.
        """
        request = self._request(prompt, negative_prompt, config, model)
        report = _Reporter(on_progress)
        call = CloudCall()
        self._calls.add(call)
        try:
            return await call.run(lambda: self._generate(request, report))
        except asyncio.CancelledError:
            if call in self._calls:
                raise  # the awaiting task was cancelled; cancel_generation empties the set first
            raise GenerationCancelledError from None
        finally:
            self._calls.discard(call)

    async def cancel_generation(self) -> None:
        """Closes the connection of every running call; each raises GenerationCancelledError."""
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()

    def plan(self, prompt: str, config: ImageGenerationConfig) -> None:
        """Refuses what can be refused before anything is sent; there is nothing more to plan.

        Raises:
            AIError: an empty prompt, no token, a setting that no provider takes.
        """
        self._request(prompt, None, config, None)

    def _request(
        self,
        prompt: str,
        negative_prompt: str | None,
        config: ImageGenerationConfig | None,
        model: str | None,
    ) -> CloudRequest:
        config = ImageGenerationConfig() if config is None else config
        if not prompt.strip():
            raise InvalidInputError("the prompt is empty", hint="say what to draw")
        if config.image is not None:
            raise InvalidInputError(
                "the cloud provider cannot start from a picture", hint="use a local model: --engine local"
            )
        token = find_token(self._token)
        if token is None and self.base_url is None:
            raise AuthenticationError("no Hugging Face token", hint=how_to_give_a_token())
        seed = secrets.randbelow(LARGEST_CLOUD_SEED) if config.seed is None else config.seed
        name = next((m for m in (model, config.model, self.model) if m is not None), DEFAULT_MODEL)
        return CloudRequest(prompt, negative_prompt, config, self._hub_id(name), seed, token)

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

    async def _generate(self, request: CloudRequest, report: _Reporter) -> GeneratedImage:
        route = Route(request.model, "the provider")
        try:
            report(GenerationStage.LOOKING_UP_PROVIDER, request.model)
            route = self._route(request)
            started = time.monotonic()
            picture = await asyncio.wait_for(self._ask(request, route, report), self.timeout_s)
        except Exception as error:  # noqa: BLE001 (the one place where foreign errors become ours)
            raise translate(error, route=route, token=request.token) from None
        self._past_s[route] = time.monotonic() - started
        report(GenerationStage.DONE, route.provider)
        recipe = _recipe(request, route, picture)
        return GeneratedImage.from_pil(picture, recipe=recipe, elapsed_s=report.elapsed_s)

    def _route(self, request: CloudRequest) -> Route:
        from huggingface_hub import constants

        if self.base_url is not None:
            return Route(request.model, "endpoint")
        if constants.HF_HUB_OFFLINE:
            from huggingface_hub.errors import OfflineModeIsEnabled

            raise OfflineModeIsEnabled
        return find_route(request.model, self.provider)

    async def _ask(self, request: CloudRequest, route: Route, report: _Reporter) -> Image:
        waited_s, backoff_s = 0.0, FIRST_BACKOFF_S
        while True:
            try:
                with report.ticking(GenerationStage.WAITING, route.provider, self._past_s.get(route)):
                    return await self._ask_once(request, route, report)
            except Exception as error:  # noqa: BLE001 (translated, then judged)
                ours = translate(error, route=route, token=request.token)
                pause_s = _pause_s(ours, retry_after_s(error), backoff_s)
                if pause_s is None or waited_s + pause_s > self.retry_wait_s:
                    raise ours from None
            report(GenerationStage.WAITING, f"{route.provider} is busy, trying again in {pause_s:.0f} s")
            await asyncio.sleep(pause_s)
            waited_s, backoff_s = waited_s + pause_s, backoff_s * 2

    async def _ask_once(self, request: CloudRequest, route: Route, report: _Reporter) -> Image:
        config = request.config
        async with self._client(request, route) as client:
            await _on_response(client, lambda: report(GenerationStage.RECEIVING, route.provider))
            picture: Image = await client.text_to_image(
                request.prompt,
                negative_prompt=request.negative_prompt,
                width=config.height if config.width is None else config.width,
                height=config.width if config.height is None else config.height,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance_scale,
                scheduler=config.scheduler,
                seed=request.seed,
                model=route.model if self.base_url is None else self.base_url,
            )
            return _whole(picture, route)

    def _client(self, request: CloudRequest, route: Route) -> Any:
        from huggingface_hub import AsyncInferenceClient

        provider: Any = None if self.base_url is not None else route.provider
        token = request.token if self.base_url is None else request.token or "none"
        return AsyncInferenceClient(
            provider=provider, token=token, timeout=self.timeout_s, bill_to=self.bill_to
        )


class _Reporter:
    """Sends progress with the time since the call began."""

    def __init__(self, on_progress: ProgressCallback | None) -> None:
        self._on_progress = on_progress
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def __call__(self, stage: GenerationStage, detail: str = "", remaining_s: float | None = None) -> None:
        if self._on_progress is not None:
            self._on_progress(
                ImageGenerationProgress(0, 0, self.elapsed_s, remaining_s, stage=stage, detail=detail)
            )

    @contextlib.contextmanager
    def ticking(self, stage: GenerationStage, detail: str, expected_s: float | None) -> Any:
        """Reports now and every half second until the block ends."""

        async def tick() -> None:
            began = time.monotonic()
            while True:
                left_s = None if expected_s is None else max(0.0, expected_s - (time.monotonic() - began))
                self(stage, detail, left_s)
                await asyncio.sleep(TICK_S)

        task = asyncio.get_running_loop().create_task(tick())
        try:
            yield
        finally:
            task.cancel()


async def _on_response(client: Any, callback: Callable[[], None]) -> None:
    # The inner HTTP client is private; without it the stage "receiving" is left out.
    try:
        inner = await client._get_async_client()
        hooks = inner.event_hooks
    except AttributeError:
        return

    async def hook(_: Any) -> None:
        callback()

    inner.event_hooks = {**hooks, "response": [*hooks.get("response", []), hook]}


def _whole(picture: Image, route: Route) -> Image:
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise GenerationFailedError(
            f"{route.provider} sent a broken picture ({error})",
            hint="try again, or choose another --provider",
        ) from None
    return picture


def _pause_s(error: AIError, asked_s: float | None, backoff_s: float) -> float | None:
    """Seconds to wait before asking again, or None when that is of no use."""
    if isinstance(error, RateLimitedError):
        return backoff_s if asked_s is None else asked_s
    retryable = isinstance(error, NetworkError) and getattr(error, "status_code", None) in (
        500,
        502,
        503,
        504,
    )
    return (backoff_s if asked_s is None else asked_s) if retryable else None


def _recipe(request: CloudRequest, route: Route, picture: Image) -> Recipe:
    config = request.config
    ignored = [name for name in LOCAL_ONLY if getattr(config, name) not in (None, ())]
    notes = ["made in the cloud: the seed may not have been honored"]
    if ignored:
        notes.append(f"not sent, as providers do not take it: {', '.join(ignored)}")
    asked = (config.width, config.height)
    if None not in asked and asked != picture.size:
        notes.append(f"asked for {asked[0]}x{asked[1]}, got {picture.width}x{picture.height}")
    return Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=route.model,
        width=picture.width,
        height=picture.height,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        seed=request.seed,
        scheduler=config.scheduler,
        engine="huggingface",
        provider=route.provider,
        device="cloud",
        versions={"swiftai_nb": __version__},
        notes=tuple(notes),
    )
