"""One request to an Inference Provider: look up, send, poll and fetch, with the next provider as fallback.

The client library polls and fetches in threads that cannot be stopped; here all of it is awaited, so that
Cancel closes the connection whatever the call is doing.
"""

from __future__ import annotations

import asyncio
import time

from swiftai_nb.core.errors import AIError
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.providers.cloud.call import Backoff, CloudAnswer, CloudCall
from swiftai_nb.providers.cloud.errors import status_of
from swiftai_nb.providers.cloud.http import http_client, price, raise_for_status, request_id, send
from swiftai_nb.providers.cloud.pictures import decode_picture
from swiftai_nb.providers.huggingface.answers import Exchange, read_answer
from swiftai_nb.providers.huggingface.errors import translate
from swiftai_nb.providers.huggingface.hub import IMAGE_TO_IMAGE, Route, RouteFinder
from swiftai_nb.providers.huggingface.payload import (
    ENDPOINT,
    HubPlan,
    build_request,
    check_pictures,
    ignored_settings,
    obstacle,
)

# The provider did no work: no credits there, does not serve the model (any more), overloaded.
FALL_BACK_STATUS = (402, 404, 410, 503)


class HubCall(CloudCall):
    """Makes picture `index` of a plan.

    A provider that refuses the request without working on it (402, 404, 410, 503) makes "auto" try the next
    one. 429 and 503 of the last one are waited out. Nothing else is sent twice: it may have been billed.

    Args:
        plan: the plan.
        index: which picture.
        finder: knows the providers of a model.
        on_progress: see `CloudCall`.
    """

    def __init__(
        self,
        plan: HubPlan,
        index: int,
        *,
        finder: RouteFinder,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        super().__init__(plan, index, on_progress)
        self._plan, self._finder = plan, finder
        self._route = Route(plan.model, "the provider", plan.task)
        self._is_accepted = False

    @property
    def provider(self) -> str:
        """Who is being asked."""
        return self._route.provider

    def translate(self, error: BaseException) -> AIError:
        """See `CloudCall`."""
        return translate(error, route=self._route, token=self._plan.token)

    async def draw(self) -> CloudAnswer:
        """See `CloudCall`."""
        self.enter(GenerationStage.LOOKING_UP_PROVIDER, self._plan.model)
        routes, notes = await self._find_routes(), list[str]()
        started_s, backoff = time.monotonic(), Backoff(self._plan.retry_wait_s)
        while True:
            self._route = routes[0]
            try:
                async with self.ticking():
                    return await self._ask(started_s, notes)
            except Exception as error:  # noqa: BLE001 (translated, then judged)
                ours, status = self.translate(error), status_of(error)
            self._finder.forget(self._plan.model)
            if self._is_accepted or status is None:
                raise ours
            if len(routes) > 1 and status in FALL_BACK_STATUS:
                notes.append(f"{routes.pop(0).provider} was asked first: {ours.message}")
                continue
            pause_s = backoff.pause_s(ours)
            if pause_s is None:
                raise ours
            busy = f"{self.provider} is busy, trying again in {pause_s:.0f} s"
            self.enter(GenerationStage.WAITING, busy)
            await asyncio.sleep(pause_s)

    async def _find_routes(self) -> list[Route]:
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        plan, service = self._plan, self._plan.service
        if service.base_url is not None:
            return [Route(plan.model, ENDPOINT, plan.task)]
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        routes = await asyncio.to_thread(
            self._finder.find, plan.model, service.provider, task=plan.task, token=plan.token
        )
        if plan.task == IMAGE_TO_IMAGE:
            able = [route for route in routes if obstacle(route.provider, plan.request.config) is None]
            if not able:
                check_pictures(routes[0].provider, plan.request.config)
            routes = able
        # A key of one provider must not be sent to another.
        return routes if (plan.token or "").startswith("hf_") else routes[:1]

    async def _ask(self, started_s: float, notes: list[str]) -> CloudAnswer:
        plan, route = self._plan, self._route
        self._is_accepted = False
        request = await asyncio.to_thread(build_request, plan, route, self.seed)
        async with http_client(plan.timeout_s, url=request.url) as client:
            response = await send(
                client,
                "POST",
                request.url,
                json=request.json,
                content=None if request.data is None else bytes(request.data),
                headers=request.headers,
                on_headers=lambda: self.enter(GenerationStage.RECEIVING, route.provider),
            )
            self._is_accepted = response.is_success
            raise_for_status(response)
            exchange = Exchange(
                client=client,
                request=request,
                provider=route.provider,
                response=response,
                on_wait=lambda text: self.enter(GenerationStage.WAITING, f"{route.provider} {text}".strip()),
            )
            data, body = await read_answer(exchange)
        ignored = ignored_settings(route.provider, plan.request.config)
        unsent = [f"{route.provider} does not support it, so not sent: {name}" for name in ignored]
        return CloudAnswer(
            picture=await asyncio.to_thread(decode_picture, data, route.provider),
            model=route.model,
            provider=route.provider,
            request_id=request_id(response, body),
            price=price(response, body),
            asked_s=time.monotonic() - started_s,
            notes=(*notes, *unsent),
        )
