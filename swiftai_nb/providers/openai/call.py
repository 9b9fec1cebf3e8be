"""One request to an OpenAI-shaped server: generations or edits, whole or streamed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from swiftai_nb.core.errors import AIError, GenerationFailedError, InvalidInputError, NetworkError
from swiftai_nb.core.format import shorten
from swiftai_nb.core.generator import ProgressCallback
from swiftai_nb.core.progress import GenerationStage
from swiftai_nb.providers.cloud import http
from swiftai_nb.providers.cloud.call import Backoff, CloudAnswer, CloudCall
from swiftai_nb.providers.cloud.pictures import decode_base64, decode_picture, pictures_of, to_jpeg_preview
from swiftai_nb.providers.openai.errors import AnswerError, translate
from swiftai_nb.providers.openai.request import Body, OpenAIPlan, edit_body, generation_body
from swiftai_nb.providers.openai.server import fetch_models

EVENT_STREAM = "text/event-stream"


class OpenAICall(CloudCall):
    """Makes picture `index` of a plan. Only what the server refused for now (429, 503) is sent again.

    Args:
        plan: the plan.
        index: which picture.
        models: of the server, as far as they are known; filled in.
        on_progress: see `CloudCall`.
    """

    def __init__(
        self,
        plan: OpenAIPlan,
        index: int,
        *,
        models: dict[str, list[str]],
        on_progress: ProgressCallback | None = None,
    ) -> None:
        super().__init__(plan, index, on_progress)
        self._plan, self._known = plan, models
        self._models: list[str] = []
        self._model = plan.model

    @property
    def provider(self) -> str:
        """Who is being asked."""
        return self._plan.server.name

    def translate(self, error: BaseException) -> AIError:
        """See `CloudCall`."""
        return translate(error, server=self._plan.server, model=self._model, models=self._models)

    async def draw(self) -> CloudAnswer:
        """See `CloudCall`."""
        self.enter(GenerationStage.LOOKING_UP_PROVIDER, self.provider)
        await self._find_model()
        started_s, backoff = time.monotonic(), Backoff(self._plan.retry_wait_s)
        body = await asyncio.to_thread(self._make_body)
        while True:
            try:
                async with self.ticking():
                    answer = await self._ask(body)
                break
            except AnswerError as error:
                ours = self.translate(error)
                pause_s = None if error.response.is_success else backoff.pause_s(ours)
            if pause_s is None:
                raise ours
            busy = f"{self.provider} is busy, trying again in {pause_s:.0f} s"
            self.enter(GenerationStage.WAITING, busy)
            await asyncio.sleep(pause_s)
        data, response, found = answer
        item = _first(found)
        return CloudAnswer(
            picture=await asyncio.to_thread(decode_picture, data, self.provider),
            model=self._model,
            provider=self.provider,
            request_id=http.request_id(response, found),
            price=http.price(response, found),
            asked_s=time.monotonic() - started_s,
            notes=tuple(_revised(item)),
        )

    async def _find_model(self) -> None:
        server = self._plan.server
        if server.is_openai:
            return
        if server.base_url not in self._known:
            self._known[server.base_url] = await fetch_models(server)
        self._models = self._known[server.base_url]
        if self._model is None and len(self._models) > 1:
            raise InvalidInputError(
                f"{self.provider} serves {len(self._models)} models",
                hint=f"choose one: --model {', '.join(self._models[:8])}",
            )
        if self._model is None and self._models:
            self._model = self._models[0]

    def _make_body(self) -> Body:
        make = edit_body if pictures_of(self._plan.request.config) else generation_body
        return make(self._plan, model=self._model, seed=self.seed, models=self._models)

    async def _ask(self, body: Body) -> tuple[bytes, Any, Any]:
        """The encoded picture, the response, and its JSON."""
        plan, server = self._plan, self._plan.server
        url = f"{server.base_url}/images/{body.route}"
        async with http.http_client(plan.timeout_s, url=url) as client:
            request = client.build_request("POST", url, headers=server.headers, **body.content)
            response = await client.send(request, stream=True)
            try:
                if response.is_success and EVENT_STREAM in response.headers.get("content-type", ""):
                    found = await self._follow(response)
                else:
                    self.enter(GenerationStage.RECEIVING, self.provider)
                    response = await http.read(response)
                    if not response.is_success:
                        raise AnswerError(response)
                    found = http.read_json(response, self.provider)
            finally:
                await response.aclose()
            if "error" in found and not found.get("data"):
                raise AnswerError(response, found)
            item = _first(found)
            if item.get("b64_json") is not None:
                data = decode_base64(item["b64_json"], self.provider)
            else:
                data = await http.fetch_picture(
                    client, item["url"], origin=server.base_url, provider=self.provider
                )
        return data, response, found

    async def _follow(self, response: Any) -> dict[str, Any]:
        """The last event of a stream; partial pictures become previews."""
        async for event in _events(response, self.provider):
            kind = str(event.get("type", ""))
            if kind.endswith(".partial_image"):
                preview = await asyncio.to_thread(to_jpeg_preview, event.get("b64_json"), self.provider)
                self.enter(GenerationStage.DENOISING, self.provider, preview=preview)
            elif kind.endswith(".completed") or "data" in event:
                self.enter(GenerationStage.RECEIVING, self.provider)
                return event
            elif kind == "error" or "error" in event:
                raise AnswerError(response, event)
        raise NetworkError(
            f"{self.provider} ended the stream before the picture was complete",
            hint="it is not sent again, as it may have been billed; try again",
        )


async def _events(response: Any, provider: str) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, which is bounded like any answer."""
    data: list[bytes] = []  # of the event that is arriving
    line, size_bytes = bytearray(), 0
    async for chunk in response.aiter_bytes():
        size_bytes += len(chunk)
        if size_bytes > http.MAX_ANSWER_BYTES:
            raise GenerationFailedError(f"{provider} sent too much", hint="ask for a smaller picture")
        for piece in chunk.splitlines(keepends=True):
            line += piece
            if not piece.endswith(b"\n"):
                continue
            if line.startswith(b"data:"):
                data.append(bytes(line[5:]).strip())
            elif not line.strip():  # an empty line ends an event
                event, data = _event(data), []
                if event is not None:
                    yield event
            line.clear()
    event = _event([*data, bytes(line[5:])])
    if event is not None:
        yield event


def _event(data: list[bytes]) -> dict[str, Any] | None:
    try:
        found = json.loads(b"\n".join(data))
    except (ValueError, RecursionError):  # an incomplete one, a comment, or "[DONE]"
        return None
    return found if isinstance(found, dict) else None


def _first(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first picture's entry of an answer, or the event itself."""
    data = found.get("data")
    item = data[0] if isinstance(data, list) else found if data is None else None
    if not isinstance(item, dict) or not (item.get("b64_json") or item.get("url")):
        raise KeyError("no picture")
    return item


def _revised(item: Mapping[str, Any]) -> list[str]:
    revised = item.get("revised_prompt")
    return (
        [f"the service changed the prompt: {shorten(revised, 200)}"]
        if isinstance(revised, str) and revised
        else []
    )
