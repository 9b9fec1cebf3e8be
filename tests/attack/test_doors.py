"""Servers: what the Hub lists, and what services of pictures answer, with any status, header and body."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import huggingface_hub
import pytest
from huggingface_hub.utils._http import default_client_factory
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swiftai_nb.core.config import ImageGenerationConfig
from swiftai_nb.core.errors import AIError
from swiftai_nb.downloads.protocol import DownloadJob
from swiftai_nb.downloads.worker.errors import hub_utils, translate
from swiftai_nb.downloads.worker.hub_listing import fetch_listing
from swiftai_nb.downloads.worker.transfer import _continues_at
from swiftai_nb.providers.cloud import http
from swiftai_nb.providers.huggingface.answers import Exchange, read_answer
from swiftai_nb.providers.openai.provider import OpenAIImagesProvider
from swiftai_nb.providers.openai.server import Server, fetch_models
from swiftai_nb.registry.model_info import ModelFile
from tests.attack.limits import attack, only
from tests.attack.strategies import ODD, json_like

httpx = hub_utils().httpx
Answer = tuple[int, list[tuple[str, str]], bytes]  # status, headers, body
MAX_ANSWERS = 12  # of a server; then it says 404

OID = "0" * 40
LISTING = {
    "id": "org/tiny",
    "sha": OID,
    "gated": False,
    "tags": ["license:mit"],
    "siblings": [
        {"rfilename": "model_index.json", "size": 10, "blobId": OID},
        {"rfilename": "unet/config.json", "size": 10, "blobId": OID},
        {"rfilename": "unet/diffusion_pytorch_model.safetensors", "size": 90, "lfs": {"sha256": "1" * 64}},
        {"rfilename": "vae/config.json", "size": 10},
        {"rfilename": "l.safetensors", "size": 9, "lfs": {"sha256": "1" * 64, "size": 9, "pointerSize": 1}},
    ],
}
STATUSES = st.sampled_from(
    [200] * 12 + [206, 301, 302, 307, 308, 400, 401, 403, 404, 408, 416, 429, 500, 503, 599]
)
VALUES_OF_HEADERS = st.sampled_from(
    [
        "", "0", "-1", "nan", "inf", "1e999", "9" * 5000, "bytes 0-9/10", "bytes 5-9/*", '"abc"', f'"{OID}"', OID,
        "http://127.0.0.1:9/x", "https://a@b:c/", "//x", "/org/tiny", "file:///etc/passwd", "http://[", "RepoNotFound",
        "GatedRepo", "EntryNotFound", "RevisionNotFound", "gzip", "text/event-stream", "application/json",
        "multipart/x; boundary=", "Wed, 21 Oct 2015 07:28:00 GMT", "x" * 9000, "\x85\xff",
    ]
)  # fmt: skip
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Location", "Retry-After", "ETag", "X-Linked-ETag", "X-Linked-Size", "X-Repo-Commit", "X-Error-Code",
                "X-Error-Message", "Content-Type", "Content-Range", "Link", "X-Request-Id", "X-Fal-Billable-Units",
            ]
        ),
        VALUES_OF_HEADERS,
    ),
    max_size=3,
)  # fmt: skip


def answers(*bodies: Any) -> st.SearchStrategy[list[Answer]]:
    """What a server says, request by request."""
    body = st.one_of([json_like(one) for one in bodies])
    return st.lists(st.tuples(STATUSES, HEADERS, body), min_size=1, max_size=3)


class Script:
    """A server that gives the answers in turn, and the last one again, a few times."""

    def __init__(self, said: list[Answer]) -> None:
        self._said = said
        self._count = 0

    def __call__(self, _request: Any) -> Any:
        self._count += 1
        if self._count > MAX_ANSWERS:
            return httpx.Response(404)
        if not self._said:  # a change of a case can leave nothing
            return httpx.Response(404)
        status, headers, body = self._said[min(self._count, len(self._said)) - 1]
        status = status if type(status) is int and 200 <= status <= 599 else 500
        return httpx.Response(status, headers=[(k, _sent(v)) for k, v in headers], content=body)


def _sent(value: str) -> bytes:
    """As a header holds it: one line of Latin-1."""
    return value.replace("\r", "").replace("\n", "").encode("latin-1", "replace")


JOBS = {
    "named": (ModelFile("model_index.json", 10), ModelFile("unet/config.json", None, is_required=False)),
    "model": (),
    "lora": (),
}


@attack
@given(answers(LISTING), st.sampled_from(sorted(JOBS)))
def test_a_listing_of_the_hub_is_a_plan_or_refused(said: list[Answer], kind: str) -> None:
    job = DownloadJob(
        "tiny",
        ("org/tiny",),
        "/nowhere",
        files=JOBS[kind],
        endpoint="http://127.0.0.1:9",
        token="hf_" + "x" * 20,
        kind="lora" if kind == "lora" else "model",
    )
    script = Script(said)

    def make() -> Any:
        return httpx.Client(transport=httpx.MockTransport(script), follow_redirects=True, max_redirects=5)

    huggingface_hub.set_client_factory(make)
    try:
        with make() as client, only(AIError, target="Hub: listings"):
            try:
                plan = fetch_listing(job, "org/tiny", client)
            except Exception as error:
                raise translate(error, job, repository="org/tiny") from error
            assert plan.total_bytes >= 0
            for file in plan.files:
                assert not Path(file.path).is_absolute()
                assert ".." not in Path(file.path).parts
    finally:
        huggingface_hub.set_client_factory(default_client_factory)


@attack
@given(HEADERS, st.integers(0, 20), st.none() | st.integers(0, 20))
def test_a_server_resumes_where_it_says(
    headers: list[tuple[str, str]], offset: int, size: int | None
) -> None:
    with only(target="Hub: ranges"):
        response = httpx.Response(206, headers=[(k, _sent(v)) for k, v in headers])
        assert isinstance(_continues_at(response, offset, size), bool)


def _picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = _picture()
IMAGES = {
    "created": 1,
    "data": [{"b64_json": PICTURE, "url": "http://127.0.0.1:9/a.png", "revised_prompt": "a fox"}],
    "usage": {"total_tokens": 9, "cost": 0.02},
    "id": "r1",
}
IMAGES_ERROR = {
    "error": {"message": "no", "type": "invalid_request_error", "code": "model_not_found", "param": None}
}
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model"}, {"id": "b" * 40}]}


@contextlib.contextmanager
def _answering(said: list[Answer]) -> Iterator[None]:
    """All calls of services are answered by a script, and nothing is waited for."""
    script = Script(said)

    def client(timeout_s: float, *, url: str) -> Any:
        return httpx.AsyncClient(transport=httpx.MockTransport(script))

    async def no_pause(_seconds: float) -> None:
        return

    modules = ("providers.cloud.http", "providers.openai.server")
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(patch(f"swiftai_nb.{module}.http_client", client))
        stack.enter_context(patch.object(http.asyncio, "sleep", no_pause))
        yield


@attack
@given(answers(MODELS, IMAGES_ERROR))
def test_the_models_of_a_server_are_names(said: list[Answer]) -> None:
    async def read() -> list[str]:
        return await fetch_models(Server("http://127.0.0.1:9/v1", None, None))

    with (
        _answering(said),
        only(AIError, httpx.HTTPError, httpx.InvalidURL, target="servers: lists of models"),
    ):
        assert all(name.isprintable() for name in asyncio.run(read()))


@attack
@given(answers(IMAGES, IMAGES, IMAGES_ERROR))
def test_an_answer_with_a_picture_is_a_picture_or_one_error(said: list[Answer]) -> None:
    provider = OpenAIImagesProvider(
        "http://127.0.0.1:9", api_key="sk-secret-secret", model="tiny", retry_wait_s=0
    )
    config = ImageGenerationConfig(width=64, height=64, seed=1)
    with _answering(said), only(AIError, target="servers: answers"):
        try:
            image = asyncio.run(provider.generate_image("a fox", config=config))
        except AIError as error:
            assert "sk-secret-secret" not in str(error)
            raise
        assert image.pil.size == (image.width, image.height)


JOB_ANSWERS: dict[str, dict[str, Any]] = {
    "fal-ai": {
        "response_url": "https://queue.fal.run/x/requests/1", "status": "COMPLETED", "queue_position": 1,
        "images": [{"url": f"data:image/png;base64,{PICTURE}"}], "has_nsfw_concepts": [False],
    },
    "nscale": {"data": [{"b64_json": PICTURE}]},
    "together": {"data": [{"b64_json": PICTURE, "url": "https://127.0.0.1:9/x"}]},
    "replicate": {
        "status": "succeeded", "urls": {"get": "https://a/v1/1"}, "output": [f"data:image/png;base64,{PICTURE}"],
        "error": None,
    },
    "wavespeed": {
        "data": {
            "urls": {"get": "https://a/v1/1"}, "status": "completed",
            "outputs": [f"data:image/png;base64,{PICTURE}"], "error": "",
        }
    },
    "zai-org": {"task_status": "SUCCESS", "id": "1-a", "image_result": [{"url": f"data:image/png;base64,{PICTURE}"}]},
}  # fmt: skip


@st.composite
def jobs(draw: st.DrawFn) -> tuple[str, list[Answer]]:
    provider = draw(st.sampled_from(sorted(JOB_ANSWERS)))
    return provider, draw(answers(JOB_ANSWERS[provider]))


@attack
@given(jobs())
def test_a_job_at_a_cloud_provider_ends(found: tuple[str, list[Answer]]) -> None:
    from swiftai_nb.providers.huggingface import errors
    from swiftai_nb.providers.huggingface.hub import Route

    provider, said = found
    request = SimpleNamespace(url=f"https://router.huggingface.co/{provider}/v1/async/x", headers={})

    async def read() -> tuple[bytes, Any]:
        async with http.http_client(1.0, url=request.url) as client:
            response = await http.send(client, "POST", request.url, json={})
            http.raise_for_status(response)
            exchange = Exchange(
                client=client, request=request, provider=provider, response=response, on_wait=lambda _: None
            )
            data, body = await read_answer(exchange)
            http.price(response, body)
            http.request_id(response, body)
            return data, body

    route = Route("m", provider, "text-to-image")
    with _answering(said), only(AIError, target="cloud: jobs"):
        try:
            assert isinstance(asyncio.run(read())[0], bytes)
        except Exception as error:
            raise errors.translate(error, route=route, token="hf_" + "x" * 20) from error


@attack
@given(json_like(IMAGES), HEADERS)
def test_what_an_answer_costs_is_a_text_or_nothing(body: bytes, headers: list[tuple[str, str]]) -> None:
    response = httpx.Response(200, headers=[(k, _sent(v)) for k, v in headers], content=body)
    with only(AIError, target="cloud: prices"):
        found = http.read_json(response, "a server")
        for text in (http.price(response, found), http.request_id(response, found)):
            assert text is None or isinstance(text, str)


@attack
@given(ODD, st.sampled_from(["https", "http"]))
def test_an_address_is_one_of_the_web_or_none(url: Any, scheme: str) -> None:
    with only(AIError, target="cloud: addresses"):
        assert isinstance(http.is_web_address(url, {scheme}), bool)


@pytest.mark.parametrize("cost", [10**400, -(10**400), 1e308, float("nan"), True, "9"])
def test_an_odd_price_or_header_costs_no_picture(cost: Any) -> None:
    body = json.dumps({**IMAGES, "usage": {"cost": cost}}).encode()
    provider = OpenAIImagesProvider("http://127.0.0.1:9", model="tiny")
    config = ImageGenerationConfig(width=64, height=64, seed=1)
    with _answering([(200, [], json.dumps(MODELS).encode()), (200, [("X-Note", "\x85\xff")], body)]):
        image = asyncio.run(provider.generate_image("a fox", config=config))
    assert image.pil.size == (8, 8)
