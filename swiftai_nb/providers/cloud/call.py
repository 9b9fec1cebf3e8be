"""A call to a service elsewhere: its plan, its thread and event loop, its pauses, and the picture's recipe.

Each call has an event loop of its own: a client library may block inside its coroutine, which on the
kernel's loop would block the notebook and on a shared loop all other calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swiftai_nb._version import __version__
from swiftai_nb.core.errors import (
    AIError,
    GenerationCancelledError,
    InvalidInputError,
    RateLimitedError,
    ServerError,
)
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.image import GeneratedImage
from swiftai_nb.core.progress import GenerationStage, ImageGenerationProgress
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.core.request import GenerationPlan
from swiftai_nb.core.sources import source_pictures
from swiftai_nb.core.task import Task
from swiftai_nb.providers.cloud.pictures import is_transparent

if TYPE_CHECKING:
    from PIL.Image import Image

TICK_S = 0.5
FIRST_BACKOFF_S = 1.0
LONGEST_NOTED_VALUE = 40
# The service refused the request without working on it. After 500, 502 and 504 it may have drawn and billed.
_NOT_BILLED = (429, 503)


@dataclass(frozen=True, kw_only=True)
class CloudPlan(GenerationPlan):
    """A plan for a service elsewhere.

    Attributes:
        timeout_s: seconds for one picture, in all.
        retry_wait_s: seconds to spend at most on waiting between attempts.
    """

    timeout_s: float
    retry_wait_s: float


@dataclass(frozen=True, kw_only=True)
class CloudAnswer:
    """The result of a call.

    Attributes:
        picture: decoded.
        model: the model that made it.
        provider: who made it.
        request_id: the service's own name of the request, for its support.
        price: such as "0.04 USD", as far as the service said.
        asked_s: seconds at the provider, including retries.
        notes: for the recipe.
    """

    picture: Image
    model: str | None
    provider: str
    request_id: str | None = None
    price: str | None = None
    asked_s: float = 0.0
    notes: tuple[str, ...] = ()


class CloudCall(Task[CloudAnswer, ImageGenerationProgress], ABC):
    """Makes picture `index` of a plan.

    Cancelling ends the task at once: a running request is closed and nothing is polled any more. A
    blocking look-up continues in its thread and its result is discarded.

    Args:
        plan: the plan.
        index: which picture.
        on_progress: called with stages and elapsed time; there are no steps.
    """

    def __init__(self, plan: CloudPlan, index: int, on_progress: ProgressCallback | None = None) -> None:
        super().__init__(name="the request to the cloud")
        self.plan, self.seed = plan, plan.request.seeds[index]
        self._on_progress = on_progress
        self._created_s = time.monotonic()
        self.token.on_cancel(self._give_up)

    @abstractmethod
    async def draw(self) -> CloudAnswer:
        """Makes the picture; runs on the call's own event loop."""

    @abstractmethod
    def translate(self, error: BaseException) -> AIError:
        """A foreign error as ours, without secrets."""

    @property
    @abstractmethod
    def provider(self) -> str:
        """Who is being asked, for progress."""

    async def answer(self) -> CloudAnswer:
        """Runs the call and waits for it; cancelling the awaiting coroutine cancels the call.

        Raises:
            AIError: the call failed; GenerationCancelledError after `cancel`.
        """
        self.run_in_thread(lambda: asyncio.run(self._run()), thread_name="swiftai-cloud")
        return await self.wait_or_cancel(grace_s=0.0)

    def enter(
        self,
        stage: GenerationStage,
        detail: str = "",
        *,
        remaining_s: float | None = None,
        preview: bytes | None = None,
    ) -> None:
        """Reports a stage."""
        elapsed_s = time.monotonic() - self._created_s
        progress = ImageGenerationProgress(
            0, 0, elapsed_s, remaining_s, stage=stage, detail=detail, preview=preview
        )
        self.report(progress)
        if self._on_progress is not None and not self.done:
            self._on_progress(progress)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the call was made."""
        return time.monotonic() - self._created_s

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
            answer = await asyncio.wait_for(self.draw(), self.plan.timeout_s)
        except Exception as error:  # noqa: BLE001 (the one place where foreign errors become ours)
            raise self.translate(error) from None
        self.enter(GenerationStage.DONE, self.provider)
        return answer

    @contextlib.asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """Reports a waiting stage now and every half second until the block ends."""

        async def tick() -> None:
            expected_s, began_s = self.plan.estimated_s, time.monotonic()
            while True:
                left_s = None if expected_s is None else max(0.0, expected_s - (time.monotonic() - began_s))
                self.enter(GenerationStage.WAITING, self.provider, remaining_s=left_s)
                await asyncio.sleep(TICK_S)

        task = asyncio.get_running_loop().create_task(tick())
        try:
            yield
        finally:
            task.cancel()


def check_timeout(timeout_s: float) -> float:
    """The seconds, if they are any.

    Raises:
        InvalidInputError: not above 0.
    """
    if not timeout_s > 0:
        raise InvalidInputError(f"timeout_s {timeout_s!r} is not above 0", hint="give seconds, such as 180")
    return timeout_s


class Backoff:
    """The pauses between attempts of one call, in all no longer than `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self._waited_s, self._next_s = limit_s, 0.0, FIRST_BACKOFF_S

    def pause_s(self, error: AIError) -> float | None:
        """Seconds to wait before the next attempt; None when that is final or takes too long."""
        pause_s = self._next_s
        if isinstance(error, RateLimitedError):
            pause_s = pause_s if error.retry_after_s is None else error.retry_after_s
        elif not (isinstance(error, ServerError) and error.status_code in _NOT_BILLED):
            return None
        if self._waited_s + pause_s > self._limit_s:
            return None
        self._waited_s, self._next_s = self._waited_s + pause_s, self._next_s * 2
        return pause_s


def extra_notes(extra: Mapping[str, Any] | None) -> Iterator[str]:
    """A note of the provider's own settings; long values are named only."""
    if not extra:
        return
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in extra.items()}
    listed = [name if len(text) > LONGEST_NOTED_VALUE else f"{name}={text}" for name, text in texts.items()]
    yield f"sent as well: {', '.join(listed)}"


def make_image(plan: CloudPlan, index: int, answer: CloudAnswer, *, elapsed_s: float) -> GeneratedImage:
    """The answer's picture with its recipe."""
    request, config, picture = plan.request, plan.request.config, answer.picture
    notes = [*plan.notes, *answer.notes]
    asked = (config.width, config.height)
    if None not in asked and asked != picture.size:
        notes.append(f"requested {asked[0]}x{asked[1]}, got {picture.width}x{picture.height}")
    recipe = Recipe(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        model=answer.model,
        width=picture.width,
        height=picture.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        seed=request.seeds[index],
        scheduler=plan.scheduler,
        strength=plan.strength,
        image_sha256=None if config.image is None else hashlib.sha256(config.image).hexdigest(),
        mask_sha256=None if config.mask is None else hashlib.sha256(config.mask).hexdigest(),
        references_sha256=tuple(hashlib.sha256(one).hexdigest() for one in config.references),
        sources=source_pictures(config, names=dict(request.source_names)),
        engine=plan.engine,
        provider=answer.provider,
        request_id=answer.request_id,
        price=answer.price,
        device="cloud",
        versions={"swiftai_nb": __version__},
        notes=tuple(notes),
    )
    return GeneratedImage.from_pil(
        picture, recipe=recipe, elapsed_s=elapsed_s, keeps_alpha=is_transparent(picture)
    )
