"""How each Inference Provider answers: with the picture, its base64, its address, or a job to poll.

The library's helpers know this too, but wait in threads with blocking requests, which Cancel cannot stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from swiftai_nb.core.errors import ContentFilteredError, GenerationFailedError, GenerationTimeoutError
from swiftai_nb.core.format import shorten
from swiftai_nb.providers.cloud.errors import without_secrets
from swiftai_nb.providers.cloud.http import fetch_picture, httpx_module, raise_for_status, read_json, send
from swiftai_nb.providers.cloud.pictures import OTHER_MODEL, decode_base64

POLL_S = 0.5
MAX_FAILED_POLLS = 5  # a job that is paid for is not given up for one bad answer
ROUTER_HOST = "router.huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request that a provider has accepted.

    Args:
        client: the call's HTTP client.
        request: the library's `RequestParameters`.
        provider: its name.
        response: the answer to the request.
        on_wait: called with a text while a job is polled.
    """

    client: Any
    request: Any
    provider: str
    response: Any
    on_wait: Callable[[str], None]

    def url(self, address: Any) -> str:
        """The address of a job on the host of the request, to which the token may be sent."""
        path = urlsplit(str(address)).path
        if not path.startswith("/"):
            raise KeyError("no address of the job")
        asked = urlsplit(self.request.url)
        prefix = f"/{self.provider}" if asked.netloc == ROUTER_HOST else ""
        return f"{asked.scheme}://{asked.netloc}{prefix}{path}"

    async def get(self, url: str) -> Any:
        """The JSON at an address of this provider.

        Raises:
            HfHubHTTPError: an error status.
        """
        headers = {k: v for k, v in self.request.headers.items() if k != "content-type"}
        response = await send(self.client, "GET", url, headers=headers)
        raise_for_status(response)
        return read_json(response, self.provider)

    async def poll(self, url: str, read_status: Callable[[Any], Any], *, every_s: float = POLL_S) -> Any:
        """Asks until the job is no longer waiting or running.

        Returns:
            the last answer.
        """
        from huggingface_hub.errors import HfHubHTTPError

        failures = 0
        while True:
            try:
                body = await self.get(url)
            except (HfHubHTTPError, httpx_module().TransportError) as error:
                failures += 1
                status = getattr(getattr(error, "response", None), "status_code", 503)
                if failures > MAX_FAILED_POLLS or (status < 500 and status != 429):
                    raise
            else:
                failures = 0
                status = str(read_status(body)).lower()
                if status not in _UNFINISHED:
                    return body
                position = body.get("queue_position")
                self.on_wait(f"position {position} in its queue" if isinstance(position, int) else "")
            await asyncio.sleep(every_s)

    async def fetch(self, address: Any) -> bytes:
        """The picture at an address, or in a data URL."""
        return await fetch_picture(self.client, address, origin=self.request.url, provider=self.provider)

    def failed(self, reason: Any) -> GenerationFailedError:
        """The error of a job that the provider reports as failed."""
        text = f": {shorten(without_secrets(str(reason)), 200)}" if reason else ""
        return GenerationFailedError(f"{self.provider} failed{text}", hint=OTHER_MODEL)


_UNFINISHED = frozenset({"in_queue", "in_progress", "starting", "processing", "created", "pending", "queued"})


async def read_answer(exchange: Exchange) -> tuple[bytes, Any]:
    """The encoded picture of an answer, and the answer's JSON object (None for a plain picture).

    Raises:
        AIError: the job failed, or its address cannot be used.
        Exception: KeyError or IndexError for a format that is not the provider's.
    """
    reader = _READERS.get(exchange.provider)
    if reader is None:
        return exchange.response.content, None
    body = read_json(exchange.response, exchange.provider)
    try:
        return await reader(exchange, body), body
    except (TypeError, AttributeError):
        raise KeyError("unknown format") from None


async def _base64(exchange: Exchange, body: Any) -> bytes:
    item = body["data"][0]
    if item.get("b64_json") is None:
        return await exchange.fetch(item["url"])
    return decode_base64(item["b64_json"], exchange.provider)


async def _fal(exchange: Exchange, body: Any) -> bytes:
    if "images" not in body:
        query = urlsplit(exchange.request.url).query
        query = f"?{query}" if query else ""
        url = exchange.url(body["response_url"])
        status = await exchange.poll(f"{url}/status{query}", lambda found: found.get("status"))
        if str(status.get("status")).upper() != "COMPLETED":
            raise exchange.failed(status.get("error", status.get("status")))
        body = await exchange.get(url + query)
    flags = body.get("has_nsfw_concepts")
    if isinstance(flags, list) and flags[:1] == [True]:
        raise ContentFilteredError(
            f"{exchange.provider} withheld the picture: its filter reacted", hint="change the prompt"
        )
    return await exchange.fetch(body["images"][0]["url"])


async def _replicate(exchange: Exchange, body: Any) -> bytes:
    if body.get("output") is None and str(body.get("status")).lower() in _UNFINISHED and body.get("urls"):
        url = exchange.url(body["urls"]["get"])
        body = await exchange.poll(url, lambda found: found.get("status"))
    if body.get("status") in ("failed", "canceled"):
        raise exchange.failed(body.get("error", body["status"]))
    output = body.get("output")
    if output is None:
        raise GenerationTimeoutError(
            f"{exchange.provider} did not finish in time", hint="the model may be starting; try again later"
        )
    return await exchange.fetch(output if isinstance(output, str) else output[0])


async def _wavespeed(exchange: Exchange, body: Any) -> bytes:
    url = exchange.url(body["data"]["urls"]["get"])
    job = (await exchange.poll(url, lambda found: found["data"].get("status")))["data"]
    if job.get("status") != "completed":
        raise exchange.failed(job.get("error", job.get("status")))
    return await exchange.fetch(job["outputs"][0])


async def _zai(exchange: Exchange, body: Any) -> bytes:
    if str(body.get("task_status")).lower() in _UNFINISHED:
        job = str(body["id"])
        root = exchange.request.url.rsplit("/async/", 1)[0]
        if not job.replace("-", "").replace("_", "").isalnum():
            raise KeyError("no id of the job")
        body = await exchange.poll(
            f"{root}/async-result/{job}", lambda found: found.get("task_status"), every_s=4 * POLL_S
        )
    if body.get("task_status") == "FAIL":
        raise exchange.failed(body.get("error"))
    return await exchange.fetch(body["image_result"][0]["url"])


_READERS: dict[str, Callable[[Exchange, Any], Awaitable[bytes]]] = {
    "fal-ai": _fal,
    "nscale": _base64,
    "replicate": _replicate,
    "together": _base64,
    "wavespeed": _wavespeed,
    "zai-org": _zai,
}
