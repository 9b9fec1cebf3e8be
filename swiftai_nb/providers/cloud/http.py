"""HTTP with a service: bounded answers, and pictures from addresses as safe as the service's own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import json
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urljoin, urlsplit

from swiftai_nb.core.errors import GenerationFailedError
from swiftai_nb.core.format import shorten
from swiftai_nb.providers.cloud.pictures import OTHER_MODEL, decode_base64

CONNECT_TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 128 * 1024 * 1024
MAX_REDIRECTS = 5
FETCH_ATTEMPTS = 3  # fetching a picture again costs nothing
FETCH_PAUSE_S = 0.5
_LARGEST_PRICE = 1e12


def http_client(timeout_s: float, *, url: str) -> Any:
    """An `httpx.AsyncClient` (httpx2's with huggingface_hub 2) for one call; follows no redirects.

    Args:
        timeout_s: seconds.
        url: what is called first; for a server on this machine no proxy is used.
    """
    httpx = httpx_module()
    timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
    return httpx.AsyncClient(timeout=timeout, trust_env=not is_on_this_machine(url))


def is_on_this_machine(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def sendable(text: str) -> str:
    """`text` with surrogates that no request can hold (half of an emoji) replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def httpx_module() -> Any:
    """The httpx that huggingface_hub uses: httpx2 since its major version 2."""
    return importlib.import_module("huggingface_hub.utils").httpx


def raise_for_status(response: Any) -> None:
    """Raises huggingface_hub's HfHubHTTPError, or a subclass, for an error status; httpx's for a redirect."""
    if response.is_redirect:
        response.raise_for_status()
    importlib.import_module("huggingface_hub.utils").hf_raise_for_status(response)


async def send(
    client: Any, method: str, url: str, *, on_headers: Callable[[], None] | None = None, **options: Any
) -> Any:
    """Sends a request; returns an `httpx.Response` that is read, of any status.

    Raises:
        GenerationFailedError: the answer is larger than `MAX_ANSWER_BYTES`.
    """
    response = await client.send(client.build_request(method, url, **options), stream=True)
    try:
        if on_headers is not None:
            on_headers()
        return await read(response)
    finally:
        await response.aclose()


async def read(response: Any) -> Any:
    """A streamed response with its body, at most `MAX_ANSWER_BYTES`.

    Raises:
        GenerationFailedError: it is larger.
    """
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise GenerationFailedError(
                f"{urlsplit(str(response.url)).hostname} sent more than {MAX_ANSWER_BYTES // 2**20} MB",
                hint="ask for a smaller picture",
            )
    # The body is decoded already: without these headers it is not decoded once more.
    # Their bytes are kept: a value that is not ASCII cannot be written as text.
    decoded = (b"content-encoding", b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in decoded]
    return httpx_module().Response(
        response.status_code, headers=headers, content=bytes(body), request=response.request
    )


async def fetch_picture(client: Any, url: Any, *, origin: str, provider: str) -> bytes:
    """The picture at an address in an answer; no key or token is sent there.

    Args:
        client: the call's client.
        url: https, a data URL, or http where the service itself speaks http.
        origin: address of the service.
        provider: its name, for errors.

    Raises:
        GenerationFailedError: another kind of address, or one that answers with an error.
    """
    if isinstance(url, str) and url.startswith("data:"):
        return decode_base64(url, provider)
    for attempt in range(FETCH_ATTEMPTS):
        last = attempt + 1 == FETCH_ATTEMPTS
        try:
            response = await _follow(client, url, origin=origin, provider=provider)
        except httpx_module().TransportError:
            if last:
                raise
        else:
            if response.is_success:
                return bytes(response.content)
            if last or response.status_code < 500:
                break
        await asyncio.sleep(FETCH_PAUSE_S)
    raise GenerationFailedError(
        f"{provider} made the picture, but its address answers {response.status_code}",
        hint="look for it at the provider; making it again may be billed again",
    )


async def _follow(client: Any, url: Any, *, origin: str, provider: str) -> Any:
    allowed = {"https", urlsplit(origin).scheme}
    for _ in range(MAX_REDIRECTS):
        if not is_web_address(url, allowed):
            raise GenerationFailedError(f"{provider} sent no usable address of the picture", hint=OTHER_MODEL)
        response = await send(client, "GET", url)
        location = response.headers.get("location")
        if not response.is_redirect or location is None:
            return response
        url = urljoin(url, location)
    raise GenerationFailedError(f"{provider} redirects in a loop", hint=OTHER_MODEL)


def is_web_address(url: Any, schemes: Collection[str] = ("https", "http")) -> bool:
    """Whether `url` is an absolute address of one of the schemes."""
    try:
        address = urlsplit(url)
        return address.scheme in schemes and bool(address.hostname)
    except (ValueError, TypeError, AttributeError):
        return False


def read_json(response: Any, provider: str) -> Any:
    """The JSON object of an answer.

    Raises:
        GenerationFailedError: it is no JSON object.
    """
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(response.content)
        if isinstance(found, dict):
            return found
    raise GenerationFailedError(f"{provider} answered in an unknown format", hint=OTHER_MODEL)


def request_id(response: Any, body: Any = None) -> str | None:
    """The service's own name of a request, from its answer."""
    found: Any = None
    if isinstance(body, dict):
        found = next((body[name] for name in ("request_id", "id") if body.get(name)), None)
    for name in ("x-request-id", "x-fal-request-id", "x-amzn-requestid"):
        found = response.headers.get(name) if found is None else found
    return shorten(found, 100) if isinstance(found, str) else None


def price(response: Any, body: Any = None) -> str | None:
    """What an answer says about its price: an amount, billed units or tokens."""
    usage = body.get("usage") if isinstance(body, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    cost = usage.get("cost", body.get("cost") if isinstance(body, dict) else None)
    if _is_number(cost):
        return f"{cost:.6f}".rstrip("0").rstrip(".") + " USD"
    if _is_number(usage.get("total_tokens")):
        return f"{usage['total_tokens']} tokens"
    units = response.headers.get("x-fal-billable-units")
    return f"{shorten(units, 20)} billable units" if units else None


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) < _LARGEST_PRICE  # false for NaN
