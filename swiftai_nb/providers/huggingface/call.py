"""One request to the cloud, on a thread and an event loop of its own.

The library looks providers up synchronously inside its coroutine, without a timeout. On the
kernel's loop that would block the notebook; on a shared loop it would block all other calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swiftai_nb.core.errors import (
    AIError,
    GenerationCancelledError,
    GenerationFailedError,
    NetworkError,
    RateLimitedError,
)
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.request import GenerationPlan
from swiftai_nb.core.task import Task
from swiftai_nb.providers.huggingface.errors import retry_after_s, translate
from swiftai_nb.providers.huggingface.hub import Route, find_route

if TYPE_CHECKING:
    from PIL.Image import Image

TICK_S = 0.5
FIRST_BACKOFF_S = 1.0
_RETRYABLE_STATUS = (500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class Service:
    """The service to call and its timeouts; see `HuggingFaceProvider`."""

    provider: str
    base_url: str | None
    bill_to: str | None
    timeout_s: float
    retry_wait_s: float


@dataclass(frozen=True, kw_only=True)
class CloudPlan(GenerationPlan):
    """A plan for the cloud; `model` is a Hub id, or the name sent to an endpoint.

    Attributes:
        service: the service to call.
        token: access token; None for an endpoint that needs none.
    """

    model: str
    service: Service
    token: str | None = field(repr=False)


@dataclass(frozen=True)
class CloudAnswer:
    """The result of a call.

    Attributes:
        picture: decoded.
        route: model and provider that made it.
        elapsed_s: seconds in all.
        asked_s: seconds at the provider, including retries.
    """

    picture: Image
    route: Route
    elapsed_s: float
    asked_s: float


class CloudCall(Task[CloudAnswer, ImageGenerationProgress]):
    """Makes picture `index` of a plan: finds the provider, calls it, retries temporary errors.

    Cancelling ends the task at once. A running request is closed; a blocking look-up continues in
    its thread and its result is discarded.

    Args:
        plan: the plan.
        seed: of the picture.
        on_progress: called with stages and elapsed time; there are no steps.
    """

    def __init__(self, plan: CloudPlan, seed: int, on_progress: ProgressCallback | None = None) -> None:
        super().__init__(name="the request to the cloud")
        self._plan, self._seed = plan, seed
        self._on_progress = on_progress
        self._route = Route(plan.model, "the provider")
        self._created_s = time.monotonic()
        self.token.on_cancel(self._give_up)

    async def answer(self) -> CloudAnswer:
        """Runs the call and waits for it; cancelling the awaiting coroutine cancels the call.

        Raises:
            AIError: the call failed; GenerationCancelledError after `cancel`.
        """
        self.run_in_thread(lambda: asyncio.run(self._run()), thread_name="swiftai-cloud")
        return await self.wait_or_cancel(grace_s=0.0)

    def _give_up(self) -> None:
        self.set_error(GenerationCancelledError())

    async def _run(self) -> CloudAnswer:
        loop, work = asyncio.get_running_loop(), asyncio.current_task()

        def stop() -> None:
            # A loop that has just finished and closed has nothing left to cancel.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if work is None else work.cancel())

        self.token.raise_if_cancelled()
        self.token.on_cancel(stop)
        try:
            self._enter(GenerationStage.LOOKING_UP_PROVIDER, self._plan.model)
            self._route = self._find_route()
            started_s = time.monotonic()
            picture = await asyncio.wait_for(self._ask(), self._plan.service.timeout_s)
        except Exception as error:  # noqa: BLE001 (the one place where foreign errors become ours)
            raise self._translate(error) from None
        now_s = time.monotonic()
        self._enter(GenerationStage.DONE, self._route.provider)
        return CloudAnswer(picture, self._route, now_s - self._created_s, now_s - started_s)

    def _find_route(self) -> Route:
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        service = self._plan.service
        if service.base_url is not None:
            return Route(self._plan.model, "endpoint")
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        return find_route(self._plan.model, service.provider)

    async def _ask(self) -> Image:
        waited_s, backoff_s = 0.0, FIRST_BACKOFF_S
        while True:
            try:
                async with self._ticking():
                    return await self._ask_once()
            except Exception as error:  # noqa: BLE001 (translated, then judged)
                ours = self._translate(error)
                pause_s = _pause_s(ours, retry_after_s(error), backoff_s)
                if pause_s is None or waited_s + pause_s > self._plan.service.retry_wait_s:
                    raise ours from None
            busy = f"{self._route.provider} is busy, trying again in {pause_s:.0f} s"
            self._enter(GenerationStage.WAITING, busy)
            await asyncio.sleep(pause_s)
            waited_s, backoff_s = waited_s + pause_s, backoff_s * 2

    async def _ask_once(self) -> Image:
        plan, request = self._plan, self._plan.request
        async with self._client() as client:
            await _on_response(client, lambda: self._enter(GenerationStage.RECEIVING, self._route.provider))
            picture: Image = await client.text_to_image(
                request.prompt,
                negative_prompt=request.negative_prompt,
                width=plan.width,
                height=plan.height,
                num_inference_steps=plan.steps,
                guidance_scale=plan.guidance_scale,
                scheduler=plan.scheduler,
                seed=self._seed,
                model=self._route.model if plan.service.base_url is None else plan.service.base_url,
            )
        return _decoded(picture, self._route)

    def _client(self) -> Any:
        from huggingface_hub import AsyncInferenceClient

        service, token = self._plan.service, self._plan.token
        if service.base_url is not None:
            # Without any token the library would send the user's own to the endpoint.
            token = "none" if token is None else token
        provider: Any = None if service.base_url is not None else self._route.provider
        return AsyncInferenceClient(
            provider=provider, token=token, timeout=service.timeout_s, bill_to=service.bill_to
        )

    def _translate(self, error: BaseException) -> AIError:
        return translate(error, route=self._route, token=self._plan.token)

    def _enter(self, stage: GenerationStage, detail: str = "", remaining_s: float | None = None) -> None:
        elapsed_s = time.monotonic() - self._created_s
        progress = ImageGenerationProgress(0, 0, elapsed_s, remaining_s, stage=stage, detail=detail)
        self.report(progress)
        if self._on_progress is not None and not self.done:
            self._on_progress(progress)

    @contextlib.asynccontextmanager
    async def _ticking(self) -> AsyncIterator[None]:
        """Reports a waiting stage now and every half second until the block ends."""

        async def tick() -> None:
            expected_s, began_s = self._plan.estimated_s, time.monotonic()
            while True:
                left_s = None if expected_s is None else max(0.0, expected_s - (time.monotonic() - began_s))
                self._enter(GenerationStage.WAITING, self._route.provider, left_s)
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


def _decoded(picture: Image, route: Route) -> Image:
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise GenerationFailedError(
            f"{route.provider} sent a broken picture ({error})",
            hint="try again, or choose another --provider",
        ) from None
    return picture


def _pause_s(error: AIError, asked_s: float | None, backoff_s: float) -> float | None:
    """Seconds to wait before the next attempt, or None when the error is not temporary."""
    status = getattr(error, "status_code", None)
    if isinstance(error, RateLimitedError) or (
        isinstance(error, NetworkError) and status in _RETRYABLE_STATUS
    ):
        return backoff_s if asked_s is None else asked_s
    return None
